"""The verb `truth`."""

import csv
import json

import numpy as np
from review.making import add_run

import napari_msunet as ms
from napari_msunet.cli import execute
from napari_msunet.geometry import Window


def test_suspects_and_confusion_as_csv(tmp_path, capsys):
    annotation = ms.LabelStore.create(tmp_path / "a.ome.zarr", (200, 200), 0.5, ("gland",), "annotation")
    annotation.write(Window(0, 0, 100, 200), 255)
    annotation.write(Window(20, 20, 40, 40), 1)
    labels = ms.LabelStore.create(tmp_path / "l.ome.zarr", (200, 200), 0.5, ("gland",))
    said = np.zeros((200, 200), np.uint8)
    said[20:60, 20:60] = 1
    said[40:80, 120:160] = 1
    planes = np.where(np.stack([said == 0, said == 1]), 0.8, 0.2).astype(np.float32)
    add_run(labels, "r", {"labels": said, "probabilities": planes})
    annotation.close()
    labels.close()
    before = annotation.path, labels.path
    out, matrix = tmp_path / "s.csv", tmp_path / "c.csv"
    given = ["truth", *map(str, before), "--out", str(out), "--confusion", str(matrix)]
    assert execute(given) == 0
    assert "agrees with 92.0 % of 20,000 pixels of truth" in capsys.readouterr().out
    (row,) = csv.DictReader(out.read_text(encoding="utf8").splitlines())
    assert (row["truth"], row["model"], row["y"], row["x"]) == ("background", "gland", "40", "120")
    assert abs(float(row["loss"]) + np.log(0.2)) < 1e-3
    counts = [int(r["pixels"]) for r in csv.DictReader(matrix.read_text(encoding="utf8").splitlines())]
    assert counts == [20_000 - 3200, 1600, 0, 1600]
    assert execute([*given, "--json", "--least", "1000"]) == 0
    assert json.loads(capsys.readouterr().out)["values"]["suspects"] == 0
    itself = ["truth", str(labels.path), str(labels.path), "--out", str(out), "--json"]
    assert execute(itself) == 0
    assert json.loads(capsys.readouterr().out)["values"]["pixels"] == 0  # nobody edited it
    assert execute([*itself, "--everything"]) == 0
    assert json.loads(capsys.readouterr().out)["values"]["pixels"] == 40_000
    assert execute(["truth", str(labels.path), str(annotation.path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert "shows no prediction" in error
    assert error.count("\n") == 1
