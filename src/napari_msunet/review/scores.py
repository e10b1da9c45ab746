"""Scores of how much a window deserves a look: by outputs of runs, by distance to what was reviewed, by odd objects."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import xlogy

from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.runs.run import Run
from napari_msunet.labels.session import load_checkpoint
from napari_msunet.objects.components import connected, first_pixels

if TYPE_CHECKING:
    from napari_msunet.labels.store import LabelStore
    from napari_msunet.objects.table import ObjectTable
# ----------------------------------------------------------------------------------------------------------------------
# Windows of one size laid over a label store, and sums over them taken from a coarse level of a pyramid.

SMALLEST = 32
"""Least side of a window in pixels of the store: the work grows with the number of windows."""

_PIXELS_ACROSS = 4
"""Pixels of the coarse level that a window should have a side."""

_LONGEST = 4096
"""Longest side of the coarse level, so that it fits into memory whatever the slide's size."""

_BAND = 512
"""Rows of the coarse level that are read at once."""

Means = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cells:
    """Windows of `size` pixels a side that cover a store; those at its edges are cut.

    Attributes
    ----------
    shape : (height, width)
        Of the store's level 0.
    size : int
        Side of a window in level-0 pixels.
    level : int
        The level that sums are taken from; a pixel of it has `factor` level-0 pixels a side.
    coarse : (height, width)
        Of that level.
    """

    shape: tuple[int, int]
    size: int
    level: int
    coarse: tuple[int, int]

    @classmethod
    def over(cls, shapes: Sequence[tuple[int, int]], size: int) -> Cells:
        """The windows over a pyramid with levels of these shapes.

        Raises
        ------
        StoreError
            If the size is under `SMALLEST` pixels.
        """
        if not isinstance(size, int) or size < SMALLEST:
            raise StoreError(f"Windows of {size!r} pixels are too small to be reviewed; give at least {SMALLEST}.")
        wanted = max(0, (size // _PIXELS_ACROSS).bit_length() - 1)
        level = min(wanted, len(shapes) - 1)
        while max(shapes[level]) > _LONGEST and level < len(shapes) - 1 and 2 ** (level + 1) <= size:
            level += 1
        return cls(shapes[0], size, level, shapes[level])

    @property
    def factor(self) -> int:
        """Level-0 pixels to one of the coarse level, along each side."""
        return int(2**self.level)

    @property
    def counts(self) -> tuple[int, int]:
        """Number of windows along y and x."""
        return -(-self.shape[0] // self.size), -(-self.shape[1] // self.size)

    def window(self, row: int, column: int) -> Window:
        """One of the windows."""
        return Window(row * self.size, column * self.size, self.size, self.size).intersection(Window(0, 0, *self.shape))

    def centres(self) -> npt.NDArray[np.float64]:
        """`(rows, columns, 2)`: the middles `y, x` of all windows, in level-0 pixels."""
        rows, columns = self.counts
        y = (np.arange(rows) + np.minimum(np.arange(1, rows + 1), self.shape[0] / self.size)) * self.size / 2
        x = (np.arange(columns) + np.minimum(np.arange(1, columns + 1), self.shape[1] / self.size)) * self.size / 2
        return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)

    def edges(self, axis: int) -> npt.NDArray[np.int64]:
        """First coarse pixel of each window along an axis, and the end of the last one."""
        starts = np.arange(self.counts[axis], dtype=np.int64) * self.size // self.factor
        return np.append(starts, self.coarse[axis])

    def bands(self) -> Iterator[tuple[slice, Window]]:
        """Rows of windows, a few at a time, and the coarse pixels that they are made of."""
        edges = self.edges(0)
        step = max(1, _BAND * self.factor // self.size)
        for first in range(0, self.counts[0], step):
            last = min(first + step, self.counts[0])
            yield (
                slice(first, last),
                Window.between((int(edges[first]), 0), (int(edges[last]), self.coarse[1])),
            )

    def mean(self, values: npt.NDArray[Any], rows: slice | None = None) -> Means:
        """Means over the windows of coarse pixels: of the whole level, or of a band as `bands` gives it."""
        y, x = self.edges(0), self.edges(1)
        if rows is not None:
            y = y[rows.start : rows.stop + 1] - y[rows.start]
        sums = np.add.reduceat(values.astype(np.float32, copy=False), x[:-1], axis=1)
        sums = np.add.reduceat(sums, y[:-1], axis=0)
        area = np.diff(y)[:, None] * np.diff(x)[None]
        means: Means = (sums / area).astype(np.float32)
        return means

    def means(self, read: Callable[[Window], npt.NDArray[Any]], tell: Callable[[int, int], None]) -> Means:
        """Means over all windows of what `read` gives for windows of coarse pixels, in bounded memory."""
        out = np.zeros(self.counts, np.float32)
        bands = list(self.bands())
        for number, (rows, window) in enumerate(bands, 1):
            out[rows] = self.mean(read(window), rows)
            tell(number, len(bands))
        return out

    def cover(self, windows: Sequence[Window], flags: Flags | None = None) -> Flags:
        """The coarse pixels that level-0 windows touch, as a mask of the level (added to `flags`, if given)."""
        mask = np.zeros(self.coarse, np.bool_) if flags is None else flags
        f = self.factor
        for w in windows:
            mask[max(0, w.y) // f : -(-max(0, w.stop[0]) // f), max(0, w.x) // f : -(-max(0, w.stop[1]) // f)] = True
        return mask


# ----------------------------------------------------------------------------------------------------------------------
# Scores of windows, from which a review is ranked.

Tell = Callable[[int, int], None]

_FINE = 2
"""Level at which the entropy of kept probabilities is taken: a window of 256 pixels has 64 x 64 there."""

_REPAIRED = 4096
"""Windows of a run under way, whose coarser levels are not made yet, that are read at level 0."""


def merged_runs(store: LabelStore) -> list[Run]:
    """The runs that a store shows, the one merged last at the end."""
    if store._session is not None:
        keys = [merge.key for merge in store._session.merges.newest_first()][::-1]
    else:
        keys = [str(note["run"]) for note in load_checkpoint(store.path)["merges"]]
    return [store.run(key) for key in dict.fromkeys(keys[::-1])][::-1]


def computed(runs: Sequence[Run], cells: Cells) -> Flags:
    """The coarse pixels that runs have computed."""
    mask = np.zeros(cells.coarse, np.bool_)
    for run in runs:
        cells.cover(list(run.done.values()), mask)
    return mask


def output_scores(runs: Sequence[Run], cells: Cells, output: str, tell: Tell) -> Means:
    """Means of a run output ("disagreement" or "entropy") over all windows, where runs overlap of the newest."""
    out = np.zeros(cells.counts, np.float32)
    for run in runs:

        def read(window: Window, run: Run = run) -> npt.NDArray[Any]:
            return run.read(window, cells.level, output)

        found = cells.means(read, tell)
        theirs = cells.mean(computed([run], cells)) >= 0.5
        if not run.complete:
            _repair(run, cells, output, found, theirs)
        out[theirs] = found[theirs]
    return out


def _repair(run: Run, cells: Cells, output: str, found: Means, theirs: Flags) -> None:
    """A run that was stopped may lack coarser levels: where they show nothing, its level 0 is read."""
    for row, column in np.argwhere(theirs & (found == 0))[:_REPAIRED]:
        found[row, column] = run.read(cells.window(row, column), 0, output).astype(np.float32).mean()


def entropy(probabilities: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Entropy of `(K+1, h, w)` probabilities over ln(K+1): `(h, w)`, 0..1 (Shannon, 1948)."""
    p: npt.NDArray[Any] = probabilities.astype(np.float32)
    total = p.sum(0)
    p = p / np.where(total > 0, total, 1)
    result: npt.NDArray[np.float32] = (-xlogy(p, p).sum(0) / np.float32(np.log(max(2, len(p))))).clip(0, 1)
    return result


def entropy_of_probabilities(
    runs: Sequence[Run], cells: Cells, wanted: Flags, limit: int, tell: Tell
) -> tuple[Means, Flags]:
    """Mean entropy of the `limit` windows that have most of it, from kept probabilities.

    The entropy of a mean is never below the mean entropy (it is concave). So the coarse level bounds each window from
    above, and only windows whose bound still reaches the best are read finely.

    Returns
    -------
    scores : array
    known : array of bool
        Which of them were read finely.
    """
    bounds, owner = np.zeros(cells.counts, np.float32), np.full(cells.counts, -1)
    for number, run in enumerate(runs):

        def read(window: Window, run: Run = run) -> npt.NDArray[Any]:
            return entropy(run.read(window, cells.level, "probabilities"))

        found = cells.means(read, tell)
        theirs = cells.mean(computed([run], cells)) >= 0.5
        bounds[theirs], owner[theirs] = found[theirs], number
    scores, known = np.zeros(cells.counts, np.float32), np.zeros(cells.counts, np.bool_)
    order = np.flatnonzero(wanted & (owner >= 0))
    order = order[np.argsort(-bounds.ravel()[order], kind="stable")]
    best: list[float] = []
    fine = min(_FINE, cells.level)
    for done, index in enumerate(order):
        row, column = divmod(int(index), cells.counts[1])
        if len(best) >= limit and bounds[row, column] <= best[-limit]:
            break
        window = cells.window(row, column)
        for _ in range(fine):
            window = window.halved()
        values = entropy(runs[owner[row, column]].read(window, fine, "probabilities"))
        scores[row, column], known[row, column] = values.mean(), True
        insort(best, float(values.mean()))
        if done % 32 == 0:
            tell(done, len(order))
    return scores, known


def farthest(
    places: npt.NDArray[np.float64], seen: npt.NDArray[np.float64], limit: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Places in an order that covers them all: each time the one farthest from what was seen or chosen before.

    Parameters
    ----------
    places : (n, 2)
        Where one could look, in any unit of length.
    seen : (m, 2)
        What was looked at; with none the first is the one nearest to the middle of all.
    limit : int
        How many are chosen.

    Returns
    -------
    chosen : (k,) int64
        Indices into `places`.
    distance : (k,)
        Of each to the nearest before it; infinite for the first where nothing was seen.

    References
    ----------
    T. F. Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38 (1985).
    """
    from scipy.spatial import KDTree

    count = min(limit, len(places))
    chosen, reach = np.zeros(count, np.int64), np.zeros(count)
    if not count:
        return chosen, reach
    if len(seen):
        distance = KDTree(seen).query(places)[0]
        first = int(distance.argmax())
    else:
        distance = np.full(len(places), np.inf)
        first = int(np.square(places - places.mean(0)).sum(1).argmin())
    for number in range(count):
        index = first if number == 0 else int(distance.argmax())
        chosen[number], reach[number] = index, distance[index]
        distance = np.minimum(distance, np.hypot(*(places - places[index]).T))
        distance[index] = -1
    return chosen, reach


def odd_objects(table: ObjectTable) -> npt.NDArray[np.float64]:
    """How far each object is from the others of its class, in robust standard deviations.

    The larger of two numbers: its area (as a logarithm) and its roundness (4 pi area / perimeter squared) against the
    median of its class, over 1.4826 times the median absolute deviation. Classes of fewer than five objects say
    nothing: 0.
    """
    out = np.zeros(len(table))
    for value in np.unique(table.kind):
        own = table.kind == value
        if own.sum() < 5:
            continue
        for measure in (np.log(table.area[own]), table.roundness[own]):
            middle = np.median(measure)
            spread = max(1.4826 * float(np.median(np.abs(measure - middle))), 0.05)
            out[own] = np.maximum(out[own], np.abs(measure - middle) / spread)
    return out


def coarse_objects(store: LabelStore, longest: int = 4096) -> ObjectTable:
    """The objects of a store as its finest level of at most `longest` pixels a side shows them.

    Areas, perimeters and places are those of that level, so what is smaller than its pixels is missing.
    """
    from napari_msunet.objects.table import ObjectTable

    shapes = store.info.shapes
    level = next((n for n, shape in enumerate(shapes) if max(shape) <= longest), len(shapes) - 1)
    values = store.read(Window(0, 0, *store.shape), level)
    if store.kind == "annotation":
        values = np.where(values == ANNOTATED_BACKGROUND, 0, values)
    parts = connected(values)
    count = int(parts.max(initial=0))
    if not count:
        return ObjectTable.empty()
    f = 2**level
    size = store.spacing
    pixels = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(parts)
    start = np.array([(b[0].start, b[1].start) for b in boxes], float)
    stop = np.array([(b[0].stop, b[1].stop) for b in boxes], float)
    first = first_pixels(parts, count)
    kind = values.ravel()[first]
    y, x = np.divmod(first, values.shape[1])
    return ObjectTable(
        kind=kind if not store.info.instances else np.ones_like(kind),
        area=pixels * (f * f * size[0] * size[1]),
        perimeter=_borders(parts, count) * (f * (size[0] + size[1]) / 2),
        centroid=(start + stop) / 2 * f,
        box=np.concatenate([start, stop - start], 1) * f,
        first=np.stack([y, x], 1) * f,
    )


def _borders(parts: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64]:
    """Length of each part's outline in pixels: its pixel edges, made shorter by what a staircase adds to a disc's."""
    padded = np.pad(parts, 1)
    total = np.zeros(count + 1)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        total += np.bincount(parts[parts != other], minlength=count + 1)
    return total[1:] * (np.pi / 4)
