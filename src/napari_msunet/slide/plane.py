"""A level of a pyramid as an infinite plane: its chunks, its last pixels repeated, and background all around."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window, snapped
from napari_msunet.slide.backend import Level, Pixels

# ----------------------------------------------------------------------------------------------------------------------
# The cache of decoded chunks of all open slides, from which the least recently used are dropped first.

CACHE_BYTES = 128 << 20


class DecodedChunks:
    """A thread-safe cache of arrays; a chunk that several threads request at once is decoded once.

    Parameters
    ----------
    limit : int
        Largest number of bytes that are kept. A larger single array is kept alone until the next one comes.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._chunks: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._under_way: dict[Hashable, threading.Event] = {}
        self._gone: deque[int] = deque()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """The number of bytes that are held."""
        return self._bytes

    def get(self, key: Hashable, make: Callable[[], Pixels]) -> Pixels:
        """The array of `key`, made by `make()` where it is not held; it is read-only."""
        while True:
            with self._lock:
                if key in self._chunks:
                    self._chunks.move_to_end(key)
                    return self._chunks[key]
                other = self._under_way.get(key)
                if other is None:
                    self._under_way[key] = threading.Event()
                    break
            other.wait()
        try:
            chunk = make()
            chunk.setflags(write=False)
            self._keep(key, chunk)
            return chunk
        finally:
            with self._lock:
                self._under_way.pop(key).set()

    def _keep(self, key: Hashable, chunk: Pixels) -> None:
        self.purge()
        with self._lock:
            self._chunks[key] = chunk
            self._bytes += chunk.nbytes
            while self._bytes > self.limit and len(self._chunks) > 1:
                _, old = self._chunks.popitem(last=False)
                self._bytes -= old.nbytes

    def forget(self, slide: int) -> None:
        """Mark the chunks of a slide to be dropped at the next occasion.

        This takes no lock, because the garbage collector may call it while the same thread holds one.
        """
        self._gone.append(slide)

    def purge(self) -> None:
        """Drop the chunks of closed slides (their keys begin with the slide's number)."""
        with self._lock:
            gone = set()
            while self._gone:
                gone.add(self._gone.popleft())
            if gone:
                for key in [k for k in self._chunks if isinstance(k, tuple) and k[0] in gone]:
                    self._bytes -= self._chunks.pop(key).nbytes


CHUNKS = DecodedChunks()
"""The cache that all slides of a process share."""


# ----------------------------------------------------------------------------------------------------------------------
# Windows of one level, put together from its chunks.

Chunks = Callable[[int, int], Pixels]


class LevelPlane:
    """Reads any window of a level.

    Parameters
    ----------
    level : Level
        The level.
    extent : tuple of int
        Height and width of the slide in level-0 pixels. A level that was rounded down ends before the slide does: its
        last pixels are repeated up to the slide's end. A pixel that the slide's end cuts is mixed with background.
    background : (c,) array
        Colour outside the slide.
    """

    def __init__(self, level: Level, extent: tuple[int, int], background: Pixels) -> None:
        self.shape = level.shape
        self._chunk = level.chunk
        self._background = background
        self._ends = tuple(snapped(n / d) for n, d in zip(extent, level.downsample, strict=True))

    def read(self, window: Window, chunks: Chunks) -> Pixels:
        """The pixels of a window, which may extend beyond the level on any side."""
        rows = self._inside(window.y, window.height, 0)
        columns = self._inside(window.x, window.width, 1)
        if rows.take.size == window.height and columns.take.size == window.width and rows.whole and columns.whole:
            return self.inner(window, chunks)
        result = np.empty((*window.shape, self._background.size), self._background.dtype)
        result[...] = self._background
        if not rows.take.size or not columns.take.size:
            return result
        top, left = int(rows.take[0]), int(columns.take[0])
        inner = Window.between((top, left), (int(rows.take[-1]) + 1, int(columns.take[-1]) + 1))
        pixels = self.inner(inner, chunks)
        if not rows.whole:
            pixels = self._mixed(pixels[rows.take - top], rows.share[:, None, None])
        if not columns.whole:
            pixels = self._mixed(pixels[:, columns.take - left], columns.share[None, :, None])
        y, x = rows.offset, columns.offset
        result[y : y + rows.take.size, x : x + columns.take.size] = pixels
        return result

    def inner(self, window: Window, chunks: Chunks) -> Pixels:
        """The pixels of a window that lies inside the level; a copy, or a read-only view of one chunk."""
        (y, x), (bottom, right) = (window.y, window.x), window.stop
        height, width = self._chunk
        first, last = (y // height, x // width), ((bottom - 1) // height, (right - 1) // width)
        if first == last:
            return chunks(*first)[y - first[0] * height : bottom - first[0] * height, x - first[1] * width :][
                :, : right - x
            ]
        result = np.empty((*window.shape, self._background.size), self._background.dtype)
        for cy in range(first[0], last[0] + 1):
            for cx in range(first[1], last[1] + 1):
                part = Window(cy * height, cx * width, height, width).intersection(window)
                result[part.slices((y, x))] = chunks(cy, cx)[part.slices((cy * height, cx * width))]
        return result

    def _inside(self, start: int, count: int, axis: int) -> _Run:
        """The pixels of the level for a run along one axis, and how much of each lies in the slide."""
        end, size = self._ends[axis], self.shape[axis]
        places = np.arange(start, start + count, dtype=np.int64)
        share = np.clip(end - places, 0.0, 1.0)
        inside = (places >= 0) & (share > 0)
        places, share = places[inside], share[inside]
        return _Run(np.minimum(places, size - 1), share, max(0, -start))

    def _mixed(self, pixels: Pixels, share: npt.NDArray[np.float64]) -> Pixels:
        """Pixels blended with background by the share that lies in the slide, rounded to the slide's dtype."""
        if share.min() == 1:
            return pixels
        mixed = share * pixels + (1 - share) * self._background
        if pixels.dtype.kind in "iu":
            mixed = np.rint(mixed)
        return np.where(share == 1, pixels, mixed.astype(pixels.dtype))


class _Run:
    """Pixels along one axis: their indices, their share in the slide, and where they go."""

    def __init__(self, take: npt.NDArray[np.int64], share: npt.NDArray[np.float64], offset: int) -> None:
        self.take, self.share, self.offset = take, share, offset
        self.whole = take.size > 0 and bool(share.min() == 1) and int(take[-1] - take[0]) + 1 == take.size
