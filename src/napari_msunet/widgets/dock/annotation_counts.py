"""The number of annotated pixels, kept up to date stroke by stroke without reading the whole store."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from napari_msunet.constants import CHUNK
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.stroke_samples import chunks_of, written_chunks

_ZERO = np.zeros(256, np.int64)


class Counts:
    """The number of pixels of each value in a store of classes, block by block; any thread may use it.

    Parameters
    ----------
    store : LabelStore
        A store of classes (uint8).
    """

    def __init__(self, store: LabelStore) -> None:
        self.store = store
        self._blocks: dict[tuple[int, int], npt.NDArray[np.int64]] = {}
        self._version: int | None = None
        self._mutex = threading.Lock()

    def scan(self) -> dict[int, int]:
        """Count all blocks that have a file, which are those that hold anything."""
        version = self.store.version
        self.store.flush()
        on_disk = written_chunks(self.store)
        with self._mutex:
            self._blocks = {key: counts for key, counts in self._blocks.items() if key in set(on_disk)}
        found = self._count(on_disk)
        self._version = version
        return found

    @property
    def outdated(self) -> bool:
        """Whether the store was not counted yet, or was changed since without a call of `update`."""
        return self._version != self.store.version

    def update(self, region: Region) -> dict[int, int]:
        """Count the blocks again that a stroke touched (level-0 pixels of the store)."""
        if self._version is not None:
            self._version = self.store.version
        return self._count(chunks_of(self.store, region))

    def of(self) -> dict[int, int]:
        """Pixels by value, without 0 and without values that do not occur."""
        with self._mutex:
            total = sum(self._blocks.values(), start=_ZERO)
        return {int(value): int(total[value]) for value in np.flatnonzero(total) if value}

    def windows(self, value: int) -> list[Window]:
        """The blocks that hold a value."""
        with self._mutex:
            found = sorted(key for key, counts in self._blocks.items() if counts[value])
        return [self._window(*key) for key in found]

    def _count(self, keys: Iterable[tuple[int, int]]) -> dict[int, int]:
        for key in keys:
            values = self.store.read(self._window(*key))
            counts = np.bincount(values.ravel(), minlength=256).astype(np.int64)
            with self._mutex:
                if counts[1:].any():
                    self._blocks[key] = counts
                else:
                    self._blocks.pop(key, None)
        return self.of()

    def _window(self, row: int, column: int) -> Window:
        whole = Window(0, 0, *self.store.shape)
        return Window(row * CHUNK, column * CHUNK, CHUNK, CHUNK).intersection(whole)


def erase(store: LabelStore, counts: Counts, value: int) -> list[Region]:
    """Erase a value from an annotation, block by block, and give the regions that changed. Each erasure can be
    undone."""
    changed = []
    for window in counts.windows(value):
        mask = store.read(window) == value
        if mask.any():
            store.write(window, 0, mask)
            changed.append(Region(window.y, window.x, window.height, window.width))
    return changed
