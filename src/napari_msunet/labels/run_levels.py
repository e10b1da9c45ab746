"""The coarser levels of a run: made while it is filled, where nothing more will come, and the rest in the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window
from napari_msunet.labels.chunks import CHUNK
from napari_msunet.labels.levels import coarsen
from napari_msunet.labels.run_outputs import LABELS

Read = Callable[[str, int, tuple[int, ...], int, int], npt.NDArray[Any] | None]
"""From output, level, channel (or nothing), cy, cx to a chunk; None: all zero."""

Save = Callable[[str, int, tuple[int, ...], int, int, npt.NDArray[Any] | None], None]
"""Puts a chunk of a level on the disk; None: all zero."""

Square = tuple[int, int]

_FLOAT32 = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


class Pending:
    """What has yet to be written below each chunk of level 1, and which of these changed since they were made.

    Parameters
    ----------
    shapes : list of (h, w)
        Of the levels.
    outputs : iterable of str
    """

    def __init__(self, shapes: list[tuple[int, int]], outputs: Iterable[str]) -> None:
        self._shapes = shapes
        self._lock = threading.Lock()
        self._stale: dict[str, set[Square]] = {name: set() for name in outputs}
        self._count = (-(-shapes[0][0] // (2 * CHUNK)), -(-shapes[0][1] // (2 * CHUNK)))
        self._left = np.zeros(self._count, np.int64)
        self._waiting: dict[str, list[set[Square]]] = {name: [set() for _ in shapes] for name in outputs}
        self.expect([Window(0, 0, *shapes[0])])

    def expect(self, windows: Iterable[Window]) -> None:
        """Windows that do not overlap, which will be finished: where they end, coarser levels need not wait."""
        left = np.zeros(self._count, np.int64)
        for window in windows:
            for square, pixels in _squares(window):
                left[square] += pixels
        self._left = left

    def finished(self, window: Window) -> None:
        """A tile is finished."""
        for square, pixels in _squares(window):
            self._left[square] -= pixels

    def changed(self, output: str, window: Window) -> None:
        """A window of an output was written."""
        with self._lock:
            self._stale[output].update(square for square, _ in _squares(window))

    def take(self, output: str, windows: Iterable[Window] | None = None) -> list[Square]:
        """The chunks of level 1 to be made, in rows: those below `windows` that are finished, or all; each once."""
        with self._lock:
            stale = self._stale[output]
            if windows is None:
                ready = set(stale)
            else:
                near = {square for window in windows for square, _ in _squares(window)}
                ready = {square for square in near & stale if self._left[square] <= 0}
            stale -= ready
        return sorted(ready)

    def above(self, output: str, made: Iterable[Square], level: int, finish: bool) -> list[Square]:
        """The chunks of `level` + 1 above those just `made`: unless it is to `finish`, those whose four are there."""
        waiting = self._waiting[output][level]
        waiting.update(made)
        parents = {(y // 2, x // 2) for y, x in (waiting if finish else made)}
        ready = [parent for parent in sorted(parents) if finish or self._settled(output, level + 1, *parent)]
        for y, x in ready:
            waiting -= {(2 * y + i, 2 * x + j) for i in (0, 1) for j in (0, 1)}
        return ready

    def _settled(self, output: str, level: int, cy: int, cx: int) -> bool:
        """Whether nothing more is expected below a chunk of a level above the first."""
        side = 1 << (level - 1)
        place = (slice(cy * side, (cy + 1) * side), slice(cx * side, (cx + 1) * side))
        if (self._left[place] > 0).any():
            return False
        with self._lock:
            return not any(
                cy * side <= y < (cy + 1) * side and cx * side <= x < (cx + 1) * side for y, x in self._stale[output]
            )


def make_levels(
    pending: Pending,
    planes: Mapping[str, list[tuple[int, ...]]],
    access: tuple[Read, Save],
    shapes: list[tuple[int, int]],
    windows: Iterable[Window] | None = None,
) -> None:
    """Make coarser chunks: those of finished places among `windows`, or (None) all that are left.

    Parameters
    ----------
    planes : mapping
        For each output its channels, as the leading part of a chunk's key.
    access : (read, save)
    shapes : list of (h, w)
        Of the levels.
    """
    windows = None if windows is None else list(windows)
    for output, channels in planes.items():
        made = pending.take(output, windows)
        for level in range(1, len(shapes)):
            for square in made:
                for channel in channels:
                    _make(output, level, channel, square, shapes[level - 1], access)
            if level + 1 < len(shapes):
                made = pending.above(output, made, level, finish=windows is None)


def _make(
    output: str, level: int, channel: tuple[int, ...], square: Square, below: tuple[int, int], access: tuple[Read, Save]
) -> None:
    """One chunk of a level from the four below it."""
    read, save = access
    cy, cx = square
    rule = coarsen if output in LABELS else _mean
    chunk: npt.NDArray[Any] | None = None
    half = CHUNK // 2
    for i in (0, 1):
        for j in (0, 1):
            y, x = 2 * cy + i, 2 * cx + j
            height, width = min(CHUNK, below[0] - y * CHUNK), min(CHUNK, below[1] - x * CHUNK)
            values = read(output, level - 1, channel, y, x) if height > 0 and width > 0 else None
            if values is not None:
                part = rule(values[:height, :width])
                if chunk is None:
                    chunk = np.zeros((CHUNK, CHUNK), values.dtype)
                chunk[i * half : i * half + part.shape[0], j * half : j * half + part.shape[1]] = part
    save(output, level, channel, cy, cx, chunk)


def _mean(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The mean of each 2 x 2 of a chunk, of those pixels that exist, in the same type."""
    height, width = values.shape
    if height % 2 or width % 2:
        values = np.pad(values, ((0, height % 2), (0, width % 2)), mode="edge")
    if values.dtype.kind == "u":
        rows = np.add(values[::2], values[1::2], dtype=np.uint16)
        steps: npt.NDArray[Any] = ((rows[:, ::2] + rows[:, 1::2] + np.uint16(2)) >> 2).astype(values.dtype)
        return steps
    if values.dtype == np.float16:  # from a table: numpy takes twice as long to work it out
        values = np.take(_FLOAT32, values.view(np.uint16))
    halves = values[::2] + values[1::2]
    mean: npt.NDArray[Any] = (halves[:, ::2] + halves[:, 1::2]) * np.float32(0.25)
    return mean


def _squares(window: Window) -> Iterator[tuple[Square, int]]:
    """The chunks of level 1 above a window of level 0, and the number of its pixels in each."""
    side = 2 * CHUNK
    for cy in range(window.y // side, -(-window.stop[0] // side)):
        for cx in range(window.x // side, -(-window.stop[1] // side)):
            part = window.intersection(Window(cy * side, cx * side, side, side))
            yield (cy, cx), part.height * part.width
