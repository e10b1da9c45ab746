"""Label stores with something in them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore


def blobs(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Two classes of blobs of a few to a few hundred pixels, some with holes, some at the edge."""
    noise = gaussian_filter(np.random.default_rng(seed).random(shape), 4)
    low, high = np.quantile(noise, [0.55, 0.85])
    return (noise > low).astype(np.uint8) + (noise > high)


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[..., LabelStore]]:
    """A function that makes a store with these values."""
    made: list[LabelStore] = []

    def make(values: np.ndarray, name: str = "labels", **options: Any) -> LabelStore:
        options.setdefault("classes", ("gland", "nucleus"))
        if "slide" not in options:
            options["shape"] = values.shape
        store = LabelStore.create(tmp_path / f"{name}.ome.zarr", **options)
        store.write(Window(0, 0, *values.shape), values, mask=values > 0)
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()
