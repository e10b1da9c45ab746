"""A store, a run cut short, a model, a project and jobs that earlier code made go on with this one.

``tests/made_before`` was made with the code of 2026-11-28, before files and classes got the names they have now:
``labels.ome.zarr`` was predicted with ``model.safetensors`` on ``slide.png`` and edited; ``unfinished.ome.zarr`` is the
same prediction in small tiles, stopped after two of them; the process that wrote ``killed.ome.zarr`` was killed;
``training/run`` is a training of three epochs, begun in the folder ``training``.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import napari_msunet as ms
from napari_msunet.app.project import Project
from napari_msunet.inference.image import predict_image
from napari_msunet.jobs.run import parse_job
from napari_msunet.labels import LabelStore, open_labels

MADE = Path(__file__).parents[1] / "made_before"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A copy that may be written into."""
    return Path(shutil.copytree(MADE, tmp_path / "made_before"))


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """What the code before read from them."""
    with np.load(MADE / "expected.npz") as file:
        return dict(file)


def everything(store: LabelStore) -> ms.Region:
    return ms.Region(0, 0, *store.shape)


def test_a_store_is_read_undone_and_painted_on(before, expected):
    with open_labels(before / "labels.ome.zarr") as store:
        assert (store.read(everything(store)) == expected["labels"]).all()
        assert (np.asarray(store.edited) == expected["edited"]).all()
        store.redo()
        assert store.read(ms.Region(60, 60, 4, 4)).all()
        store.undo()
        store.undo()
        assert (store.read(ms.Region(30, 40, 5, 5)) == 1).all()
        store.write(ms.Region(0, 0, 3, 3), 1)
        assert (store.read(ms.Region(0, 0, 3, 3)) == 1).all()
    with open_labels(before / "annotation.ome.zarr") as store:
        assert (store.truth(everything(store)) == expected["truth"]).all()


def test_what_a_killed_process_painted_is_there(before):
    with open_labels(before / "killed.ome.zarr") as store:
        assert (store.read(ms.Region(5, 5, 20, 20)) == 1).all()
        assert (store.read(ms.Region(50, 50, 20, 20)) == 2).all()


def test_a_model_gives_the_same_and_is_known_again(before, expected):
    model = ms.load_model(before / "model.safetensors")
    assert model.fingerprint == (before / "fingerprint.txt").read_text().strip()
    maps = predict_image(model, ms.open_slide(before / "slide.png", mpp=0.5), device="cpu")
    found = np.moveaxis(maps["fused"], 0, -1)
    assert np.abs(found.astype(np.float16).astype(float) - expected["probabilities"].astype(float)).max() < 2e-3


def test_a_finished_prediction_is_not_computed_again_and_edits_stay(before, expected):
    runs = {path: path.stat().st_mtime_ns for path in (before / "labels.ome.zarr" / "runs").rglob("c/*/*")}
    assert runs
    slide, model = ms.open_slide(before / "slide.png", mpp=0.5), ms.load_model(before / "model.safetensors")
    with ms.predict(
        slide, model, out=before / "labels.ome.zarr", outputs=("labels", "probabilities"), device="cpu"
    ) as store:
        assert (store.read(everything(store)) == expected["labels"]).all()
    assert {path: path.stat().st_mtime_ns for path in runs} == runs


def test_a_prediction_that_was_stopped_goes_on(before, expected):
    slide, model = ms.open_slide(before / "slide.png", mpp=0.5), ms.load_model(before / "model.safetensors")
    kept = {p: p.read_bytes() for p in (before / "unfinished.ome.zarr" / "runs").glob("*/run.json")}
    options = {"outputs": ("labels", "probabilities"), "device": "cpu", "tile": 32}
    with ms.predict(slide, model, out=before / "unfinished.ome.zarr", **options) as store:
        found = np.asarray(store.probabilities).astype(float)
        assert [run.path for run in store.runs] == [path.parent for path in kept]  # the same run, not a new one
    assert np.abs(found - expected["probabilities"].astype(float)).max() < 2e-3


def written_part(again, written):
    """Of what was read, the fields that were written; newer ones have their defaults."""
    if isinstance(written, dict):
        return {name: written_part(again[name], value) for name, value in written.items()}
    if isinstance(written, list):
        assert len(again) == len(written)
        return [written_part(one, other) for one, other in zip(again, written, strict=True)]
    return again


def test_jobs_are_read_as_they_were_written():
    for written in json.loads((MADE / "jobs.json").read_text()):
        again = json.loads(parse_job(json.dumps(written)).model_dump_json())
        assert written_part(again, written) == written


def test_a_project_opens_and_finds_its_slide(before):
    project = Project.open(before / "case.msunet")
    (slide,) = project.note.slides
    assert project.find(slide.path) == (before / "slide.png").resolve()
    assert slide.annotation is not None
    with open_labels(project.find(slide.annotation)) as store:
        assert store.classes == ("cell",)
        assert (np.asarray(store.levels[0]) == 1).any()


def test_a_training_goes_on_with_what_it_knew(before, monkeypatch):
    monkeypatch.chdir(before / "training")
    job = parse_job(Path("run/job.json").read_text())
    rows = Path("run/metrics.csv").read_text().splitlines()
    best = json.loads(Path("run/result.json").read_text())
    ms.train(job.model_copy(update={"epochs": 4, "resume": True}))
    result = json.loads(Path("run/result.json").read_text())
    again = Path("run/metrics.csv").read_text().splitlines()
    assert again[: len(rows)] == rows
    assert len(again) == len(rows) + 1
    assert result["epochs"] == 4
    assert result["steps"] == best["steps"] + 2
    assert result["best_epoch"] in (best["best_epoch"], 4)
    if result["best_epoch"] == best["best_epoch"]:  # it knew which epoch was the best
        assert result["validation"] == best["validation"]
