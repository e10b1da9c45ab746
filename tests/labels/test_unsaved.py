"""A disk that refuses while somebody paints: nothing is lost, and it is said."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from labels.killed import left_behind

from napari_msunet.errors import NotSavedError, OutputError
from napari_msunet.geometry import Region
from napari_msunet.labels import LabelStore, journal, open_labels, session
from napari_msunet.labels import session as autosave

SHAPE = (1301, 700)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autosave, "SYNC_SECONDS", 0.02)
    monkeypatch.setattr(autosave, "RETRY_SECONDS", 0.05)


def made(folder: Path) -> LabelStore:
    return LabelStore.create(folder / "labels.ome.zarr", SHAPE, 0.5, ("a", "b"))


def settled(store: LabelStore) -> None:
    """Wait until the autosave has nothing to do."""
    deadline = time.monotonic() + 10
    while store._session is not None and store._session.behind:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    store.flush()


@contextmanager
def no_larger_files(size: int) -> Iterator[None]:
    """Let the system refuse to make any file of this process larger than `size` bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (200, 300), dtype=np.uint8)


@pytest.mark.parametrize("part", [64, 512])
def test_a_stroke_the_disk_refuses_is_shown_kept_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(session, "PART", part)
    store = made(tmp_path)
    store.write(Region(0, 0, 9, 9), 1)
    settled(store)
    told: list[int] = []
    store.on_unsaved.append(told.append)
    log = store.path / "journal" / "00000001.log"
    size, before = log.stat().st_size, files_of(store.path)
    with no_larger_files(size + 500):
        with pytest.raises(NotSavedError, match=r"not saved yet, only kept in memory.*labels.ome.zarr") as caught:
            store.write(Region(20, 30, 200, 300), noise(0))
        assert caught.value.number == 2
        assert caught.value.region == Region(20, 30, 200, 300)
        with pytest.raises(NotSavedError):
            store.write(Region(500, 0, 5, 5), 2)
        assert store.unsaved == 2
        assert log.stat().st_size == size  # no half of a stroke
        np.testing.assert_array_equal(store.read(Region(20, 30, 200, 300)), noise(0))
        with pytest.raises(NotSavedError):
            store.undo()
        assert not store.read(Region(500, 0, 5, 5)).any()
        with pytest.raises(NotSavedError):
            store.redo()
        with pytest.raises(OutputError):
            store.flush()
        with pytest.raises(NotSavedError, match="was not closed, as 4 of its strokes are in memory only"):
            store.close()
        assert files_of(store.path) == before  # a kill now leaves what was said to be saved: no chunk is ahead of it
    deadline = time.monotonic() + 5
    while told[-1] and time.monotonic() < deadline:  # the disk is back: nobody has to ask
        time.sleep(0.01)
    assert store.unsaved == 0
    assert told == [1, 2, 3, 4, 0]
    assert store.undo() == Region(500, 0, 5, 5)
    assert store.redo() == Region(500, 0, 5, 5)
    expected = store.levels[0].compute()
    after = left_behind(store, "killed later.ome.zarr")
    store.close()
    for path in (store.path, after):
        with open_labels(path) as again:
            np.testing.assert_array_equal(again.levels[0].compute(), expected)
            assert not again.messages
            assert [again.undo(), again.undo()] == [Region(500, 0, 5, 5), Region(20, 30, 200, 300)]


def test_a_folder_that_is_away_and_comes_back(tmp_path: Path) -> None:
    store = made(tmp_path)
    store.write(Region(0, 0, 9, 9), 1)
    settled(store)
    with no_larger_files(10), pytest.raises(NotSavedError):  # the first failure lets go of the file
        store.write(Region(20, 20, 9, 9), 1)
    away = store.path.with_name("away")
    store.path.rename(away)
    try:
        with pytest.raises(NotSavedError):
            store.write(Region(40, 40, 9, 9), 2)
        time.sleep(0.3)
        assert store.unsaved >= 1
        with pytest.raises(NotSavedError):
            store.close()
        assert open_labels(store.path) is store  # what is not saved is not forgotten by opening it again
    finally:
        away.rename(store.path)
    store.write(Region(60, 60, 9, 9), 2)
    assert store.unsaved == 0
    store.close()
    with open_labels(store.path) as again:
        assert again.edited.sum().compute() == 4 * 81


def test_what_the_disk_refuses_can_be_given_up(tmp_path: Path) -> None:
    store = made(tmp_path)
    store.write(Region(0, 0, 9, 9), 1)
    settled(store)
    with no_larger_files(10):
        with pytest.raises(NotSavedError):
            store.write(Region(20, 20, 9, 9), 1)
        store.close(lose_unsaved=True)
    with open_labels(store.path) as again:
        assert again.edited.sum().compute() == 81


def test_strokes_whose_sync_failed_are_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autosave, "SYNC_SECONDS", 60)
    store = made(tmp_path)
    store.write(Region(0, 0, 9, 9), 1)
    store.flush()
    store.write(Region(20, 20, 9, 9), noise(1)[:9, :9])
    store.write(Region(40, 40, 9, 9), 2)
    real, log = os.fsync, store.path / "journal" / "00000001.log"

    def broken(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == log.stat().st_ino:
            raise OSError(5, "Input/output error")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(OutputError, match="Input/output error"):
            store.flush()
        assert store.unsaved == 2
    size = log.stat().st_size
    with log.open("r+b") as file:  # what the disk lost
        file.seek(size - 60)
        file.write(bytes(60))
    store.flush()
    assert store.unsaved == 0
    copy = left_behind(store, "killed.ome.zarr")
    with open_labels(copy) as again:
        assert not again.messages
        assert [again.undo() for _ in range(4)] == [Region(y, y, 9, 9) for y in (40, 20, 0)] + [None]
    store.close()


def test_memory_has_an_end(tmp_path: Path) -> None:
    made(tmp_path).close()
    store = open_labels(tmp_path / "labels.ome.zarr", memory=2**20)
    store.write(Region(0, 0, 9, 9), 1)
    settled(store)
    values = np.random.default_rng(0).integers(0, 3, SHAPE)
    with no_larger_files(10):
        with pytest.raises(NotSavedError):
            store.write(Region(0, 0, *SHAPE), values)
        with pytest.raises(OutputError, match="Nothing more can be kept") as caught:
            store.write(Region(0, 0, *SHAPE), 1)
        assert not isinstance(caught.value, NotSavedError)
        np.testing.assert_array_equal(store.levels[0].compute(), values)
    store.write(Region(0, 0, 1, 1), 2)
    store.close()


READ_ONLY = """
import os, stat, sys, time
from pathlib import Path
from napari_msunet.errors import MsunetError, OutputError
from napari_msunet.geometry import Region
from napari_msunet.labels import LabelStore, open_labels
import napari_msunet.labels.session, zarr.codecs, zarr.storage, filelock, numcodecs.zstd
if os.getuid() == 0:
    os.setuid(65534)
folder = Path(sys.argv[1])
store = LabelStore.create(folder / "labels.ome.zarr", (1301, 700), 0.5, ("a", "b"))
store.write(Region(0, 0, 9, 9), 1)
def rights(folder_mode, file_mode):
    for top, _, files in os.walk(store.path):
        os.chmod(top, folder_mode)
        for name in files:
            os.chmod(Path(top) / name, file_mode)
store.flush()
rights(0o555, 0o444)
store.write(Region(600, 600, 9, 9), 2)  # into the journal, which is open
try:
    store.flush()
    raise SystemExit("flushed into read-only folders")
except OutputError as error:
    assert "read-only" in str(error), error
assert store.read(Region(600, 600, 9, 9)).min() == 2
try:
    open_labels(store.path).fits((5, 5), "this")
except MsunetError:
    pass
rights(0o755, 0o644)
store.close()
with open_labels(store.path) as again:
    assert again.read(Region(600, 600, 9, 9)).min() == 2
rights(0o555, 0o444)
again = open_labels(store.path)
try:
    again.write(Region(0, 0, 1, 1), 1)
    raise SystemExit("wrote into a read-only store")
except OutputError as error:
    assert "read-only" in str(error), error
assert again.read(Region(600, 600, 9, 9)).min() == 2
rights(0o755, 0o644)
again.write(Region(0, 0, 1, 1), 2)
again.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="rights are other things there")
def test_folders_that_became_read_only(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    ours = [part for part in (folder, *folder.parents) if part != Path(tempfile.gettempdir()) and "pytest" in str(part)]
    for part in ours:  # the other user's way there
        if os.getuid() == 0 and part.stat().st_uid == 0:
            part.chmod(0o777)
    done = subprocess.run([sys.executable, "-c", READ_ONLY, str(folder)], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 4 MB, where this user may mount one."""
    where = tmp_path / "disk"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(where)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only an administrator can mount a small disk")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    store = made(small_disk)
    store.write(Region(0, 0, 9, 9), 1)
    settled(store)
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    refused: list[str] = []
    for seed in range(20):
        try:
            store.write(Region(40, 50, 200, 300), noise(seed))
        except NotSavedError as error:
            refused.append(str(error))
    assert len(refused) >= 18
    assert all("disk is full" in message for message in refused)
    assert store.unsaved >= 18
    np.testing.assert_array_equal(store.read(Region(40, 50, 200, 300)), noise(19))
    ballast.unlink()
    deadline = time.monotonic() + 5
    while store.unsaved and time.monotonic() < deadline:
        time.sleep(0.01)
    assert store.unsaved == 0
    store.close()
    with open_labels(store.path) as again:
        np.testing.assert_array_equal(again.read(Region(40, 50, 200, 300)), noise(19))
        for seed in reversed(range(19)):
            assert again.undo() == Region(40, 50, 200, 300)
            np.testing.assert_array_equal(again.read(Region(40, 50, 200, 300)), noise(seed))


def test_closing_at_the_end_of_the_process_says_what_is_lost(tmp_path: Path) -> None:
    made(tmp_path).close()
    script = """
import resource, sys
from napari_msunet.errors import NotSavedError
from napari_msunet.geometry import Region
from napari_msunet.labels import open_labels
store = open_labels(sys.argv[1])
store.hold()
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    store.write(Region(0, 0, 9, 9), 1)
except NotSavedError:
    pass
"""
    path = tmp_path / "labels.ome.zarr"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
    assert "1 of its strokes are in memory only" in done.stderr


def test_unsaved_is_told_from_any_thread(tmp_path: Path) -> None:
    store = made(tmp_path)
    store.write(Region(0, 0, 9, 9), 1)
    settled(store)
    threads: set[str] = set()
    store.on_unsaved.append(lambda unsaved: threads.add(threading.current_thread().name))
    with no_larger_files(10), pytest.raises(NotSavedError):
        store.write(Region(0, 0, 9, 9), 2)
    settled(store)
    assert threads == {threading.current_thread().name, "label store autosave"}
    store.close()


def test_a_stroke_that_is_just_being_written_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge tells how it stands while somebody's stroke goes to the disk."""
    store = made(tmp_path)
    store.write(Region(0, 0, 9, 9), 1)
    settled(store)
    told: list[int] = []
    store.on_unsaved.append(told.append)
    writing, go_on = threading.Event(), threading.Event()
    write_all = journal.write_all

    def slowly(descriptor: int, data: bytes) -> None:
        writing.set()
        assert go_on.wait(10)
        write_all(descriptor, data)

    monkeypatch.setattr(journal, "write_all", slowly)
    stroke = threading.Thread(target=lambda: store.write(Region(20, 20, 9, 9), 2))
    stroke.start()
    assert writing.wait(10)
    assert store._session is not None
    store._session.tell()
    go_on.set()
    stroke.join()
    settled(store)
    assert told == []
    store.close()
