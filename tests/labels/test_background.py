"""What the store does beside painting: flushing, compaction, its memory."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from labels.killed import left_behind
from labels.reference import Reference, assert_same

from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, chunks, open_labels
from napari_msunet.labels import session as autosave
from napari_msunet.labels import session as compaction
from napari_msunet.labels.lock import WriterLock

SHAPE = (1301, 700)


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    made = LabelStore.create(tmp_path / "labels.ome.zarr", SHAPE, 0.5, ("a", "b"))
    yield made
    made.close()


def waited(condition: object, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.01)
    return False


def test_chunks_are_written_a_moment_after_a_stroke(store: LabelStore) -> None:
    store.write(Region(10, 10, 600, 300), 2)
    expected = np.zeros(SHAPE, np.uint8)
    expected[10:610, 10:310] = 2
    assert waited(lambda: np.array_equal(zarr.open_group(str(store.path), mode="r")["0"][:], expected))
    session_of = store._session
    assert session_of is not None
    assert waited(lambda: not session_of.behind)


def test_chunks_wait_while_strokes_follow_one_another(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autosave, "SYNC_SECONDS", 0.02)
    monkeypatch.setattr(autosave, "QUIET_SECONDS", 5)
    monkeypatch.setattr(autosave, "CHUNK_SECONDS", 60)
    store.write(Region(0, 0, 50, 50), 1)
    store.flush()
    session, chunk = store._session, store.path / "0" / "c" / "0" / "0"
    assert session is not None
    written = chunk.stat().st_mtime_ns
    for step in range(1, 10):
        store.write(Region(step * 50, 0, 50, 50), 1)
        time.sleep(0.05)
    assert not session.journal.waiting
    assert chunk.stat().st_mtime_ns == written
    monkeypatch.setattr(autosave, "QUIET_SECONDS", 0.1)
    assert waited(lambda: not session.behind)
    assert chunk.stat().st_mtime_ns > written


def test_a_slow_disk_stops_no_stroke(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that hangs: strokes, undo and reading go on."""
    store.write(Region(0, 0, *SHAPE), np.random.default_rng(0).integers(0, 3, SHAPE))
    gate, inside = threading.Event(), threading.Event()
    real = chunks.ChunkFiles.stage

    def slow(*arguments: object) -> object:
        inside.set()
        gate.wait(30)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(chunks.ChunkFiles, "stage", slow)
    flusher = threading.Thread(target=store.flush)
    flusher.start()
    assert inside.wait(20)
    for step in range(20):
        store.write(Region(step * 10, 0, 10, 10), 1 + step % 2)
    assert store.undo() == Region(190, 0, 10, 10)
    assert store.read(Region(180, 0, 10, 10)).min() == 1
    assert flusher.is_alive()
    gate.set()
    flusher.join()


def test_compaction_goes_on_beside_strokes(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "COMPACT_BYTES", 2000)
    monkeypatch.setattr(autosave, "SYNC_SECONDS", 0.01)
    reference, rng = Reference(SHAPE), np.random.default_rng(0)
    folder, most = store.path / "journal", 0
    begin = time.monotonic()
    number = 0
    while number < 60 or (len(segments := sorted(folder.glob("*.log"))) and segments[0].name < "00000006.log"):
        values = rng.integers(0, 3, (60, 50))
        store.write(Region(number % 40 * 20, 0, 60, 50), values)
        reference.stroke(Window(number % 40 * 20, 0, 60, 50), values, None)
        if number % 10:
            store.undo()
            reference.undo()
        number += 1
        most = max(most, sum(f.stat().st_size for f in list(folder.glob("*.log")) if f.exists()))
        assert time.monotonic() - begin < 60
    assert_same(store, reference)
    store.close()
    with open_labels(store.path) as again:
        while reference.undo_stack:
            reference.undo()
            assert again.undo() is not None
        assert again.undo() is None
        assert_same(again, reference)
        while reference.redo_stack:
            reference.redo()
            again.redo()
        assert_same(again, reference)


def test_uniform_chunks_take_no_memory_and_no_file(store: LabelStore) -> None:
    store.write(Region(0, 0, *SHAPE), 1)
    cache = store._session.cache  # type: ignore[union-attr]
    store.flush()
    assert cache.nbytes < 20_000
    np.testing.assert_array_equal(zarr.open_group(str(store.path), mode="r")["0"][:], np.ones(SHAPE, np.uint8))
    store.write(Region(100, 100, 50, 50), np.random.default_rng(0).integers(0, 3, (50, 50)))
    assert cache.nbytes > 2 * 512 * 512
    store.write(Region(90, 90, 100, 100), 1)  # of one value again, which shows when it is written
    store.flush()
    assert cache.nbytes < 20_000
    store.write(Region(0, 0, *SHAPE), 0)
    store.flush()
    assert not list((store.path / "0").glob("c/*/*"))
    assert cache.nbytes < 20_000


def test_memory_stays_near_its_limit(tmp_path: Path) -> None:
    LabelStore.create(tmp_path / "labels.ome.zarr", (6000, 6000), 0.5, ("a", "b")).close()
    limit = 8 * 2**20
    store = open_labels(tmp_path / "labels.ome.zarr", memory=limit)
    rng, most = np.random.default_rng(0), 0
    for _ in range(150):
        y, x = rng.integers(0, 5900, 2).tolist()
        store.write(Region(y, x, 100, 100), rng.integers(0, 3, (100, 100)))
        most = max(most, store._session.cache.nbytes)  # type: ignore[union-attr]
    store.close()
    one_stroke = 2 * (4 * 4 + 1) * 512 * 512  # four chunks on four levels and one on the fifth, with their edits
    assert limit * 0.8 < most <= limit * 9 / 8 + one_stroke  # all chunks there are: 12 times the limit


def test_opening_after_a_kill_shows_everything_and_holds_nothing(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autosave, "SYNC_SECONDS", 60)
    for step in range(20):
        store.write(Region(step * 50, 0, 50, 50), 1 + step % 2)
    expected = store.levels[0].compute()
    copies = [left_behind(store, f"{n}.ome.zarr") for n in range(2)]
    gate, real = threading.Event(), chunks.ChunkFiles.stage

    def slow(*arguments: object) -> object:
        gate.wait(30)
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(chunks.ChunkFiles, "stage", slow)
        looked, painted = map(open_labels, copies)
        np.testing.assert_array_equal(looked.levels[0].compute(), expected)
        assert painted.undo() == Region(950, 0, 50, 50)  # what was recovered can be painted on at once
        gate.set()
    assert waited(lambda: looked._session is None and not looked._lock.held)
    lock = WriterLock(looked.path, "It")
    lock.acquire()  # who only looks keeps nobody from writing
    lock.release()
    np.testing.assert_array_equal(zarr.open_group(str(looked.path), mode="r")["0"][:], expected)
    time.sleep(0.1)
    assert painted.redo() == Region(950, 0, 50, 50)
    for opened in (looked, painted):
        opened.close()
