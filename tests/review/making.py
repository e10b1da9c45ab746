"""Runs with scores, made by hand: what the review queue is tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import napari_msunet as ms
from napari_msunet.geometry import Window
from napari_msunet.labels.levels import tiles


def make_store(folder: Path, shape: tuple[int, int] = (2048, 1536), **options: Any) -> ms.LabelStore:
    """An empty store of two classes, half a µm per pixel."""
    return ms.LabelStore.create(
        folder / "labels.ome.zarr", shape=shape, mpp=0.5, classes=("gland", "stroma"), **options
    )


def add_run(
    store: ms.LabelStore,
    key: str,
    arrays: dict[str, np.ndarray],
    dtypes: dict[str, str] | None = None,
    part: Window | None = None,
    finished: bool = True,
) -> Any:
    """A prediction with these outputs (whole-store arrays), shown by the store."""
    kinds = {"labels": "uint8", "probabilities": "float16", "disagreement": "float16", "entropy": "float16"}
    outputs = {name: (dtypes or {}).get(name, kinds[name]) for name in arrays}
    run = store.create_run(key, {}, store.classes, outputs)
    with run.writing():
        for number, window in enumerate(tiles(part or Window(0, 0, *store.shape), 1024)):
            cut = (..., *window.slices())
            run.write(window, {name: values[cut] for name, values in arrays.items()})
            run.finish(number, window)
        if finished:
            run.complete_run()
    store.merge(run)
    return run


def hot(shape: tuple[int, int], places: dict[tuple[int, int], float], size: int = 256) -> np.ndarray:
    """A faint map with windows (row, column) of these values."""
    values = np.full(shape, 0.01, np.float32)
    for (row, column), value in places.items():
        values[row * size : (row + 1) * size, column * size : (column + 1) * size] = value
    return values
