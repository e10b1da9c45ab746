"""Several writers fill one run: together they leave the bytes that one would have left."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from labels.run_filling import SHAPE, TILES, chunk_bytes, make, put, truth

from napari_msunet.errors import StoreError, StoreLockedError
from napari_msunet.geometry import Window
from napari_msunet.labels.runs.run import Run

VALUES = truth()
OUTPUTS = {"labels": "uint8", "entropy": "uint8"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make(tmp_path_factory.mktemp("whole"), outputs=OUTPUTS)
    with run.writing():
        put(run, TILES, VALUES)
        run.complete_run()
    return run


def complete(run: Run) -> None:
    """What is left is done by one writer alone."""
    with run.writing():
        put(run, [tile for tile in TILES if tile not in run.done], VALUES)
        run.complete_run()


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(list(TILES)), owners=st.lists(st.integers(0, 2), min_size=10, max_size=10), cut=st.data())
def test_parts_in_any_order_leave_the_bytes_of_one_writer(
    whole: Run, order: list[int], owners: list[int], cut: st.DataObject
) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        run = make(folder, outputs=OUTPUTS)
        last = cut.draw(st.integers(1, len(order)))
        parts = {owner: Run(run.path) for owner in owners}
        with ExitStack() as stack:
            for owner, part in parts.items():
                stack.enter_context(part.writing(part=f"worker-{owner}"))
            for tile in order[:last]:
                part = parts[owners[tile]]
                put(part, [tile], VALUES)
                part.coarsen([TILES[tile]])  # allowed, and left to who completes the run
                assert set(run.done) == set(order[: order.index(tile) + 1])
        torn = run.path / f"ledger.worker-{owners[0]}.jsonl"
        torn.write_bytes(torn.read_bytes() + b'{"block": 1')
        assert set(run.done) == set(order[:last])
        with Run(run.path).writing(part=f"worker-{owners[0]}") as again:
            assert set(again.done) == set(order[:last])
        complete(Run(run.path))
        assert chunk_bytes(run) == chunk_bytes(whole)
        assert set(run.done) == set(TILES)
    finally:
        shutil.rmtree(folder)


def start(run: Run, part: str, tiles: list[int]) -> subprocess.Popen[str]:
    """A process that fills a part; it is in when this returns."""
    filler = Path(__file__).with_name("run_filling.py")
    command = [sys.executable, str(filler), str(run.path), part, *map(str, tiles)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


def test_processes_at_once_one_of_them_killed(whole: Run, tmp_path: Path) -> None:
    run = make(tmp_path, outputs=OUTPUTS)
    even, odd = start(run, "even", list(TILES)[::2]), start(run, "odd", list(TILES)[1::2])
    with pytest.raises(StoreLockedError, match=f"part (even|odd) .* process ({even.pid}|{odd.pid})"), run.writing():
        pass
    with pytest.raises(StoreLockedError, match=f"process {odd.pid}"), Run(run.path).writing(part="odd"):
        pass
    assert odd.stdout is not None
    odd.stdout.readline()  # one tile is finished
    odd.send_signal(signal.SIGKILL)
    for process in (even, odd):
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
    assert {t for t in run.done if t % 2 == 0} == set(list(TILES)[::2])
    assert 0 < len([t for t in run.done if t % 2]) < len(TILES) // 2
    second = start(run, "odd", list(TILES)[1::2])  # goes on where the killed one stopped
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert set(run.done) == set(TILES)
    assert len(output.split()) < len(TILES) // 2
    complete(run)
    assert chunk_bytes(run) == chunk_bytes(whole)


def test_who_is_alone_keeps_parts_out(tmp_path: Path) -> None:
    run, other = make(tmp_path, outputs=OUTPUTS), Run(tmp_path / "r.ome.zarr" / "runs" / "r")
    with run.writing():
        with pytest.raises(StoreLockedError, match="is being written by process"), other.writing(part="a"):
            pass
        with pytest.raises(StoreLockedError, match="by this process already"), run.writing():
            pass
    with other.writing(part="a"):
        with pytest.raises(StoreLockedError, match="The part a"), run.writing():
            pass
        with pytest.raises(StoreError, match="open for a part only"):
            other.complete_run()
        other.note(seconds=1)
    with pytest.raises(StoreError, match="cannot name a part"), run.writing(part="../a"):
        pass
    with run.writing():
        pass
    assert Run(run.path).description == {"job": 1, "seconds": 1}


def test_many_come_in_at_the_same_moment(tmp_path: Path) -> None:
    run = make(tmp_path, outputs={"labels": "uint8"})
    ready, errors = threading.Barrier(4), []

    def fill(number: int) -> None:
        try:
            part = Run(run.path)
            ready.wait()
            with part.writing(part=f"w{number}"):
                put(part, list(TILES)[number::4], VALUES)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=fill, args=(n,)) for n in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors
    assert set(run.done) == set(TILES)
    assert (run.read(Window(0, 0, *SHAPE)) == VALUES["labels"]).all()
