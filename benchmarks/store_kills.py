"""Processes that paint random strokes and are killed in the middle of them: what is left in the store."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from napari_msunet.geometry import Window
from napari_msunet.labels import open_labels
from napari_msunet.labels.levels import coarsen, coarsen_any

SIDE = 6_000
STROKES = 200


def stroke(seed: int, number: int) -> tuple[Window, int, np.ndarray]:
    """Stroke `number`: the same whenever it is asked for. A few discs along a line."""
    rng = np.random.default_rng([seed, number])
    size, radius = int(rng.integers(100, 1500)), int(rng.integers(10, 60))
    corner = rng.integers(0, SIDE - size, 2)
    y, x = np.ogrid[:size, :size]
    mask = np.zeros((size, size), np.bool_)
    for at in np.linspace(radius, size - radius, 12):
        mask |= (y - at) ** 2 + (x - at * rng.uniform(0.6, 1)) ** 2 <= radius**2
    return Window(int(corner[0]), int(corner[1]), size, size), int(rng.integers(1, 4)), mask


def paint(path: str, seed: int) -> None:
    """Make the strokes and say after each one that it returned."""
    store = open_labels(path, memory=24 * 2**20)
    for number in range(STROKES):
        store.write(*stroke(seed, number))
        print(number, flush=True)


def _killed(path: Path, seed: int, moment: float) -> tuple[int, float]:
    """Let a process paint, kill it; how many strokes returned, and for how long it painted."""
    process = subprocess.Popen([sys.executable, __file__, str(path), str(seed)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
    reader.start()
    while not lines and process.poll() is None:
        time.sleep(0.001)
    begin = time.monotonic()
    while time.monotonic() - begin < moment and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()
    reader.join()
    process.stdout.close()
    return sum(line.endswith(b"\n") for line in lines), time.monotonic() - begin


def _levels_agree(store: Any) -> bool:
    labels = [level.compute(scheduler="sync") for level in store.levels]
    edited = [level.compute(scheduler="sync") for level in store.edited_levels]
    pairs = range(len(labels) - 1)
    same = all(np.array_equal(coarsen(labels[n]), labels[n + 1]) for n in pairs)
    return same and all(np.array_equal(coarsen_any(edited[n]), edited[n + 1]) for n in pairs)


def kills(times: int) -> dict[str, Any]:
    """The store after each of `times` kills against what was painted."""
    from napari_msunet.labels import LabelStore

    rng, done, good, levels, opening = np.random.default_rng(1), [], 0, 0, []
    whole = 4.0
    for number in range(times):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "labels.ome.zarr"
            LabelStore.create(path, (SIDE, SIDE), 0.25, ("a", "b", "c")).close()
            finished, _ = _killed(path, number, float(rng.uniform(0, whole)))
            if finished == STROKES:
                whole *= 0.8  # this machine is faster: kill sooner
            begin = time.perf_counter()
            with open_labels(path) as store:
                opening.append(time.perf_counter() - begin)
                found = store.levels[0].compute(scheduler="sync")
                expected = np.zeros_like(found)
                for n in range(finished):
                    _put(expected, number, n)
                there = np.array_equal(found, expected)
                if not there and finished < STROKES:  # the one under way may be there, whole
                    _put(expected, number, finished)
                    there = np.array_equal(found, expected)
                good += there
                levels += _levels_agree(store)
        done.append(finished)
    return {
        "kills": times,
        "every finished stroke there": good,
        "all levels agree": levels,
        "strokes finished before the kill": [min(done), int(np.median(done)), max(done)],
        "killed in the middle of 200": sum(n < STROKES for n in done),
        "opening s, worst": round(max(opening), 2),
    }


def _put(labels: np.ndarray, seed: int, number: int) -> None:
    window, value, mask = stroke(seed, number)
    labels[window.slices()][mask] = value


if __name__ == "__main__":
    paint(sys.argv[1], int(sys.argv[2]))
