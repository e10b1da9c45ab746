"""Processes that edit are killed: every edit that returned is there, the one under way whole or absent."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from labels.reference import Reference, any_of, assert_same, vote
from labels.stroke_writer import BLOCKS, SHAPE, edit, machine_labels

from napari_msunet.labels import LabelStore, open_labels


def apply_edit(reference: Reference, number: int) -> None:
    kind, window, values, mask = edit(number)
    if kind in ("write", "release"):
        reference.stroke(window, values, mask, release=kind == "release")
    elif kind == "merge":
        reference.merge(machine_labels(), np.ones(SHAPE, bool))
    elif kind != "flush":
        getattr(reference, kind)()


def is_same(store: LabelStore, reference: Reference) -> bool:
    return np.array_equal(store.levels[0].compute(), reference.labels) and np.array_equal(
        store.edited.compute(), reference.edited
    )


@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_every_edit_that_returned_survives_a_kill(tmp_path: Path, kills: int) -> None:
    path = tmp_path / "labels.ome.zarr"
    with LabelStore.create(path, SHAPE, 0.5, ("gland", "stroma")) as store:
        run = store.create_run("run", {}, ("gland", "stroma"), {"labels": "uint8"})
        with run.writing():
            for block, window in enumerate(BLOCKS):
                run.write(window, {"labels": machine_labels()[window.slices()]})
                run.finish(block, window)
    reference, done, moments, edits_seen = Reference(SHAPE), 0, random.Random(kills), 0
    for _ in range(kills):
        lines = run_and_kill(path, done, moments)
        for number in range(done, done + lines):
            apply_edit(reference, number)
        done += lines
        edits_seen += lines
        with open_labels(path) as store:
            if not is_same(store, reference):
                apply_edit(reference, done)  # it was safe in the journal, but had not returned
                done += 1
            assert_same(store, reference)
        assert_plain_zarr_is_whole(path)
    assert edits_seen > kills


def run_and_kill(path: Path, first: int, moments: random.Random) -> int:
    """Let a process edit for a moment, kill it, and count the edits that returned."""
    writer = Path(__file__).with_name("stroke_writer.py")
    process = subprocess.Popen([sys.executable, str(writer), str(path), str(first)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
    reader.start()
    deadline = time.monotonic() + 60
    while not lines and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.001)
    time.sleep(moments.random() * 0.6)
    process.kill()
    process.wait()
    reader.join()
    process.stdout.close()
    return sum(line.endswith(b"\n") for line in lines)


def assert_plain_zarr_is_whole(path: Path) -> None:
    """What any other reader sees: each level follows from the one below."""
    group = zarr.open_group(str(path), mode="r")
    for level in range(1, 2):
        np.testing.assert_array_equal(group[str(level)][:], vote(group[str(level - 1)][:]))
        np.testing.assert_array_equal(group[f"edited/{level}"][:], any_of(group[f"edited/{level - 1}"][:]))
