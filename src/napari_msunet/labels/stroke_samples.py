"""Samples of the annotated pixels of a store, kept up to date stroke by stroke without reading the whole store."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_msunet.constants import CHUNK, IGNORED
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels.checks import touched

if TYPE_CHECKING:
    from napari_msunet.labels.store import LabelStore
PER_CHUNK = 400
"""Most samples of a class in a chunk, so that one large stroke does not outweigh all others."""

MOST = 1000
"""Most samples of a class."""

MARKED_CHUNKS = 400
"""Most chunks of regions that are marked as fully annotated which are read; regions can be as large as a slide."""

Key = tuple[int, int]


@dataclass(frozen=True)
class AnnotatedPixels:
    """Annotated pixels.

    Attributes
    ----------
    places : (n, 2) float64
        The pixels' centres `(y, x)` in level-0 pixels of the slide.
    values : (n,) uint8
        0 background, 1..K classes.
    """

    places: npt.NDArray[np.float64]
    values: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.values)


def written_chunks(store: LabelStore) -> list[Key]:
    """Rows and columns of the chunks that have a file; those of strokes that wait to be saved come with `flush`.

    Raises
    ------
    StoreError
        If the store is gone.
    """
    folder = store.path / "0" / "c"
    try:
        return sorted(
            (int(row.name), int(column.name))
            for row in folder.iterdir()
            if row.name.isdigit()
            for column in row.iterdir()
            if column.name.isdigit()
        )
    except FileNotFoundError:
        if not store.path.exists():
            raise StoreError(f"{store.path} is gone; put it back, or start another annotation.") from None
        return []


def chunks_of(store: LabelStore, region: Region | Window) -> list[Key]:
    """Rows and columns of the chunks that a region touches (level-0 pixels of the store)."""
    window = touched(region)
    rows = range(max(0, window.y) // CHUNK, -(-min(window.stop[0], store.shape[0]) // CHUNK))
    columns = range(max(0, window.x) // CHUNK, -(-min(window.stop[1], store.shape[1]) // CHUNK))
    return [(row, column) for row in rows for column in columns]


@cache
def _order() -> npt.NDArray[np.int64]:
    """The order in which the pixels of a chunk are taken: random, but the same for all chunks and at any time.

    So the samples depend on what is annotated only, not on the order of the strokes, and hardly change with one more
    stroke.
    """
    return np.random.default_rng(20).permutation(CHUNK * CHUNK)


class StrokeSamples:
    """Samples of a store of classes, chunk by chunk; any thread may use it.

    Parameters
    ----------
    store : LabelStore
        An annotation, or labels.
    """

    def __init__(self, store: LabelStore) -> None:
        self.store = store
        self._chunks: dict[Key, dict[int, npt.NDArray[np.int64]]] = {}
        self._mutex = threading.Lock()

    def scan(self) -> None:
        """Read all chunks that hold anything."""
        self.store.flush()
        keys = dict.fromkeys((*written_chunks(self.store), *self._marked()))
        with self._mutex:
            self._chunks = {key: found for key, found in self._chunks.items() if key in keys}
        self._read(keys)

    def update(self, region: Region | Window) -> None:
        """Read again the chunks that a stroke touched (level-0 pixels of the store)."""
        self._read(chunks_of(self.store, region))

    def _marked(self) -> Iterator[Key]:
        """The chunks of the regions that are marked as fully annotated, whose unpainted pixels are background."""
        left = MARKED_CHUNKS
        for polygon in self.store.fully_annotated:
            (top, left_edge), (bottom, right) = polygon.min(0), polygon.max(0)
            box = Window.between((floor(top), floor(left_edge)), (ceil(bottom) + 1, ceil(right) + 1))
            keys = chunks_of(self.store, box)[:left]
            yield from keys
            left -= len(keys)

    def _read(self, keys: Iterable[Key]) -> None:
        whole = Window(0, 0, *self.store.shape)
        for row, column in keys:
            window = Window(row * CHUNK, column * CHUNK, CHUNK, CHUNK).intersection(whole)
            truth = np.full((CHUNK, CHUNK), IGNORED, np.uint8)
            truth[: window.height, : window.width] = self.store.truth(window)
            found = {}
            if (truth != IGNORED).any():
                ordered = truth.ravel()[_order()]
                for value in np.unique(ordered).tolist():
                    if value != IGNORED:
                        found[value] = _order()[np.flatnonzero(ordered == value)[:PER_CHUNK]]
            with self._mutex:
                if found:
                    self._chunks[row, column] = found
                else:
                    self._chunks.pop((row, column), None)

    def of(self, most: int = MOST) -> AnnotatedPixels:
        """At most so many samples of each class, about as many from each chunk."""
        with self._mutex:
            chunks = dict(self._chunks)
        places, values = [np.empty((0, 2), np.int64)], [np.empty(0, np.uint8)]
        for value in sorted({value for found in chunks.values() for value in found}):
            having = {key: found[value] for key, found in sorted(chunks.items()) if value in found}
            share = _share([len(pixels) for pixels in having.values()], most)
            for (row, column), pixels in having.items():
                y, x = np.divmod(pixels[:share], CHUNK)
                places.append(np.stack((y + row * CHUNK, x + column * CHUNK), axis=1))
                values.append(np.full(len(y), value, np.uint8))
        return AnnotatedPixels(self.store.grid.places(np.concatenate(places)), np.concatenate(values))


def _share(counts: list[int], most: int) -> int:
    """The largest number such that not more than `most` remain if no count may exceed it; at least 1."""
    low, high = 1, max(counts)
    while low < high:
        middle = -(-(low + high) // 2)
        low, high = (middle, high) if sum(min(n, middle) for n in counts) <= most else (low, middle - 1)
    return low
