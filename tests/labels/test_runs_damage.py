"""Runs that were killed, cut, spoilt or out of disk: said in a sentence, the rest intact, the same bytes in the end."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from labels.run_filling import TILES, chunk_bytes, make, put, truth

from napari_msunet.errors import StoreError
from napari_msunet.labels import open_labels
from napari_msunet.labels.runs.run import Run

VALUES = truth()
OUTPUTS = {"labels": "uint8", "probabilities": "float16"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make(tmp_path_factory.mktemp("whole"), outputs=OUTPUTS)
    with run.writing():
        put(run, TILES, VALUES)
        run.complete_run()
    return run


@pytest.fixture
def run(whole: Run, tmp_path: Path) -> Run:
    """A copy of the whole run, to be damaged."""
    store = whole.path.parent.parent
    shutil.copytree(store, tmp_path / store.name)
    return Run(tmp_path / store.name / "runs" / whole.key)


def go_on(run: Run, whole: Run) -> list[int]:
    """Do what is not done; which tiles these were. In the end the bytes are those of the whole run."""
    with run.writing():
        left = [tile for tile in TILES if tile not in run.done]
        put(run, left, VALUES)
        run.complete_run()
    assert chunk_bytes(run) == chunk_bytes(whole)
    assert run.complete
    assert not Run(run.path).damaged(look=True)
    return left


def lines_of(run: Run) -> list[bytes]:
    return (run.path / "ledger.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_ledger_that_is_cut(run: Run, whole: Run, keep: int) -> None:
    lines = lines_of(run)
    (run.path / "ledger.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:keep])
    again = Run(run.path)
    assert list(again.done) == list(TILES)[:4]
    assert go_on(again, whole) == list(TILES)[4:]
    assert all(json.loads(line) for line in lines_of(run))


@pytest.mark.parametrize(
    "garbage",
    [b"\0\0\0\0\n", b"no json\n", b"7\n", b'{"block": 2}\n', b'{"block": 2, "window": [0, 0, 9999, 9]}\n', b"\xff\n"],
)
def test_a_line_of_the_ledger_that_is_no_tile(run: Run, whole: Run, garbage: bytes) -> None:
    lines = lines_of(run)
    (run.path / "ledger.jsonl").write_bytes(b"".join([*lines[:2], garbage, *lines[3:]]))
    again = Run(run.path)
    assert sorted(again.done) == [t for t in TILES if t != 2]
    assert go_on(again, whole) == [2]
    assert ["1 damaged line" in message for message in again.messages] == [True]
    assert len(lines_of(run)) == len(TILES)


@pytest.mark.parametrize("how", ["missing", "cut", "empty", "header"])
@pytest.mark.parametrize("name", ["labels/0/c/1/2", "probabilities/0/c/2/1/2"])
def test_a_chunk_that_is_lost(run: Run, whole: Run, name: str, how: str) -> None:
    path = run.path / name
    if how == "missing":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes({"cut": data[:-7], "empty": b"", "header": b"x" * len(data)}[how])
    again = Run(run.path)
    (tile,) = [t for t, w in TILES.items() if (w.y // 512, w.x // 512) == (1, 2)]
    assert list(again.damaged(look=True)) == [path]
    expected = VALUES["labels"][TILES[tile].slices()].copy()
    if name.startswith("labels"):
        expected[:, :512] = 0
    np.testing.assert_array_equal(again.read(TILES[tile]), expected)  # the place reads as 0, the rest as it was
    assert again.complete
    assert go_on(again, whole) == [tile]
    assert ["1 finished tile" in m and str(path) in m for m in again.messages] == [True]


def test_a_chunk_of_a_coarser_level_that_is_lost_reads_as_0(run: Run) -> None:
    path = run.path / "labels" / "1" / "c" / "0" / "0"
    path.write_bytes(path.read_bytes()[:-7])
    assert not run.levels("labels")[1][:512, :512].any().compute()
    assert list(run.damaged()) == [path]


def test_a_damaged_chunk_is_no_obstacle_for_a_merge(run: Run) -> None:
    (run.path / "labels" / "0" / "c" / "1" / "2").write_bytes(b"torn")
    with open_labels(run.path.parent.parent) as store:
        store.merge(store.run(run.key))
        expected = VALUES["labels"].copy()
        expected[512:1024, 1024:1536] = 0
        np.testing.assert_array_equal(store.levels[0].compute(), expected)
        assert list(store.run(run.key).damaged()) == [store.path / "runs" / run.key / "labels" / "0" / "c" / "1" / "2"]


@pytest.mark.parametrize("text", ["", '{"store": {"ki', "{}", "[]", "null"])
def test_run_json_that_is_torn(run: Run, text: str) -> None:
    (run.path / "run.json").write_text(text)
    with pytest.raises(StoreError, match=r"run\.json is damaged: delete the folder .* and predict again\."):
        Run(run.path)


def test_metadata_of_an_output_that_are_torn(run: Run) -> None:
    (run.path / "labels" / "0" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"labels/0/zarr\.json is missing or damaged: delete its run"):
        Run(run.path).read(TILES[0])


def test_a_ledger_that_is_gone(run: Run, whole: Run) -> None:
    (run.path / "ledger.jsonl").unlink()
    assert Run(run.path).done == {}
    assert go_on(Run(run.path), whole) == list(TILES)


FULL = """
import hashlib, shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from labels.run_filling import TILES, chunk_bytes, make, put, truth
from napari_msunet.errors import OutputError
from napari_msunet.labels.runs.run import Run
disk = Path(sys.argv[1])
run, values = make(disk, outputs={"labels": "uint8", "probabilities": "float16"}), truth()
ballast = disk / "ballast"
ballast.write_bytes(b"0" * (shutil.disk_usage(disk).free - int(sys.argv[3])))
try:
    with run.writing():
        put(run, TILES, values)
except OutputError as error:
    print(error)
done = dict(run.done)
print(len(done))
for tile, window in done.items():
    assert (run.read(window) == values["labels"][window.slices()]).all()
    assert not Run(run.path).damaged(look=True)
ballast.unlink()
again = Run(run.path)
with again.writing():
    assert again.done == done, (again.done, done)
    assert not again.messages
    put(again, [t for t in TILES if t not in done], values)
    again.complete_run()
for name, data in sorted(chunk_bytes(again).items()):
    print(name, hashlib.sha256(data).hexdigest())
"""


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("unshare") is None, reason="needs a file system of its own")
def test_a_full_disk(whole: Run, tmp_path: Path) -> None:
    (tmp_path / "full.py").write_text(FULL)
    tests = Path(__file__).parents[1]
    disk, free = tmp_path / "disk", sum(map(len, chunk_bytes(whole).values())) // 8
    disk.mkdir()
    script = f"mount -t tmpfs -o size=60m tmpfs {disk} && exec {sys.executable} {tmp_path / 'full.py'} {disk} {tests}"
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{script} {free}"], capture_output=True, text=True, check=False
    )
    if ran.returncode and ("unshare" in ran.stderr or "mount" in ran.stderr):
        pytest.skip(f"this machine allows no file system of one's own: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    says, count, *chunks = ran.stdout.splitlines()
    assert "cannot be written: the disk is full; free some space and try again." in says
    assert 0 < int(count) < len(TILES)
    expected = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in chunk_bytes(whole).items())
    assert [tuple(line.split()) for line in chunks] == expected
