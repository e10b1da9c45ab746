"""A small run with all outputs, its values, and fillers of it; also a process that fills a part."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.runs.run import Run

SHAPE = (2101, 1701)
CLASSES = ("gland", "stroma")
OUTPUTS = {
    "labels": "uint8",
    "raw": "uint8",
    "instances": "uint32",
    "probabilities": "uint8",
    "disagreement": "float16",
    "entropy": "uint8",
}
TILES = dict(
    enumerate(
        Window(y, x, min(512, SHAPE[0] - y), min(1024, SHAPE[1] - x))
        for y in range(0, SHAPE[0], 512)
        for x in range(0, SHAPE[1], 1024)
    )
)
"""Tiles of whole chunks; the last of them are empty of anything but background."""


def truth() -> dict[str, np.ndarray]:
    """What each output is to hold."""
    rng = np.random.default_rng(3)
    small = rng.integers(0, 3, (-(-SHAPE[0] // 9), -(-SHAPE[1] // 9)), dtype=np.uint8)
    labels = np.repeat(np.repeat(small, 9, 0), 9, 1)[: SHAPE[0], : SHAPE[1]].copy()
    labels[1536:] = 0
    raw = np.roll(labels, 3, 1)
    probabilities = np.stack([(labels == c) * np.float32(0.5) + np.float32(1 / 6) for c in range(3)])
    noise = rng.random(SHAPE, np.float32)
    noise[1800:] = 0
    instances = np.where(labels > 0, 70_000 + np.arange(SHAPE[0], dtype=np.uint32)[:, None] // 40, 0).astype(np.uint32)
    values = {"labels": labels, "raw": raw, "instances": instances, "probabilities": probabilities}
    return {**values, "disagreement": noise, "entropy": 1 - noise}


def make(folder: Path, key: str = "r", outputs: dict[str, str] | None = None) -> Run:
    """An empty run in a store of its own."""
    path = folder / f"{key}.ome.zarr"
    store = LabelStore.create(path, SHAPE, 0.5, CLASSES)
    return Run(store.create_run(key, {"job": 1}, CLASSES, OUTPUTS if outputs is None else outputs).path)


def put(run: Run, tiles: Iterable[int], values: dict[str, np.ndarray]) -> None:
    """Write and finish tiles of a run that is open for writing."""
    for tile in tiles:
        window = TILES[tile]
        place = window.slices()
        run.write(window, {name: values[name][..., *place] for name in run.outputs})
        run.finish(tile, window)


def chunk_bytes(run: Run) -> dict[str, bytes]:
    """All chunk files."""
    files = (f for f in run.path.rglob("c/**/*") if f.is_file())
    return {str(f.relative_to(run.path)): f.read_bytes() for f in files}


def main(path: str, part: str, *tiles: str) -> None:
    """Fill some tiles as a part, slowly, saying each."""
    values, run = truth(), Run(Path(path))
    with run.writing(part=part):
        print("in", flush=True)
        for tile in map(int, tiles):
            if tile not in run.done:
                put(run, [tile], values)
                print(tile, flush=True)
                time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
