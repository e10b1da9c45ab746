"""Runs side by side, and two people's labels."""

import csv
import json

import numpy as np
import pytest
from data.making import write_folder

import napari_msunet as ms
from napari_msunet.cli import execute
from napari_msunet.config import CrossValidateJob
from napari_msunet.errors import OutputError, StoreError
from napari_msunet.geometry import Region
from napari_msunet.jobs.run import cross_validate
from napari_msunet.labels import LabelStore
from napari_msunet.training.agreement import agreement, kappa
from napari_msunet.training.comparison.side_by_side import compare, read_results


def run_folder(path, fusion, iou, result=True):
    path.mkdir(parents=True)
    (path / "job.json").write_text(
        json.dumps({"job": "train", "out": str(path), "model": {"fusion": fusion, "mpp": 1}})
    )
    lines = ["epoch,seconds,learning_rate,validation_loss_fused,validation_iou_fused"]
    lines += [f"{n},{2.5},0.001,{1 / n},{iou * n / 4}" for n in (1, 2, 3, 4)] + ["5,2.5,0.001,0.3,"]
    (path / "metrics.csv").write_text("\n".join(lines))
    if result:
        (path / "result.json").write_text(json.dumps({"best_epoch": 3, "parameters": 123, "stopped": "epochs"}))
    return path


def test_runs_side_by_side(tmp_path):
    runs = [
        run_folder(tmp_path / "a" / "run", "mean", 0.4),
        run_folder(tmp_path / "b" / "run", "max", 0.8, result=False),
    ]
    rows = compare(runs, tmp_path / "out")
    assert [row["run"] for row in rows] == ["a/run", "b/run"]
    assert [row["model.fusion"] for row in rows] == ["mean", "max"]
    assert "model.mpp" not in rows[0]
    assert rows[0]["best_epoch"] == 3
    assert rows[0]["validation_iou_fused"] == pytest.approx(0.3)
    assert rows[1]["best_epoch"] == 4  # it still runs: the best so far
    assert rows[1]["validation_iou_fused"] == pytest.approx(0.8)
    assert rows[0]["seconds"] == 12.5
    with (tmp_path / "out" / "compare.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [r["parameters"] for r in table] == ["123", ""]
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputError, match=r"job\.json"):
        compare([*runs, tmp_path / "empty"])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A cross-validation, an experiment of two variants, and an evaluation, all on the same images of discs."""
    place = tmp_path_factory.mktemp("results")
    images, masks = write_folder(place / "discs", 6, (48, 48))
    source = ms.FolderSource(images=images, masks=masks, mpp=1.0)
    config = ms.ModelConfig(
        classes=("disc",), mpp=1.0, scales=(1.0,), fusion="mean", branch=ms.UNetConfig(depth=2, width=4)
    )
    options = {"size": 32, "batch_size": 2, "steps": 2, "epochs": 1, "device": "cpu"}
    training = ms.TrainJob(model=config, sources=(source,), out=place / "unused", **options)
    cross_validate(CrossValidateJob(training=training, folds=2, out=place / "crossval"))
    variants = {"plain": {}, "fast": {"optimiser.learning_rate": 0.02}}
    again = training.model_copy(update={"epochs": None})
    ms.experiment(
        ms.ExperimentJob(training=again, variants=variants, folds=2, seconds=0.5, threads=1, out=place / "experiment")
    )
    model = place / "crossval" / "fold1" / "model.safetensors"
    ms.evaluate(ms.EvaluateJob(model=model, sources=(source,), out=place / "evaluation", device="cpu"))
    return place


def test_experiments_cross_validations_and_evaluations_side_by_side(results, tmp_path):
    places = [results / name for name in ("experiment", "crossval", "evaluation", "crossval/fold2")]
    rows = ms.compare(places, tmp_path / "out")
    kinds = ["experiment", "experiment", "cross-validation", "evaluation", "training"]
    assert [row["kind"] for row in rows] == kinds
    assert [row["run"] for row in rows[:3]] == ["experiment: plain", "experiment: fast", "crossval"]
    assert all(0 <= row["dice"] <= 1 for row in rows[:4])
    assert "difference" not in rows[0]
    assert [row["images"] for row in rows[1:4]] == [6, 6, 6]
    assert "difference" not in rows[4]  # which says nothing of single images
    report = json.loads((results / "experiment" / "report.json").read_bytes())
    assert rows[1]["dice"] == report["variants"]["fast"]["dice"]
    low, high = rows[1]["difference_interval"]
    assert low <= rows[1]["difference"] <= high
    assert [row["optimiser.learning_rate"] for row in rows[:2]] == [0.003, 0.02]
    assert rows[3]["optimiser.learning_rate"] is None
    for name in ("compare.csv", "bars.png", "compare.png"):
        assert (tmp_path / "out" / name).stat().st_size > 100


def test_the_differences_are_those_of_the_images(results):
    """An evaluation against itself does not differ, and against another one by the mean over their images."""
    place = results / "evaluation"
    assert ms.compare([place, place])[1]["difference"] == 0
    one, other = read_results(results / "crossval")[0], read_results(place)[0]
    expected = np.mean([other.images[name].dice - one.images[name].dice for name in one.images])
    assert ms.compare([results / "crossval", place])[1]["difference"] == pytest.approx(expected)


def test_folders_that_cannot_be_compared_are_one_sentence(results, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "crossval.json").write_text("{}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.json").write_text("[]")
    for place, sentence in (
        ("empty", "is no training run, experiment, cross-validation or evaluation"),
        ("begun", "has no result yet"),
        ("other", "cannot be read"),
    ):
        with pytest.raises(OutputError, match=sentence):
            ms.compare([results / "evaluation", tmp_path / place])
    with pytest.raises(OutputError, match="nothing to compare"):
        ms.compare([])


def test_the_verbs(tmp_path, capsys):
    runs = [run_folder(tmp_path / name, "mean", 0.4) for name in ("one", "two")]
    assert execute(["compare", *map(str, runs)]) == 0
    text = capsys.readouterr().out
    assert "validation_iou_fused" in text
    assert "two" in text
    values = np.zeros((40, 50), np.uint8)
    values[10:30, 10:30] = 1
    stores = [store_of(tmp_path / f"{n}.ome.zarr", values, ("a",)) for n in range(2)]
    for store in stores:
        store.close()
    assert execute(["agree", str(stores[0].path), str(stores[1].path), "--out", str(tmp_path / "agree.json")]) == 0
    assert "kappa 1.000" in capsys.readouterr().out
    assert json.loads((tmp_path / "agree.json").read_text())["dice"] == 1


def store_of(path, values, classes, kind="labels"):
    store = LabelStore.create(path, shape=values.shape, mpp=0.5, classes=classes, kind=kind)
    store.write(Region(0, 0, *values.shape), values)
    return store


def test_two_people(tmp_path):
    rng = np.random.default_rng(0)
    a = np.zeros((300, 400), np.uint8)
    a[50:150, 60:200], a[200:280, 250:390] = 1, 2
    b = np.roll(a, 9, 1)
    b[(rng.random(b.shape) < 0.02) & (b == 2)] = 0
    swapped = np.array([0, 2, 1], np.uint8)[b]
    with (
        store_of(tmp_path / "a.ome.zarr", a, ("x", "y")) as one,
        store_of(tmp_path / "b.ome.zarr", swapped, ("y", "x")) as other,
    ):
        found = agreement(one, other)
        back = agreement(other, one)
        part = agreement(one, other, Region(0, 0, 160, 400))
    expected = 2 * ((a == 1) & (b == 1)).sum() / ((a == 1).sum() + (b == 1).sum())
    assert found["classes"]["x"]["dice"] == pytest.approx(expected)
    assert back["classes"]["x"]["dice"] == pytest.approx(expected)
    assert back["kappa"] == pytest.approx(found["kappa"])
    assert found["kappa"] == pytest.approx(by_hand(a, b))
    assert found["outlines"]["x"]["hausdorff95"] == pytest.approx(4.5, abs=0.6)  # 9 pixels of 0.5 µm
    assert found["pixels"] == a.size
    assert part["pixels"] == 160 * 400
    assert part["classes"]["y"]["dice"] is None


def by_hand(a, b):
    agreed = (a == b).mean()
    chance = sum((a == n).mean() * (b == n).mean() for n in range(3))
    return (agreed - chance) / (1 - chance)


def test_what_an_annotation_leaves_open_does_not_count(tmp_path):
    a, b = np.zeros((60, 60), np.uint8), np.zeros((60, 60), np.uint8)
    a[:20], a[20:30] = 1, 255
    b[:25] = 1
    with (
        store_of(tmp_path / "a.ome.zarr", a, ("x",), "annotation") as one,
        store_of(tmp_path / "b.ome.zarr", b, ("x",)) as other,
    ):
        found = agreement(one, other)
    assert found["pixels"] == 30 * 60
    assert found["confusion"] == [[5 * 60, 5 * 60], [0, 20 * 60]]
    with store_of(tmp_path / "c.ome.zarr", b, ("z",)) as third, pytest.raises(StoreError, match="no class in common"):
        agreement(one, third)
    with store_of(tmp_path / "d.ome.zarr", b[:30], ("x",)) as small, pytest.raises(StoreError, match="same slide"):
        agreement(other, small)


def test_kappa_by_hand():
    assert kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    assert kappa(np.array([[7, 0], [0, 0]])) is None
    assert kappa(np.zeros((2, 2), int)) is None
