"""The object at a place of a store, found chunk by chunk up to a limit, so that a click never waits for long."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_msunet.constants import CHUNK
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.objects.edits import Mask, is_object

LIMIT = 4096
"""An object is followed until it is this many level-0 pixels high or wide, unless another limit is given."""

Chunk = tuple[int, int]


class NothingHereError(StoreError):
    """There is background, or nothing, at the place."""


class ObjectTooLargeError(StoreError):
    """The object is larger than the limit."""


def object_at(store: LabelStore, place: tuple[float, float], limit: int = LIMIT) -> tuple[Window, Mask]:
    """The object under a place: all pixels of its value that are connected with it by their sides.

    Reads only the chunks that the object reaches, and stops when it is larger than the limit.

    Parameters
    ----------
    store : LabelStore
    place : (y, x)
        In level-0 pixels of the store.
    limit : int
        Height and width of the largest object, in level-0 pixels.

    Returns
    -------
    window : Window
        The smallest around the object.
    mask : (h, w) bool
        Which pixels of the window it has.

    Raises
    ------
    NothingHereError
        If there is background, or the place is outside.
    ObjectTooLargeError
        If it is higher or wider than the limit.
    """
    y, x = int(np.floor(place[0])), int(np.floor(place[1]))
    spot = store.read(Window(y, x, 1, 1))
    if not is_object(spot)[0, 0]:
        raise NothingHereError("There is no object under the mouse: click on a coloured one.")
    search = _Search(store, spot[0, 0], limit)
    search.follow((y // CHUNK, x // CHUNK), (y, x))
    return search.result()


class _Search:
    """Chunks seen so far: for each its parts, and which of them belong to the object."""

    def __init__(self, store: LabelStore, value: Any, limit: int) -> None:
        self.store, self.value, self.limit = store, value, limit
        self.bounds = Window(0, 0, *store.shape)
        self.parts: dict[Chunk, npt.NDArray[np.int32]] = {}
        self.taken: dict[Chunk, set[int]] = {}
        self.box: Window | None = None

    def follow(self, first: Chunk, place: tuple[int, int]) -> None:
        """Take the part at the place, and all parts that touch it across the chunks' edges."""
        window = self._window(first)
        start = int(self._load(first)[place[0] - window.y, place[1] - window.x])
        waiting: deque[tuple[Chunk, set[int]]] = deque([(first, {start})])
        while waiting:
            chunk, numbers = waiting.popleft()
            new = numbers - self.taken.setdefault(chunk, set())
            if not new:
                continue
            self.taken[chunk] |= new
            here = np.isin(self.parts[chunk], list(new))
            self._measure(self._window(chunk), here)
            for step, mine, theirs in _SIDES:
                edge = here[mine]
                beside = (chunk[0] + step[0], chunk[1] + step[1])
                if edge.any() and not self._window(beside).empty:
                    met = self._load(beside)[theirs]
                    waiting.append((beside, set(met[edge & (met > 0)].tolist())))

    def result(self) -> tuple[Window, Mask]:
        box = self.box or Window(0, 0, 0, 0)
        mask = np.zeros(box.shape, np.bool_)
        for chunk, numbers in self.taken.items():
            window = self._window(chunk)
            part = window.intersection(box)
            if numbers and not part.empty:
                inner = self.parts[chunk][part.slices((window.y, window.x))]
                mask[part.slices((box.y, box.x))] = np.isin(inner, list(numbers))
        return box, mask

    def _window(self, chunk: Chunk) -> Window:
        return Window(chunk[0] * CHUNK, chunk[1] * CHUNK, CHUNK, CHUNK).intersection(self.bounds)

    def _load(self, chunk: Chunk) -> npt.NDArray[np.int32]:
        if chunk not in self.parts:
            same = self.store.read(self._window(chunk)) == self.value
            self.parts[chunk] = np.ones(same.shape, np.int32) if same.all() else ndimage.label(same)[0]
        return self.parts[chunk]

    def _measure(self, window: Window, here: Mask) -> None:
        rows, columns = np.flatnonzero(here.any(axis=1)), np.flatnonzero(here.any(axis=0))
        start = (window.y + int(rows[0]), window.x + int(columns[0]))
        stop = (window.y + int(rows[-1]) + 1, window.x + int(columns[-1]) + 1)
        if self.box is not None:
            start = (min(start[0], self.box.y), min(start[1], self.box.x))
            stop = (max(stop[0], self.box.stop[0]), max(stop[1], self.box.stop[1]))
        self.box = Window.between(start, stop)
        if max(self.box.shape) > self.limit:
            raise ObjectTooLargeError(
                f"This object is larger than {self.limit:,} x {self.limit:,} pixels, so nothing was changed; cut it "
                "with the eraser first, or work on a part of it with the brush."
            )


_SIDES = (
    ((-1, 0), np.s_[0, :], np.s_[-1, :]),
    ((1, 0), np.s_[-1, :], np.s_[0, :]),
    ((0, -1), np.s_[:, 0], np.s_[:, -1]),
    ((0, 1), np.s_[:, -1], np.s_[:, 0]),
)
