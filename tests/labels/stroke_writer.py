"""Edits a store without end and says after each edit that it is done; killed by test_crash.py at a random moment."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from napari_msunet.geometry import Window
from napari_msunet.labels import open_labels, session

SHAPE = (1301, 1100)
BLOCKS = [Window(0, 0, 700, 1100), Window(700, 0, 601, 1100)]
MEMORY = 3 * 2**20


def machine_labels() -> np.ndarray:
    """What the run of the test shows: classes 0 to 2 in patches."""
    small = np.random.default_rng(5).integers(0, 3, (66, 55), dtype=np.uint8)
    return np.repeat(np.repeat(small, 20, 0), 20, 1)[: SHAPE[0], : SHAPE[1]]


def edit(number: int) -> tuple[str, Window, np.ndarray | int, np.ndarray | None]:
    """Edit number `number`: the same whenever it is asked for."""
    rng = np.random.default_rng(number)
    kinds = ["write", "undo", "redo", "release", "merge", "flush"]
    kind = str(rng.choice(kinds, p=[0.6, 0.12, 0.08, 0.08, 0.06, 0.06]))
    side = 1200 if rng.random() < 0.1 else 150
    y, x = int(rng.integers(-20, SHAPE[0] - 1)), int(rng.integers(-20, SHAPE[1] - 1))
    window = Window(y, x, int(rng.integers(21, side)), int(rng.integers(21, side)))
    values: Any = rng.integers(0, 3, window.shape, dtype=np.uint8) if rng.random() < 0.5 else int(rng.integers(0, 3))
    mask = rng.random(window.shape) < 0.6 if rng.random() < 0.7 else None
    return kind, window, values, mask


def main(path: str, first: int) -> None:
    """Do edits from number `first` on."""
    session.PART = 512
    store = open_labels(path, memory=MEMORY)
    for number in range(first, first + 10**6):
        kind, window, values, mask = edit(number)
        if kind == "write":
            store.write(window, values, mask)
        elif kind == "release":
            store.release(window, mask)
        elif kind == "merge":
            store.merge(store.run("run"))
        else:
            getattr(store, kind)()
        print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
