"""Experiments: the same folds and seeds for all variants, kept trials, rows for what cannot run, honest sentences."""

import csv
import json

import numpy as np
import pytest
from data.making import write_folder

from napari_msunet.config import AutoModel, ContextJob, ExperimentJob, FolderSource, TrainJob, UNetConfig
from napari_msunet.errors import OutputError, SourceError, StoreLockedError
from napari_msunet.events import Message, Result
from napari_msunet.jobs.run import context_study, experiment
from napari_msunet.training.comparison.experiment_page import _outlined
from napari_msunet.training.experiments import experiment_events, reason_of_failure, summarise

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    images, masks = write_folder(tmp_path_factory.mktemp("discs"), 6, (48, 48))
    return FolderSource(images=images, masks=masks, mpp=1.0)


def make(source, out, **options):
    model = AutoModel(classes=("disc",), mpp=1.0, branch=UNetConfig(depth=2, width=4))
    training = TrainJob(model=model, sources=(source,), out=out, batch_size=2, steps=2, device="cpu")
    values = {
        "training": training,
        "variants": {"plain": {}, "fast": {"optimiser.learning_rate": 0.01}, "wrong": {"model.channels": 1}},
        "folds": 2,
        "seconds": 0.5,
        "threads": 1,
        "out": out,
    }
    return ExperimentJob(**values | options)


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("experiment") / "one"
    job = make(source, out)
    return job, experiment(job)


def test_every_variant_is_scored_on_every_image(finished):
    job, result = finished
    rows = [json.loads(p.read_bytes()) for p in sorted(job.out.glob("trials/*/trial.json"))]
    assert len(rows) == 6
    for name in ("plain", "fast"):
        own = [row for row in rows if row["variant"] == name]
        assert sorted(group for row in own for group in row["groups"]) == [f"name{n}" for n in range(6)]
        assert all(row["steps"] >= 1 for row in own)
        assert all(sum(map(sum, next(iter(row["groups"].values()))["fused"])) == 48 * 48 for row in own)
    assert set(result.report["variants"]) == {"plain", "fast", "wrong"}
    assert result.report["differences"]["fast"]["groups"] == 6
    low, high = result.report["differences"]["fast"]["interval"]
    assert low <= result.report["differences"]["fast"]["dice"] <= high


def test_held_out_images_never_train(finished):
    job, _ = finished
    for folder in (job.out / "trials").glob("plain-*"):
        split = json.loads((folder / "result.json").read_bytes())["split"]
        held = set(json.loads((folder / "trial.json").read_bytes())["groups"])
        assert held == set(split["validate"])
        assert not held & set(split["train"])


def test_what_cannot_be_trained_is_a_row_with_its_sentence(finished):
    job, result = finished
    assert result.report["variants"]["wrong"]["trials"] == 0
    assert "channels" in result.report["variants"]["wrong"]["error"]
    with (job.out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["error"] != "" for row in rows] == [row["variant"] == "wrong" for row in rows]
    assert "| wrong | 0 |" in (job.out / "report.md").read_text()


def test_the_page_has_every_score_and_the_pictures(finished):
    """Every score has its interval and its paired difference, and the page shows curves and outlines."""
    job, result = finished
    scores = result.report["scores"]
    assert set(scores) == {"plain", "fast"}
    for score in ("dice", "iou", "precision", "recall", "accuracy"):
        low, high = scores["fast"][score]["interval"]
        assert low <= high
        assert len(scores["fast"][score]["difference_interval"]) == 2
        assert "difference" not in scores["plain"][score]
    found = result.report["differences"]["fast"]
    assert scores["fast"]["dice"]["difference"] == pytest.approx(found["dice"])
    assert scores["fast"]["dice"]["difference_interval"] == pytest.approx(found["interval"], abs=0.03)
    page = (job.out / "report.md").read_text()
    assert page.startswith("Compared with plain: fast")
    for name in ("bars", "curves", "images"):
        assert f"({name}.png)" in page
        assert (job.out / f"{name}.png").stat().st_size > 2000
    assert "| fast | " in page.partition("paired by group")[2]


def test_the_small_pictures_show_the_outlines_of_truth_and_prediction():
    image = np.full((40, 60, 3), 200, np.uint8)
    truth, predicted = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    truth[10:30, 10:30] = 1
    predicted[10:30, 30:50] = 1
    plain, first, second = np.split(_outlined(("", image, truth, predicted)), 3, axis=1)
    assert (plain[:, :200] == 200).all()
    changed = [np.flatnonzero((picture[:, :200] != 200).any((0, 2))) for picture in (first, second)]
    assert changed[0].max() < 110 < changed[1].max()
    assert not (first[60:70, 60:70] != 200).any()  # the inside stays visible


def test_images_of_one_group_are_refused_before_anything_is_trained(tmp_path):
    images, masks = write_folder(tmp_path / "one", 3, (48, 48))
    (tmp_path / "table.csv").write_text("name,patient\n" + "".join(f"name{n},same\n" for n in range(3)))
    source = FolderSource(images=images, masks=masks, mpp=1.0, table=tmp_path / "table.csv", group="patient")
    with pytest.raises(SourceError, match="one group same, which cannot be cut into 2 folds"):
        list(experiment_events(make(source, tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    study = ContextJob(training=make(source, tmp_path / "x").training, seconds=1, folds=2, out=tmp_path / "study")
    with pytest.raises(SourceError, match="one group same"):
        context_study(study)
    assert not (tmp_path / "study").exists()


def test_two_processes_do_not_run_one_experiment(source, tmp_path):
    job = make(source, tmp_path / "twice", variants={"plain": {}}, only_folds=(1,))
    events = experiment_events(job)
    next(events)
    with pytest.raises(StoreLockedError, match="is being written by"):
        list(experiment_events(job.model_copy(update={"resume": True})))
    events.close()
    assert experiment(job.model_copy(update={"resume": True})).report["variants"]["plain"]["trials"] == 1


def test_a_variant_that_runs_out_of_memory_is_a_row_and_the_rest_goes_on(source, tmp_path):
    variants = {"plain": {}, "huge": {"size": 4096, "batch_size": 4096}}
    result = experiment(make(source, tmp_path / "memory", variants=variants, only_folds=(1,)))
    assert "memory" in result.report["variants"]["huge"]["error"]
    assert result.report["variants"]["plain"]["trials"] == 1
    assert reason_of_failure(RuntimeError("DefaultCPUAllocator: can't allocate memory")).startswith("There is not")


def test_a_full_disk_ends_it_and_no_row_is_written(source, tmp_path, monkeypatch):
    job = make(source, tmp_path / "full", variants={"plain": {}}, only_folds=(1,))

    def full(*_, **__):
        raise OutputError("There is no space left on the disk.")
        yield

    monkeypatch.setattr("napari_msunet.training.experiments.train_events", full)
    with pytest.raises(OutputError, match="no space"):
        list(experiment_events(job))
    assert not list(job.out.rglob("trial.json"))
    monkeypatch.undo()
    result = experiment(job.model_copy(update={"resume": True}))
    assert result.report["variants"]["plain"]["trials"] == 1


def test_it_goes_on_where_it_was_stopped(source, tmp_path):
    job = make(source, tmp_path / "stopped", variants={"plain": {}, "fast": {"optimiser.learning_rate": 0.01}})
    events = experiment_events(job)
    for event in events:
        if isinstance(event, Message) and event.text.startswith("fast"):
            break
    events.close()
    first = job.out / "trials" / "plain-fold1-seed0" / "trial.json"
    before = first.stat().st_mtime_ns
    with pytest.raises(OutputError, match="already holds an experiment"):
        next(experiment_events(job))
    with pytest.raises(OutputError, match="another seconds"):
        next(experiment_events(job.model_copy(update={"resume": True, "seconds": 9.0})))
    result = experiment(job.model_copy(update={"resume": True}))
    assert first.stat().st_mtime_ns == before
    assert result.report["variants"]["fast"]["trials"] == 2


def test_other_programs_are_rows_too(source, tmp_path):
    seen = []

    def peer(training, items, seconds):
        seen.append(sorted(item.name for item in items))
        return lambda item: np.ones(item.truth.grid.shape, np.uint8), 7

    job = make(source, tmp_path / "peers", variants={"plain": {}}, only_folds=(1,))
    *_, last = experiment_events(job, {"all disc": peer})
    assert isinstance(last, Result)
    assert len(seen[0]) == 3
    assert last.values["variants"]["all disc"]["steps"] == 7
    assert 0 < last.values["variants"]["all disc"]["dice"] < 0.6


def test_variants_are_checked_when_the_experiment_is_made(source, tmp_path):
    with pytest.raises(ValueError, match="which a training does not have"):
        make(source, tmp_path, variants={"typo": {"optimizer.learning_rate": 0.1}})
    with pytest.raises(ValueError, match="greater than 0"):
        make(source, tmp_path, variants={"bad": {"optimiser.learning_rate": -1}})
    with pytest.raises(ValueError, match="no fold 3"):
        make(source, tmp_path, only_folds=(3,))


def row(variant, seed, right):
    """A trial on four groups, with so many of a hundred pixels of each right."""
    groups = {f"g{n}": {"fused": [[100, 0], [100 - r, r]]} for n, r in enumerate(right)}
    return {"variant": variant, "fold": 1, "seed": seed, "steps": 1, "processor_seconds": 1.0, "groups": groups}


def test_differences_are_paired_by_group():
    """Groups differ far more than variants do, and yet the difference is sure."""
    rows = [row("a", 0, [20, 40, 60, 80]), row("b", 0, [25, 45, 65, 85])]
    report = summarise(rows, ["a", "b"])
    low, high = report["differences"]["b"]["interval"]
    assert 0 < low < high < 0.1
    a, b = (report["variants"][name]["interval"] for name in "ab")
    assert a[1] > b[0]  # unpaired, the intervals overlap


def test_training_scale_by_test_scale(source, tmp_path):
    """At the scale of its training a variant scores as on the held-out images themselves; other scales differ."""
    variants = {"whole": {"model.mpp": 1.0}, "half": {"model.mpp": 2.0}}
    job = make(source, tmp_path / "scales", variants=variants, only_folds=(1,), test_scales=(0.5, 1.0, 2.0), seconds=2)
    result = experiment(job)
    matrix = result.report["scales"]
    assert matrix["train"] == ["whole", "half"]
    assert matrix["test"] == [0.5, 1.0, 2.0]
    own = result.report["variants"]
    assert matrix["dice"][0][1] == pytest.approx(own["whole"]["dice"], abs=1e-6)
    assert matrix["dice"][1][0] == pytest.approx(own["half"]["dice"], abs=1e-6)
    assert len({round(value, 6) for value in matrix["dice"][0]}) > 1
    assert "| half | " in (job.out / "report.md").read_text().partition("tested at 50%")[2]
    assert result.files["scales"].stat().st_size > 1000


def test_variants_with_sources_of_their_own_are_scored_on_the_same_test_images(source, tmp_path):
    """As for learning from fewer images: roles decide what is held out."""
    few, _ = write_folder(tmp_path / "few", 2, (40, 56))
    fewer = source.model_copy(update={"images": few, "masks": few.parent / "masks", "role": "train"})
    test = source.model_copy(update={"role": "test"})
    training = make(source, tmp_path).training.model_copy(update={"sources": (fewer, test)})
    one = {"sources": [fewer.model_dump(mode="json"), test.model_dump(mode="json")]}
    job = make(source, tmp_path / "out", training=training, variants={"all": {}, "few": one}, folds=None)
    report = experiment(job).report
    assert report["differences"]["few"]["groups"] == 6
