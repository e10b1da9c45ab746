"""Connected components over windows: planes of labels of any size, walked in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import label

from napari_msunet.constants import IGNORED
from napari_msunet.geometry import Window

# ----------------------------------------------------------------------------------------------------------------------
# Planes of labels of any size, and the windows in which they are walked through.

SIDE = 2048
"""Side of the windows in pixels; it has no influence on any result."""


class Plane(Protocol):
    """Labels that are read and written by windows."""

    def read(self, window: Window) -> npt.NDArray[Any]:
        """Values of a window, which may stick out: 0 there."""

    def write(self, window: Window, values: npt.NDArray[Any]) -> None:
        """Put values into a window inside."""


@dataclass(frozen=True)
class ArrayPlane:
    """A plane in memory."""

    values: npt.NDArray[Any]

    def read(self, window: Window) -> npt.NDArray[Any]:
        """Values of a window, 0 outside."""
        out = np.zeros(window.shape, self.values.dtype)
        inside = window.intersection(Window(0, 0, *self.values.shape))
        out[inside.slices((window.y, window.x))] = self.values[inside.slices()]
        return out

    def write(self, window: Window, values: npt.NDArray[Any]) -> None:
        """Put values into a window."""
        self.values[window.slices()] = values


class Walk:
    """The windows that hold labels, row by row, and the part of them that was predicted.

    Parameters
    ----------
    shape : (h, w)
        Of the plane.
    done : iterable of Window
        What was predicted; windows that touch none of it are left out.
    side : int
        Of the windows; they lie on its multiples.
    """

    def __init__(self, shape: tuple[int, int], done: Iterable[Window], side: int = SIDE) -> None:
        self.whole, self.side = Window(0, 0, *shape), side
        self._done: dict[tuple[int, int], list[Window]] = {}
        for window in done:
            inside = window.intersection(self.whole)
            for y in range(inside.y // side, -(-inside.stop[0] // side)):
                for x in range(inside.x // side, -(-inside.stop[1] // side)):
                    self._done.setdefault((y, x), []).append(inside)

    def __len__(self) -> int:
        return len(self._done)

    def __iter__(self) -> Iterator[Window]:
        for y, x in sorted(self._done):
            yield self.at(y, x)

    def at(self, y: int, x: int) -> Window:
        """The window of a row and column, whether it holds labels or not."""
        return Window(y * self.side, x * self.side, self.side, self.side).intersection(self.whole)

    def has(self, y: int, x: int) -> bool:
        """Whether the window of a row and column is walked through."""
        return (y, x) in self._done

    def over(self, window: Window) -> Iterator[Window]:
        """The windows that touch another one."""
        inside = window.intersection(self.whole)
        for y in range(inside.y // self.side, -(-inside.stop[0] // self.side)):
            for x in range(inside.x // self.side, -(-inside.stop[1] // self.side)):
                if (y, x) in self._done:
                    yield self.at(y, x)

    def known(self, window: Window) -> npt.NDArray[np.bool_]:
        """Which pixels of one of the windows were predicted."""
        found = np.zeros(window.shape, np.bool_)
        for done in self._done.get((window.y // self.side, window.x // self.side), ()):
            part = done.intersection(window)
            if not part.empty:
                found[part.slices((window.y, window.x))] = True
        return found


# ----------------------------------------------------------------------------------------------------------------------
# Connected components, joined across the windows of a walk.

Numbers = npt.NDArray[np.int64]
Values = npt.NDArray[Any]


def connected(values: Values, diagonal: bool = False) -> npt.NDArray[np.int64]:
    """Number the pieces of equal value, 0 left out, from 1 in the order of their first pixels.

    Objects are connected by pixel sides (4-connectivity), as in measurements and exports; background, and so holes,
    also by corners (`diagonal`), which is the other side of the same rule.
    """
    numbers: Numbers = label(values, background=0, connectivity=2 if diagonal else 1)  # type: ignore[no-untyped-call]
    return numbers


@dataclass(frozen=True)
class _Side:
    """Pixels along a side of a window: the part each belongs to (-1: none), and its value."""

    parts: Numbers
    values: Values

    def at(self, index: Numbers) -> _Side:
        return _Side(self.parts[index], self.values[index])


@dataclass
class ComponentJoiner:
    """Parts at the sides of windows, joined as the windows come in, row by row.

    Parameters
    ----------
    width : int
        Of the whole plane.
    diagonal : bool
        Whether pixels that share only a corner are connected.

    Attributes
    ----------
    component : (n,) int64
        After `close`: the component of each part, from 0.
    count : int
        After `close`: number of components.
    """

    width: int
    diagonal: bool = False
    component: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))
    count: int = 0

    def __post_init__(self) -> None:
        self._sizes = 0
        self._ids: dict[tuple[int, int], tuple[int, Numbers]] = {}
        self._pairs: list[Numbers] = []
        self._open: list[Numbers] = []
        self._contacts: list[Numbers] = []
        self._stats: list[tuple[Values, ...]] = []
        self._above = self._below = self._blank(self.width)
        self._row = self._stop = 0
        self._left = (0, self._blank(0))

    @staticmethod
    def _blank(length: int) -> _Side:
        return _Side(np.full(length, -1, np.int64), np.zeros(length, np.uint8))

    def add(self, window: Window, numbers: Numbers, values: Values, *stats: Values) -> None:
        """Take in a window.

        Parameters
        ----------
        window : Window
        numbers : (h, w) int64
            Its pieces (`connected`).
        values : (h, w)
            Pieces of the same value are connected where they touch.
        *stats : (m + 1,) or (m + 1, k) arrays
            Of each piece by its number; those of the parts are given back by `stats`.
        """
        sides = [(numbers[s], values[s]) for s in (np.s_[0], np.s_[:, 0], np.s_[-1], np.s_[:, -1])]
        ids = np.unique(np.concatenate([n for n, _ in sides]))
        ids = ids[ids > 0]
        lut = np.full(int(numbers.max(initial=0)) + 1, -1, np.int64)
        lut[ids] = self._sizes + np.arange(len(ids))
        top, left, bottom, right = (_Side(lut[n], v.copy()) for n, v in sides)
        self._ids[window.y, window.x] = (self._sizes, ids)
        self._sizes += len(ids)
        self._stats.append(tuple(s[ids] for s in stats))
        self._next_row(window)
        self._join(self._above, top, window.x)
        if self._left[0] == window.x:
            self._join(self._left[1], left, 0)
        self._left = (window.stop[1], right)
        self._below.parts[window.x : window.stop[1]] = bottom.parts
        self._below.values[window.x : window.stop[1]] = bottom.values

    def _next_row(self, window: Window) -> None:
        if window.y != self._row or not self._stop:
            follows = window.y == self._stop and self._stop > 0
            self._above = self._below if follows else self._blank(self.width)
            self._below = self._blank(self.width)
            self._row, self._stop, self._left = window.y, window.stop[0], (-1, self._blank(0))

    def _join(self, before: _Side, here: _Side, offset: int) -> None:
        """Two sides that lie along each other; pixel `i` of `here` beside `offset + i` of `before`."""
        index = np.arange(len(here.parts))
        for shift in (-1, 0, 1) if self.diagonal else (0,):
            at = index + offset + shift
            inside = (at >= 0) & (at < len(before.parts))
            a, b = before.at(at[inside]), here.at(index[inside])
            both = (a.parts >= 0) & (b.parts >= 0) & (a.values == b.values)
            if both.any():
                self._pairs.append(np.unique(np.stack([a.parts[both], b.parts[both]], 1), axis=0))
            if self.diagonal:
                for one, other in ((a, b), (b, a)):
                    self._beside(one, other, straight=shift == 0)

    def _beside(self, one: _Side, other: _Side, straight: bool) -> None:
        """Note the neighbours of parts: unknown pixels, and across pixel sides (`straight`) pixels of classes."""
        self._open.append(np.unique(one.parts[(one.parts >= 0) & (other.values == IGNORED)]))
        if straight:
            touching = (one.parts >= 0) & (other.values > 0) & (other.values != IGNORED)
            keys, counts = np.unique(one.parts[touching] * 256 + other.values[touching], return_counts=True)
            self._contacts.append(np.stack([keys // 256, keys % 256, counts], 1))

    def close(self) -> None:
        """All windows are in: find the components."""
        n = self._sizes
        pairs = np.concatenate(self._pairs) if self._pairs else np.zeros((0, 2), np.int64)
        graph = coo_array((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
        self.count, component = connected_components(graph, directed=False) if n else (0, np.zeros(0))
        self.component = np.asarray(component, np.int64)
        self._pairs = []

    def parts(self, window: Window) -> tuple[Numbers, Numbers]:
        """The pieces of a window that are parts, and the component of each."""
        start, ids = self._ids[window.y, window.x]
        return ids, self.component[start : start + len(ids)]

    def stats(self, number: int) -> Values:
        """The facts about the parts that `add` was given, in the order of `component`."""
        return np.concatenate([s[number] for s in self._stats])

    @property
    def opened(self) -> Numbers:
        """Parts with an unknown pixel on the other side of a window's side."""
        return np.concatenate([*self._open, np.zeros(0, np.int64)])

    @property
    def contacts(self) -> Numbers:
        """`(n, 3)`: part, class on the other side of a window's side, and how often."""
        return np.concatenate([*self._contacts, np.zeros((0, 3), np.int64)])
