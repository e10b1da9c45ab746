"""Experiments: the same folds and seeds for all variants, kept trials, rows for what cannot run, honest sentences."""

import csv
import json

import numpy as np
import pytest
from data.making import write_folder

from napari_msunet.config import AutoModel, ExperimentJob, FolderSource, TrainJob, UNetConfig
from napari_msunet.errors import OutputError
from napari_msunet.events import Message, Result
from napari_msunet.jobs.run import experiment
from napari_msunet.training.experiments import experiment_events, summarise

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    images, masks = write_folder(tmp_path_factory.mktemp("discs"), 6, (48, 48))
    return FolderSource(images=images, masks=masks, mpp=1.0)


def make(source, out, **options):
    model = AutoModel(classes=("disc",), mpp=1.0, branch=UNetConfig(depth=2, width=4))
    training = TrainJob(model=model, sources=(source,), out=out, batch_size=2, device="cpu")
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
