"""Stores of objects: numbers that are never given twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from labels.killed import left_behind

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, open_labels, session

SHAPE = (1301, 700)


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    made = LabelStore.create(tmp_path / "labels.ome.zarr", SHAPE, 0.5, dtype="uint32")
    yield made
    made.close()


def test_each_number_is_another_one(store: LabelStore) -> None:
    assert [store.next_id() for _ in range(3)] == [1, 2, 3]
    store.write(Region(0, 0, 2, 2), np.array([[7, 8], [900_000, 2]]))
    assert store.next_id() == 900_001
    store.undo()
    assert store.next_id() == 900_002  # redo may bring the others back
    store.write(Region(0, 0, 2, 2), 900_002)
    store.close()
    with open_labels(store.path) as again:
        assert again.next_id() == 900_003
        run = again.create_run("run", {}, (), {"labels": "uint32"})
        with run.writing():
            run.write(Window(0, 0, *SHAPE), {"labels": np.full(SHAPE, 2_000_000, np.uint32)})
            run.finish(0, Window(0, 0, *SHAPE))
        again.merge(run)
        assert again.next_id() == 2_000_001


@pytest.mark.parametrize("flushed", [False, True])
def test_numbers_survive_a_kill(store: LabelStore, flushed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SYNC_SECONDS", 60)
    number = store.next_id()
    store.write(Region(0, 0, 5, 5), number)
    store.write(Region(0, 0, 5, 5), number + 10)
    store.undo()
    store.write(Region(0, 0, 5, 5), 0)  # no pixel has it any more
    if flushed:
        store.flush()
    copy = left_behind(store, "killed.ome.zarr")
    with open_labels(copy) as again:
        assert again.next_id() == number + 11


def test_a_store_that_kept_no_count_is_counted(store: LabelStore) -> None:
    store.write(Region(900, 600, 5, 5), 12345)
    store.close()
    path = store.path / "checkpoint.json"
    checkpoint = json.loads(path.read_text())
    assert checkpoint.pop("highest") == 12345
    path.write_text(json.dumps(checkpoint))
    with open_labels(store.path) as again:
        again.write(Region(0, 0, 2, 2), 7)
        assert again.next_id() == 12346
    assert json.loads(path.read_text())["highest"] == 12345


def test_what_is_no_number_of_an_object(store: LabelStore, tmp_path: Path) -> None:
    for values, says in (
        (2**32, "4294967296 is no number of an object: they go from 0 to 4294967295"),
        (-1, "no number of an object"),
        (np.full((2, 2), 2**40), "no number of an object"),
        (1.0, "whole numbers; got float64"),
        (np.ones((2, 2), np.float32), "whole numbers; got float32"),
    ):
        with pytest.raises(StoreError, match=says):
            store.write(Region(0, 0, 2, 2), values)
    store.write(Region(0, 0, 2, 2), 2**32 - 1)
    with pytest.raises(StoreError, match="no number left"):
        store.next_id()
    with (
        LabelStore.create(tmp_path / "classes.ome.zarr", SHAPE, 0.5, ("a",)) as classes,
        pytest.raises(StoreError, match="holds classes"),
    ):
        classes.next_id()
