"""A run's folder: what it refuses, its metrics.csv and its curves."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_msunet._io import write_text
from napari_msunet.config import FolderSource, ModelConfig, TrainJob
from napari_msunet.config.training import METRICS
from napari_msunet.errors import OutputError
from napari_msunet.training.callbacks import ALL_CURVES, draw_curves
from napari_msunet.training.record import RunFolder, column, measured


def job(out: Path, **options) -> TrainJob:
    model = ModelConfig(classes=("a",), mpp=1.0, scales=(1.0, 0.5))
    source = FolderSource(images=Path("i"), masks=Path("m"))
    return TrainJob(**({"model": model, "out": out, "sources": (source,)} | options))


def row(epoch: int, value: float = 0.5) -> dict[str, float]:
    return {"epoch": epoch, "seconds": 1.5, "learning_rate": 1e-3, column("train", "loss", "fused"): value}


def test_metrics_are_appended_and_read_again(tmp_path: Path):
    folder = RunFolder(job(tmp_path / "run"))
    folder.begin(job(tmp_path / "run"))
    folder.add(row(1))
    folder.add(row(2, float("nan")))
    with folder.metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["epoch"] for r in rows] == ["1", "2"]
    assert rows[0]["train_loss_fused"] == "0.5"
    assert rows[1]["train_loss_fused"] == ""
    assert "validation_iou_scale 1/2" in rows[0]
    # Killed in the middle of a line: that epoch is gone, and so is one that is done again.
    with folder.metrics.open("a") as file:
        file.write("3,1.")
    again = RunFolder(job(tmp_path / "run", resume=True))
    again.add(row(2, 0.25))
    assert [r["epoch"] for r in again.rows] == [1, 2]
    assert folder.metrics.read_text().splitlines()[2].startswith("2,1.5,0.001,0.25")
    assert len(folder.metrics.read_text().splitlines()) == 3


def test_another_run_is_not_overwritten(tmp_path: Path):
    RunFolder(job(tmp_path / "run")).begin(job(tmp_path / "run"))
    with pytest.raises(OutputError, match=r"already holds.*resume"):
        RunFolder(job(tmp_path / "run"))


def test_resume_needs_the_same_job(tmp_path: Path):
    with pytest.raises(OutputError, match="no training run"):
        RunFolder(job(tmp_path / "run", resume=True))
    RunFolder(job(tmp_path / "run")).begin(job(tmp_path / "run"))
    RunFolder(job(tmp_path / "run", resume=True, epochs=7, time_limit=9, device="cpu"))
    with pytest.raises(OutputError, match="another size, seed"):
        RunFolder(job(tmp_path / "run", resume=True, seed=3, size=64))


def test_an_output_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        RunFolder(job(tmp_path / "file"))
    inside = job(tmp_path / "file" / "run")
    with pytest.raises(OutputError, match="cannot be made"):
        RunFolder(inside).begin(inside)
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "none" / "a.txt", "x")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_curves_show_what_is_there(tmp_path: Path):
    outputs = ("fused", "scale 1", "scale 1/2")
    rows = [
        {"epoch": e} | {column(s, n, o): 1 / (e + i) for s in ("train", "validation") for n in ("loss", "iou")
                        for i, o in enumerate(outputs)}
        for e in range(1, 9)
    ]  # fmt: skip
    draw_curves(rows, outputs, tmp_path / "full.png", best=4)
    draw_curves([], outputs, tmp_path / "empty.png")
    full, empty = (np.asarray(Image.open(tmp_path / f"{n}.png").convert("RGB"), int) for n in ("full", "empty"))
    blue = np.array([0x00, 0x72, 0xB2])
    assert full.shape == empty.shape
    drawn = [(np.abs(i[:500] - blue).sum(-1) < 30).sum() for i in (full, empty)]
    assert drawn[0] > 500
    assert drawn[1] < drawn[0] / 2


def test_curves_of_all_numbers_and_the_loss_that_ends_it(tmp_path: Path):
    outputs = ("fused", "scale 1", "scale 1/2")
    rows = [
        {"epoch": e, "memory_mb": 100.0 + e} | {column("validation", n, o): 1 / (e + i) for n in METRICS
                                                for i, o in enumerate(measured(outputs))}
        for e in range(1, 5)
    ]  # fmt: skip
    grey = np.array([0x8C, 0x8C, 0x8C])
    found = []
    for threshold in (None, 0.3):
        draw_curves(rows, outputs, tmp_path / "all.png", threshold=threshold, names=ALL_CURVES)
        found.append(np.asarray(Image.open(tmp_path / "all.png").convert("RGB"), int))
    assert found[0].shape[1] > 2 * found[0].shape[0]  # four panels in a row
    changed = (found[0] != found[1]).any(-1)[:480, :540]  # the panel of the loss
    assert (found[1][:480, :540][changed] @ [1, -1, 0] > 40).sum() > 50  # redder than green
    assert (np.abs(found[0][:-60] - grey).sum(-1) < 20).sum() > 500  # the mean of scales
