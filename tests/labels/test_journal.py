"""The journal: whole records or none, damage said, compaction that keeps undo."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from labels.killed import left_behind

from napari_msunet.errors import OutputError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, journal, open_labels, session
from napari_msunet.labels.journal import Kind, Patch, pack_patch, parse_header, unpack_patch

SHAPE = (300, 400)


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    made = LabelStore.create(tmp_path / "labels.ome.zarr", SHAPE, 0.5, ("a", "b"))
    yield made
    made.close()


def killed(store: LabelStore, name: str = "copy.ome.zarr") -> Path:
    """What a process that is killed now leaves behind."""
    return left_behind(store, name)


def log(path: Path) -> Path:
    return sorted((path / "journal").glob("*.log"))[-1]


@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
def test_records_come_back_as_they_were(dtype: str) -> None:
    rng = np.random.default_rng(0)
    planes = [rng.integers(0, 200, (5, 7)).astype(dtype), 3, np.full((5, 7), 4, dtype)]
    masks = [rng.random((5, 7)) < 0.5, True, np.ones((5, 7), bool), np.zeros((5, 7), bool), None]
    for values in planes:
        for mask in masks:
            patch = Patch(Window(1, 2, 5, 7), values, True, mask, values, mask)
            record = pack_patch(Kind.STROKE, 9, patch, last=True)
            header = parse_header(record)
            assert header is not None
            assert (header.sequence, header.size) == (9, len(record))
            back = unpack_patch(header, record[-header.length :], np.dtype(dtype))
            for name in ("values", "mask", "before", "edited_before"):
                a, b = getattr(patch, name), getattr(back, name)
                if name == "mask" and b is None:
                    assert a is None or np.all(a)
                else:
                    np.testing.assert_array_equal(*np.broadcast_arrays(a, b)) if a is not None else a is b


@pytest.mark.parametrize("cut", [1, 30, 70, "half", "flip"])
def test_a_torn_last_record_is_dropped_and_said(store: LabelStore, cut: int | str) -> None:
    store.write(Region(0, 0, 20, 20), 1)
    before = log(store.path).stat().st_size
    store.write(Region(10, 10, 50, 50), np.random.default_rng(0).integers(0, 3, (50, 50)))
    path = killed(store)
    data = bytearray(log(path).read_bytes())
    if cut == "flip":
        data[-5] ^= 1
    else:
        del data[-cut if isinstance(cut, int) else before + (len(data) - before) // 2 :]
    log(path).write_bytes(bytes(data))
    with open_labels(path) as again:
        assert len(again.messages) == 1
        assert str(log(path)) in again.messages[0]
        expected = np.zeros(SHAPE, np.uint8)
        expected[:20, :20] = 1
        np.testing.assert_array_equal(again.levels[0].compute(), expected)
        again.write(Region(100, 100, 5, 5), 2)  # goes on behind what is whole
        assert again.undo() == Region(100, 100, 5, 5)
        assert again.undo() == Region(0, 0, 20, 20)
        assert again.undo() is None


def test_damage_in_the_middle_costs_one_stroke(store: LabelStore) -> None:
    store.write(Region(0, 0, 20, 20), np.random.default_rng(0).integers(0, 3, (20, 20)))
    start = log(store.path).stat().st_size
    store.write(Region(50, 50, 20, 20), np.random.default_rng(1).integers(0, 3, (20, 20)))
    end = log(store.path).stat().st_size
    store.write(Region(100, 100, 20, 20), 2)
    for name, at in (("payload", end - 9), ("header", start + 6)):
        path = killed(store, name)
        data = bytearray(log(path).read_bytes())
        data[at] ^= 8
        log(path).write_bytes(bytes(data))
        with open_labels(path) as again:
            assert again.edited.sum().compute() == 800
            assert "damaged" in again.messages[0]
            assert (again.read(Region(100, 100, 20, 20)) == 2).all()
            assert again.undo() == Region(100, 100, 20, 20)
            assert again.undo() == Region(0, 0, 20, 20)


def test_a_disk_that_cannot_be_flushed_to_loses_nothing(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(Region(0, 0, 9, 9), 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system")))
        with pytest.raises(OutputError, match="read-only"):
            store.flush()
    assert not list((store.path / "0").glob("c/*/*"))
    assert store.read(Region(0, 0, 9, 9)).all()
    store.close()
    assert open_labels(store.path).read(Region(0, 0, 9, 9)).all()


def test_compaction_keeps_undo_and_redo(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        store.write(Region(0, 0, 100, 100), rng.integers(0, 3, (100, 100)))
        store.undo()
    store.write(Region(0, 0, 9, 9), 1)
    store.write(Region(5, 5, 9, 9), 2)
    store.undo()
    size = log(store.path).stat().st_size
    monkeypatch.setattr(session, "COMPACT_BYTES", 0)
    store.close()
    assert sum(f.stat().st_size for f in (store.path / "journal").iterdir()) < size / 10
    with open_labels(store.path) as again:
        assert again.redo() == Region(5, 5, 9, 9)
        assert (again.undo(), again.undo(), again.undo()) == (Region(5, 5, 9, 9), Region(0, 0, 9, 9), None)
        assert not again.edited.any().compute()
        again.redo()
        sequence = again.write(Region(0, 0, 1, 1), 2)
        assert sequence > 27


def test_a_compaction_that_was_killed_has_no_effect(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(Region(0, 0, 50, 50), np.random.default_rng(0).integers(0, 3, (50, 50)))
    store.undo()
    store.write(Region(3, 3, 9, 9), 1)
    old = log(store.path).read_bytes()
    monkeypatch.setattr(session, "COMPACT_BYTES", 0)
    store.close()
    (store.path / "journal" / "00000001.log").write_bytes(old)  # killed before the old segment was removed
    (store.path / "journal" / "00000003.partial").write_bytes(b"half a segment")
    with open_labels(store.path) as again:
        assert again.undo() == Region(3, 3, 9, 9)
        assert again.undo() is None


def test_segments(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 100)
    for step in range(6):
        store.write(Region(step * 10, 0, 10, 10), 1)
    assert len(list((store.path / "journal").glob("*.log"))) > 2
    with open_labels(killed(store)) as again:
        assert again.edited.sum().compute() == 600
        for step in reversed(range(6)):
            assert again.undo() == Region(step * 10, 0, 10, 10)
    store.close()
    with open_labels(store.path) as again:
        assert again.undo() == Region(50, 0, 10, 10)


def test_strokes_reach_the_disk_within_a_second(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    store.write(Region(0, 0, 1, 1), 1)
    time.sleep(1)
    synced: list[float] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: (real(d), synced.append(time.monotonic()))[0])
    start = time.monotonic()
    store.write(Region(0, 0, 1, 1), 2)
    written = time.monotonic() - start
    time.sleep(1)
    assert synced
    assert written < synced[0] - start < 1
