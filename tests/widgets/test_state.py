"""The dock's state without a window: what is missing, in words, and the jobs it makes."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run

import pytest

import napari_msunet as ms
from napari_msunet.app.project import Project
from napari_msunet.config import ExportJob, FolderSource, PredictJob, SlideSource, TrainJob
from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.project_sync import recall, remember
from napari_msunet.widgets.dock.python_lines import job_lines
from napari_msunet.widgets.state import (
    PRESETS,
    PredictChoices,
    SlideRecord,
    State,
    TrainChoices,
    changed,
    suggested_mpp,
)


@pytest.fixture
def state(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"slide")
    state = State()
    state.add_slide(SlideRecord(tmp_path / "a.svs", (3000, 2000), mpp=(0.25, 0.25)))
    return state


def annotated(state, counts):
    record = state.active
    record.annotation = state.make_project().annotation_path("a")
    record.annotation.mkdir()
    state.set_counts(record, counts, 0)
    return record


def test_it_says_step_by_step_what_is_missing(state, tmp_path):
    empty = State()
    assert resolve.next_step(empty) == "slide"
    assert "Choose a slide" in resolve.advice(empty)
    assert resolve.next_step(state) == "annotate"
    assert "Start annotating" in resolve.advice(state)
    state.set_classes(("nucleus", "stroma"))
    record = annotated(state, {1: 10})
    assert (
        resolve.advice(state)
        == "Paint a few strokes of each class and of background: stroma and background have none yet."
    )
    state.set_counts(record, {1: 10, 2: 3, ANNOTATED_BACKGROUND: 1}, 0)
    assert resolve.missing(state, "train") is None
    assert resolve.next_step(state) == "train"  # the model is chosen from the images unless the person chooses one
    assert resolve.missing(state, "predict") == "Train a model first, or load a model file in the Model step."
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"")
    state.use_model(model)
    assert resolve.next_step(state) == "predict"
    assert "no labels yet" in resolve.missing(state, "export")
    model.unlink()
    assert "no longer there" in resolve.missing(state, "predict")


def test_a_review_that_was_begun_comes_next(state, tmp_path):
    model, labels = tmp_path / "model.safetensors", tmp_path / "labels.ome.zarr"
    model.touch()
    labels.mkdir()
    state.use_model(model)
    state.active.labels = labels
    state.predicted.add(labels)
    state.corrected = True
    assert (resolve.next_step(state), resolve.advice(state)) == ("export", "Export the labels or measure them.")
    state.set_to_review(labels, 3)
    assert resolve.next_step(state) == "review"
    assert resolve.advice(state).startswith("Go on with the review: 3 places are left.")
    state.set_to_review(labels, 1)
    assert "1 place is left" in resolve.advice(state)
    state.set_to_review(tmp_path / "of another slide.ome.zarr", 3)
    assert resolve.next_step(state) == "export"
    state.set_to_review(labels, 0)
    assert resolve.next_step(state) == "export"


def test_a_marked_region_is_background_enough(state):
    record = annotated(state, {1: 10})
    assert "background has none yet" in resolve.missing(state, "train")
    state.set_counts(record, {1: 10}, 1)
    assert resolve.missing(state, "train") is None


def test_a_slide_that_vanished_or_has_no_size_is_said(state, tmp_path):
    annotated(state, {1: 1, ANNOTATED_BACKGROUND: 1})
    state.active.mpp = None
    assert "how many µm a pixel has" in resolve.missing(state, "train")
    state.active.mpp = (0.5, 0.5)
    state.active.path.unlink()
    assert "no longer there" in resolve.missing(state, "train")
    with pytest.raises(MsunetError, match="no longer there"):
        resolve.train_job(state)


def test_jobs_are_what_was_decided(state, tmp_path):
    record = annotated(state, {1: 1, ANNOTATED_BACKGROUND: 1})
    record.mpp_given, record.role = True, "train"
    state.set_sets([FolderSource(images=tmp_path, masks=tmp_path, mask_suffix="_m", role="test")])
    state.set_train_options(TrainChoices(epochs=3, batch_size=2))
    job = resolve.train_job(state)
    assert isinstance(job, TrainJob)
    assert (job.epochs, job.batch_size, job.model.classes) == (3, 2, state.classes)
    assert job.sources[0] == SlideSource(slide=record.path, labels=record.annotation, mpp=(0.25, 0.25), role="train")
    assert job.sources[1].role == "test"
    assert job.out.parent == state.project.folder / "runs"
    assert resolve.train_job(state, out=tmp_path / "x", resume=True).resume

    model = tmp_path / "m.safetensors"
    model.write_bytes(b"")
    state.use_model(model)
    state.set_predict_options(PredictChoices(margin="fast"))
    predict = resolve.predict_job(state, region=Region(1, 2, 30, 40))
    assert isinstance(predict, PredictJob)
    assert (predict.margin, predict.region, predict.slide_mpp) == ("fast", (1, 2, 30, 40), (0.25, 0.25))
    assert predict.out.parent.name == "predictions"
    assert resolve.evaluate_job(state).sources == (state.sets[0],)

    record.labels = predict.out
    predict.out.mkdir()
    assert resolve.export_job(state, tmp_path / "x.geojson") == ExportJob(
        labels=predict.out, out=tmp_path / "x.geojson"
    )
    record.corrections = True
    assert resolve.sources(state)[1].edited_only


def test_a_first_slide_suggests_the_resolution_until_one_is_chosen(state, tmp_path):
    assert state.model.mpp == 0.5
    state.set_model(state.model.model_copy(update={"mpp": 2.0}))
    state.add_slide(SlideRecord(tmp_path / "b.svs", (10, 10), channels=1, mpp=(1.0, 1.0)))
    assert state.model.mpp == 2.0
    assert [suggested_mpp(v) for v in (0.1, 0.2428, 0.499, 3.0)] == [0.8, 0.486, 0.499, 3.0]


def test_the_published_preset_sets_the_training_and_another_takes_it_back():
    published = next(preset for preset in PRESETS if preset.training)
    before = TrainChoices(epochs=7)
    options = published.trained(before)
    assert (options.loss.branch, options.loss.terms, options.optimiser.kind) == ("off", {"bce": 1.0}, "adam")
    assert options.epochs == 7
    assert PRESETS[0].trained(options) == before
    own = changed(options, optimiser=options.optimiser.model_copy(update={"learning_rate": 0.5}))
    assert PRESETS[0].trained(own).optimiser == own.optimiser  # a person's own choice stays
    assert published.make(("a",), None).input_ratios == (0.5, 1, 1)


def test_presets_know_themselves_and_differ():
    made = [preset.make(("a",), 0.7) for preset in PRESETS]
    for preset, config in zip(PRESETS, made, strict=True):
        assert [preset.fits(other) for other in made] == [other == config for other in made]


def test_a_project_gives_everything_back(state, tmp_path):
    from PIL import Image

    picture = tmp_path / "p.png"
    Image.new("RGB", (64, 48), "white").save(picture)
    state.slides.clear()
    state.add_slide(SlideRecord(picture, (48, 64), mpp=(0.5, 0.5), mpp_given=True, role="test"))
    record = annotated(state, {1: 1})
    state.set_classes(("x", "y"))
    state.set_model(state.model.model_copy(update={"mpp": 3.0}))
    state.set_train_options(TrainChoices(epochs=7))
    state.set_sets([FolderSource(images="a", masks="b")])
    model = tmp_path / "other.safetensors"
    model.touch()
    state.set_ensemble((model, tmp_path / "gone.safetensors"))
    remember(state)

    other = State()
    assert recall(other, Project.open(state.project.folder)) == []
    assert (other.classes, other.sets, other.train_options.epochs) == (("x", "y"), state.sets, 7)
    assert other.model == state.model
    assert other.ensemble == (model,)
    found = other.active
    assert (found.path, found.mpp, found.role, found.annotation) == (picture, (0.5, 0.5), "test", record.annotation)

    picture.unlink()
    assert "not where it was" in recall(State(), Project.open(state.project.folder))[0]


def test_a_job_as_python_is_the_job(state, tmp_path):
    annotated(state, {1: 1, ANNOTATED_BACKGROUND: 1})
    job = resolve.train_job(state)
    text = job_lines(job)
    assert text.startswith("import napari_msunet as ms\n")
    names: dict = {}
    exec(text.split("result = ")[0], names)
    assert names["job"] == job


def test_state_and_forms_load_no_torch():
    code = "import sys, napari_msunet.widgets.dock.dock; print([m for m in ('torch', 'lightning') if m in sys.modules])"
    assert run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_search_as_python_is_the_same_search():
    source = ms.FolderSource(images=Path("a"), masks=Path("b"), mpp=1.0)
    training = ms.TrainJob(model=ms.AutoModel(classes=("x",)), sources=(source,), out=Path("o"))
    space = {"model.scales": [[1], [1, 0.5]], "optimiser.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
    job = ms.TuneJob(training=training, space=space, sampler="gp", out=Path("s"))
    names: dict[str, object] = {}
    text = job_lines(job)
    assert text.endswith("result = ms.tune(job, on_event=print)\n")
    exec(text.replace("result = ms.tune(job, on_event=print)", ""), names)
    assert names["job"] == job
