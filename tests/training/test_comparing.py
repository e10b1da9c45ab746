"""Runs side by side, and two people's labels."""

import csv
import json

import numpy as np
import pytest

from napari_msunet.cli import execute
from napari_msunet.errors import OutputError, StoreError
from napari_msunet.geometry import Region
from napari_msunet.labels import LabelStore
from napari_msunet.training.agreement import agreement, kappa
from napari_msunet.training.comparison.training_runs import compare


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
