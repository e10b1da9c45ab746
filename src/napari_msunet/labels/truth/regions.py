"""Connected regions of one truth and one answer, found tile by tile: memory follows what is open, not the slide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_msunet.geometry import Window
from napari_msunet.labels.annotated import IGNORED
from napari_msunet.labels.truth.compare import Bytes, Compared, Pair

LARGEST = 2048
"""Side in pixels of the truth of the largest region: what is larger is told in parts, so that each can be changed."""

CODE, COUNT, LOSS, SURE, TOP, LEFT, BOTTOM, RIGHT, FIRST = range(9)
"""Columns of a table of regions: class pair, pixels, sums of loss and confidence, box, number of the first pixel."""

COLUMNS = 9

Table = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]
Nodes = npt.NDArray[np.int64]


def pair_codes(truth: Bytes, model: Bytes, count: int) -> Codes:
    """One number for each pair of a truth and a model's class, of `count` classes with background; 0: not known."""
    codes = truth.astype(np.int32) * count + model + 1
    codes[truth == IGNORED] = 0
    return codes


def without_thin(codes: Codes, radius: int) -> Codes:
    """The same, 0 where a region is no wider than `2 * radius` pixels: an opening of each region for itself.

    Edges drawn by hand and by a model are never the same. What is not known does not make a region thin: a thin stroke
    that lies by itself stays.
    """
    if codes.max(initial=0) == codes.min(initial=0):
        return codes
    size, known = 2 * radius + 1, codes > 0
    low = ndimage.minimum_filter(np.where(known, codes, np.iinfo(np.int32).max), size, mode="nearest")
    high = ndimage.maximum_filter(codes, size, mode="nearest")
    core = np.where(known & (low == codes) & (high == codes), codes, 0)
    # two cores of different regions are never that near to the same pixel
    near = ndimage.maximum_filter(core, size, mode="nearest")
    kept: Codes = np.where(near == codes, codes, 0)
    return kept


def padded_codes(pair: Pair, window: Window, radius: int) -> tuple[Codes, Compared] | None:
    """The codes of a window without its thin parts, and the comparison there; the same in whatever window it is asked.

    None where nothing of the truth is known.
    """
    around = window.padded(2 * radius).intersection(pair.store.grid.whole)
    found = pair.read(around)
    if found is None:
        return None
    codes = without_thin(pair_codes(found.truth, found.model, len(pair.classes) + 1), radius)
    return codes[window.slices((around.y, around.x))], found.cut(window)


def connected(codes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Numbers 1..n of what hangs together by pixel sides and has one code; 0 where the code is 0."""
    from skimage.measure import label

    parts: npt.NDArray[np.int64] = label(codes, background=0, connectivity=1)  # type: ignore[no-untyped-call]
    return parts


def regions_of(codes: Codes, found: Compared, width: int) -> tuple[npt.NDArray[np.int64], Table]:
    """The regions of a tile.

    Parameters
    ----------
    codes : (h, w) array
    found : Compared
        Of the same window.
    width : int
        Of the whole truth, which numbers its pixels.

    Returns
    -------
    parts : (h, w) int64
        Which row each pixel belongs to, from 1; 0: none.
    table : (n, 9) float64
    """
    parts = connected(codes)
    flat = parts.ravel()
    count = int(flat.max(initial=0))
    table = np.zeros((count, COLUMNS))
    if not count:
        return parts, table
    first = np.zeros(count + 1, np.int64)
    where = np.flatnonzero(flat)[::-1]
    first[flat[where]] = where
    table[:, CODE] = codes.ravel()[first[1:]]
    table[:, COUNT] = np.bincount(flat, minlength=count + 1)[1:]
    table[:, LOSS] = np.bincount(flat, found.loss.ravel(), count + 1)[1:]
    table[:, SURE] = np.bincount(flat, found.confidence.ravel(), count + 1)[1:]
    y, x = np.divmod(first[1:], codes.shape[1])
    table[:, FIRST] = (y + found.window.y) * float(width) + (x + found.window.x)
    boxes = ndimage.find_objects(parts)
    table[:, TOP : RIGHT + 1] = [(b[0].start, b[1].start, b[0].stop, b[1].stop) for b in boxes]
    table[:, TOP : RIGHT + 1] += (found.window.y, found.window.x, found.window.y, found.window.x)
    return parts, table


@dataclass
class _Edge:
    """The codes along one side of a tile, and the rows of the table that its pixels belong to (-1: none)."""

    codes: Codes
    nodes: Nodes


@dataclass
class Sweep:
    """Puts the regions of tiles together, row of tiles by row of tiles.

    Parameters
    ----------
    closed : callable
        Gets tables of regions that are whole.
    """

    closed: Callable[[Table], None]
    _open: Table = field(default_factory=lambda: np.zeros((0, COLUMNS)))
    _above: dict[int, _Edge] = field(default_factory=dict)
    _tables: list[Table] = field(default_factory=list)
    _pairs: list[Nodes] = field(default_factory=list)
    _below: dict[int, _Edge] = field(default_factory=dict)
    _last: tuple[int, _Edge] | None = None
    _count: int = 0

    def begin_row(self, follows: bool) -> None:
        """Begin a row of tiles; `follows`: it lies right below the one before."""
        if not follows:
            self.closed(self._open)
            self._open, self._above = np.zeros((0, COLUMNS)), {}
        self._tables, self._pairs, self._below, self._last = [self._open], [], {}, None
        self._count = len(self._open)

    def add(self, column: int, codes: Codes, parts: npt.NDArray[np.int64], table: Table) -> None:
        """Add the tile in this column, from left to right."""
        nodes = np.where(parts > 0, parts - 1 + self._count, -1)
        self._tables.append(table)
        self._count += len(table)
        if self._last is not None and self._last[0] == column - 1:
            self._touch(self._last[1], _Edge(codes[:, 0], nodes[:, 0]))
        if column in self._above:
            self._touch(self._above[column], _Edge(codes[0], nodes[0]))
        self._last = column, _Edge(codes[:, -1].copy(), nodes[:, -1].copy())
        self._below[column] = _Edge(codes[-1].copy(), nodes[-1].copy())

    def _touch(self, one: _Edge, other: _Edge) -> None:
        same = (one.codes == other.codes) & (one.nodes >= 0) & (other.nodes >= 0)
        if same.any():
            self._pairs.append(np.unique(np.stack([one.nodes[same], other.nodes[same]], 1), axis=0))

    def end_row(self) -> None:
        """Join what touches; regions that do not reach the bottom of the row are whole."""
        table = np.concatenate(self._tables)
        roots = _joined(table, np.concatenate(self._pairs) if self._pairs else np.zeros((0, 2), np.int64))
        heads, group = np.unique(roots, return_inverse=True)
        merged = table[heads]
        if len(heads) < len(table):
            merged = np.zeros((len(heads), COLUMNS))
            merged[:, CODE] = table[heads, CODE]
            for column in (COUNT, LOSS, SURE):
                merged[:, column] = np.bincount(group, table[:, column], len(heads))
            for column, least in ((TOP, True), (LEFT, True), (FIRST, True), (BOTTOM, False), (RIGHT, False)):
                merged[:, column] = np.inf if least else -np.inf
                (np.minimum if least else np.maximum).at(merged[:, column], group, table[:, column])
        reaches = np.zeros(len(heads) + 1, np.bool_)
        for edge in self._below.values():
            edge.nodes[edge.nodes >= 0] = group[edge.nodes[edge.nodes >= 0]]
            reaches[edge.nodes] = True
        reaches = reaches[:-1]  # the last one stood for -1
        self.closed(merged[~reaches])
        renumbered = np.append(np.cumsum(reaches) - 1, -1)
        for edge in self._below.values():
            edge.nodes = renumbered[edge.nodes]
        self._open, self._above = merged[reaches], self._below

    def end(self) -> None:
        """All tiles were added."""
        self.closed(self._open)
        self._open, self._above = np.zeros((0, COLUMNS)), {}


def _joined(table: Table, pairs: Nodes) -> Nodes:
    """The row that stands for each row, after rows that touch were joined as long as none grows over `LARGEST`."""
    root = list(range(len(table)))
    boxes = table[:, TOP : RIGHT + 1].copy()

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for one, other in pairs.tolist():
        a, b = sorted((find(one), find(other)))
        if a == b:
            continue
        low = np.minimum(boxes[a, :2], boxes[b, :2])
        high = np.maximum(boxes[a, 2:], boxes[b, 2:])
        if (high - low).max() <= LARGEST:
            root[b] = a
            boxes[a] = (*low, *high)
    return np.array([find(node) for node in range(len(table))], np.int64)
