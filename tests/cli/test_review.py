"""The verb `review`."""

import csv
import json

import numpy as np
from review.making import add_run, hot, make_store

from napari_msunet.cli import execute


def test_places_as_csv(tmp_path, capsys):
    shape = (1024, 768)
    with make_store(tmp_path, shape) as store:
        scores = hot(shape, {(1, 2): 0.5})
        add_run(store, "r", {"labels": np.ones(shape, np.uint8), "disagreement": scores})
    out = tmp_path / "places.csv"
    assert execute(["review", str(store.path), "--out", str(out), "--limit", "3"]) == 0
    assert "Wrote 3 places" in capsys.readouterr().out
    rows = list(csv.DictReader(out.read_text(encoding="utf8").splitlines()))
    assert len(rows) == 3
    assert (rows[0]["y"], rows[0]["x"]) == ("256", "512")
    assert execute(["review", str(store.path), "--out", str(out), "--by", "distance", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"] == {
        "reviewed": 0,
        "total": 12,
        "share": 0.0,
        "skipped": 0,
        "places": 12,
    }
    assert execute(["review", str(store.path), "--out", str(out), "--by", "entropy"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: No prediction that")
    assert error.count("\n") == 1
