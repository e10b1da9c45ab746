"""Connected components over windows: planes of labels of any size, walked in bounded memory.

Parts of objects in several windows are joined by two classes: `ComponentJoiner` keeps all parts, for those who walk
over the windows a second time (cleaning and instances of a prediction); `RowJoiner` forgets what is whole, for those
who walk once (polygons, differences between a truth and a prediction). Apart from them, because they ask something
else:

- `objects.picking` follows one object from a place, chunk by chunk, and reads nothing that it does not reach;
- the brush's fill and an object's description in `objects.table` look at one object in growing windows (`piece_at`);
- `inference.postprocess.instances.HugePieces` joins what two overlapping views of a seam both found to be one;
- scores, and truths that are images, number what they hold in memory as a whole (`connected`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage
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
Sides = tuple[Values, Values, Values, Values]


def connected(values: Values, diagonal: bool = False) -> npt.NDArray[np.int64]:
    """Number the pieces of equal value, 0 left out, from 1 in the order of their first pixels.

    Objects are connected through pixel sides (4-connectivity), as in measurements and exports; background, so holes,
    also through corners (`diagonal`), which is the other side of the same rule.
    """
    numbers: Numbers = label(values, background=0, connectivity=2 if diagonal else 1)  # type: ignore[no-untyped-call]
    return numbers


def first_pixels(parts: Values, count: int) -> Numbers:
    """The index of the first pixel of each of the parts 1..count, in reading order."""
    flat = parts.ravel()
    where = np.flatnonzero(flat)[::-1]
    first = np.zeros(count + 1, np.int64)
    first[flat[where]] = where
    return first[1:]


def piece_at(same: npt.NDArray[np.bool_], y: int, x: int) -> tuple[Window, npt.NDArray[np.bool_]]:
    """The true pixels that are connected with the one at `y, x`: the smallest window around them, and their mask."""
    parts, _ = ndimage.label(same)
    number = parts[y, x]
    rows, columns = ndimage.find_objects(parts, max_label=number)[number - 1]
    box = Window.between((rows.start, columns.start), (rows.stop, columns.stop))
    return box, parts[rows, columns] == number


def cut_off(piece: Window, window: Window, bounds: Window) -> bool:
    """Whether a piece reaches a side of the window it was found in that is no side of all there is."""
    return (
        (piece.y == window.y > bounds.y)
        or (piece.x == window.x > bounds.x)
        or (piece.stop[0] == window.stop[0] < bounds.stop[0])
        or (piece.stop[1] == window.stop[1] < bounds.stop[1])
    )


def sides_of(values: Values) -> Sides:
    """Copies of the top, left, bottom and right side of a window, so that the window itself can be freed."""
    return values[0].copy(), values[:, 0].copy(), values[-1].copy(), values[:, -1].copy()


def components_of(count: int, pairs: Sequence[Numbers]) -> tuple[int, Numbers]:
    """How many components `count` parts make if those in pairs `(n, 2)` belong together, and the one of each part."""
    if not count:
        return 0, np.zeros(0, np.int64)
    one, other = np.concatenate([*pairs, np.zeros((0, 2), np.int64)]).T
    graph = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=(count, count))
    number, component = connected_components(graph, directed=False)
    return int(number), np.asarray(component, np.int64)


@dataclass(frozen=True)
class _Side:
    """Pixels along a side of a window: the part each belongs to (-1: none), and its value."""

    parts: Numbers
    values: Values

    @classmethod
    def blank(cls, length: int) -> _Side:
        return cls(np.full(length, -1, np.int64), np.zeros(length, np.int64))

    def at(self, index: Numbers) -> _Side:
        return _Side(self.parts[index], self.values[index])

    def pairs(self, other: _Side) -> Numbers:
        """Parts `(n, 2)` of both that have the same value in a pixel."""
        both = (self.parts >= 0) & (other.parts >= 0) & (self.values == other.values)
        return np.unique(np.stack([self.parts[both], other.parts[both]], 1), axis=0)


class _Seams:
    """The sides that windows have in common, as these come in row by row and from left to right."""

    def __init__(self, width: int, diagonal: bool = False) -> None:
        self._width, self._diagonal = width, diagonal
        self._above = self.below = _Side.blank(width)
        self._left = (-1, _Side.blank(0))

    def next_row(self, follows: bool) -> None:
        """Begin a row of windows; `follows`: it lies right below the one before."""
        self._above = self.below if follows else _Side.blank(self._width)
        self.below = _Side.blank(self._width)
        self._left = (-1, _Side.blank(0))

    def add(self, window: Window, parts: Sides, values: Sides) -> Iterator[tuple[_Side, _Side, bool]]:
        """Pixels beside each other on both sides of a seam, and whether they share a side (else a corner)."""
        top, left, bottom, right = (_Side(p, v) for p, v in zip(parts, values, strict=True))
        if self._left[0] == window.x:
            yield from self._along(self._left[1], left, 0)
        yield from self._along(self._above, top, window.x)
        self._left = (window.stop[1], right)
        self.below.parts[window.x : window.stop[1]] = bottom.parts
        self.below.values[window.x : window.stop[1]] = bottom.values

    def _along(self, before: _Side, here: _Side, offset: int) -> Iterator[tuple[_Side, _Side, bool]]:
        """Pixel `i` of `here` lies beside `offset + i` of `before`."""
        index = np.arange(len(here.parts))
        for shift in (-1, 0, 1) if self._diagonal else (0,):
            at = index + offset + shift
            inside = (at >= 0) & (at < len(before.parts))
            yield before.at(at[inside]), here.at(index[inside]), shift == 0


@dataclass
class ComponentJoiner:
    """Parts at the sides of windows, all kept until the last window came in row by row: for a second pass over them.

    Parameters
    ----------
    width : int
        Of the whole plane.
    diagonal : bool
        Whether pixels that share a corner are connected.

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
        self._seams = _Seams(self.width, self.diagonal)
        self._row = self._stop = 0

    def add(self, window: Window, numbers: Numbers, values: Values, *stats: Values) -> None:
        """Take in a window.

        Parameters
        ----------
        window : Window
        numbers : (h, w) int64
            Its pieces (`connected`).
        values : (h, w)
            Pieces of the same value belong together.
        *stats : (m + 1,) or (m + 1, k) arrays
            Of each piece by its number; those of the parts are given back by `stats`.
        """
        sides = sides_of(numbers)
        ids = np.unique(np.concatenate(sides))
        ids = ids[ids > 0]
        lut = np.full(int(numbers.max(initial=0)) + 1, -1, np.int64)
        lut[ids] = self._sizes + np.arange(len(ids))
        self._ids[window.y, window.x] = (self._sizes, ids)
        self._sizes += len(ids)
        self._stats.append(tuple(s[ids] for s in stats))
        if window.y != self._row or not self._stop:
            self._seams.next_row(window.y == self._stop and self._stop > 0)
            self._row, self._stop = window.y, window.stop[0]
        top, left, bottom, right = (lut[side] for side in sides)
        for a, b, straight in self._seams.add(window, (top, left, bottom, right), sides_of(values)):
            self._pairs.append(a.pairs(b))
            if self.diagonal:
                for one, other in ((a, b), (b, a)):
                    self._beside(one, other, straight)

    def _beside(self, one: _Side, other: _Side, straight: bool) -> None:
        """Note the neighbours of parts: unknown pixels, and across pixel sides (`straight`) pixels of classes."""
        self._open.append(np.unique(one.parts[(one.parts >= 0) & (other.values == IGNORED)]))
        if straight:
            touching = (one.parts >= 0) & (other.values > 0) & (other.values != IGNORED)
            keys, counts = np.unique(one.parts[touching] * 256 + other.values[touching], return_counts=True)
            self._contacts.append(np.stack([keys // 256, keys % 256, counts], 1))

    def close(self) -> None:
        """All windows are in: find the components."""
        self.count, self.component = components_of(self._sizes, self._pairs)
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


class RowJoiner:
    """Parts of windows joined row by row of windows; only those that the next row can still meet are remembered.

    What a part is made of (its polygons, its row in a table) the caller keeps in a list, in the order in which parts
    are added. After each row `end_row` says how to join that list and what of it is whole and can leave it.

    Parameters
    ----------
    width : int
        Of the whole plane.
    """

    def __init__(self, width: int) -> None:
        self._seams = _Seams(width)
        self._pairs: list[Numbers] = []
        self.count = 0

    def begin_row(self, follows: bool = True) -> None:
        """Begin a row; `follows`: it lies right below the one before. Otherwise the caller's list must be empty."""
        self._seams.next_row(follows)
        if not follows:
            self.count = 0

    def add(self, window: Window, parts: Sides, values: Sides, count: int) -> None:
        """Add a window, from left to right.

        Parameters
        ----------
        window : Window
        parts : four arrays
            Along its sides (`sides_of`) the number of the part, from 0; -1: none.
        values : four arrays
            Parts of the same value belong together.
        count : int
            Of the window's parts.
        """
        top, left, bottom, right = (np.where(side >= 0, side + self.count, -1) for side in parts)
        self._pairs += [a.pairs(b) for a, b, _ in self._seams.add(window, (top, left, bottom, right), values)]
        self.count += count

    def end_row(self, group: Callable[[Numbers], Numbers] | None = None) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """The row is complete.

        Parameters
        ----------
        group : callable, optional
            From the pairs `(n, 2)` of parts that touch to what each part belongs to, from 0. None: all that touch.

        Returns
        -------
        owner : (parts,) int64
            What each part belongs to, from 0.
        open : (n,) bool
            Which of these reach the next row. They are the first parts of it, in their order.
        """
        if group is None:
            owner = components_of(self.count, self._pairs)[1]
        else:
            owner = group(np.concatenate([*self._pairs, np.zeros((0, 2), np.int64)]))
        below = self._seams.below.parts
        below[below >= 0] = owner[below[below >= 0]]
        is_open = np.zeros(int(owner.max(initial=-1)) + 1, np.bool_)
        is_open[below[below >= 0]] = True
        below[below >= 0] = (np.cumsum(is_open) - 1)[below[below >= 0]]
        self._pairs, self.count = [], int(is_open.sum())
        return owner, is_open
