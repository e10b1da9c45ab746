"""A truth and a prediction of the same slide, pixel on pixel, and the regions in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_msunet.config import Damaged
from napari_msunet.constants import IGNORED
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Grid, Window, between_centres, pixel_centres, snap_ceil, snap_floor
from napari_msunet.labels.metadata import load_info
from napari_msunet.labels.runs.run import Run
from napari_msunet.labels.store import LabelStore, check_run, check_store, open_labels
from napari_msunet.objects.components import RowJoiner, connected, first_pixels, sides_of
from napari_msunet.review.scores import merged_runs

# ----------------------------------------------------------------------------------------------------------------------
# A truth and a prediction of the same slide, pixel on pixel: its class, the model's class, and the model's loss.

LEAST_PROBABILITY = 1e-4
"""A probability counts as at least this, since float16 rounds small ones to 0; the loss of a pixel is at most 9.2."""


_COMPARED = ("labels", "raw", "probabilities")
"""The outputs of a run that are read."""

_BUCKET = 2048

Stores = LabelStore | str | Path
Predictions = LabelStore | str | Path | Run | Sequence[Run]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Compared:
    """A window of the truth's pixels.

    Attributes
    ----------
    window : Window
        In level-0 pixels of the truth.
    truth, model : (h, w) uint8
        Classes by number in `Pair.classes`, 0 background; 255 in both where one of them is not known.
    loss : (h, w) float32
        Cross-entropy of the model on the truth's class, natural logarithm; where the run kept no probabilities 1
        where the two differ, else 0.
    confidence : (h, w) float32
        The model's probability of its own class; NaN without probabilities.
    unpredicted : (h, w) bool
        Where the truth is known and the model was not run.
    """

    window: Window
    truth: Bytes
    model: Bytes
    loss: Floats
    confidence: Floats
    unpredicted: npt.NDArray[np.bool_]

    def cut(self, window: Window) -> Compared:
        """A part of it."""
        at = window.slices((self.window.y, self.window.x))
        truth, model, unpredicted = self.truth[at], self.model[at], self.unpredicted[at]
        return Compared(window, truth, model, self.loss[at], self.confidence[at], unpredicted)


class Pair:
    """A truth, and a model's prediction of the same slide.

    Parameters
    ----------
    truth : LabelStore or path
        An annotation (0 is not known, 255 background, zeros in fully annotated regions too), or labels of classes.
    prediction : LabelStore, path, Run or runs
        Of a store the runs that it shows. Where runs overlap, the last one counts.
    edited_only : bool
        Of labels, only what a person edited or accepted is true; False: all of them (a mask made elsewhere).

    Attributes
    ----------
    store : LabelStore
        The truth's.
    classes : tuple of str
        The model's classes 1..K.
    ignored : tuple of str
        Classes of the truth that the model does not know: these pixels are left out.
    scored : bool
        Whether there are probabilities.

    Raises
    ------
    StoreError
        If there is no prediction, it is of another slide, or one of the two holds numbers of objects.
    """

    def __init__(self, truth: Stores, prediction: Predictions, edited_only: bool = True) -> None:
        self.store = truth if isinstance(truth, LabelStore) else open_labels(truth)
        self.edited_only = edited_only and self.store.kind == "labels"
        runs = _runs(prediction)
        for run in runs:
            of = run.path.parent.parent
            self.store.fits(run.info.extent, f"the prediction in {of}")
            if of != self.store.path:
                self.store.check_same_slide(load_info(of), f"the prediction in {of}")
        if self.store.info.instances or any(run.outputs["labels"] == "uint32" for run in runs):
            raise StoreError("Numbers of objects cannot be compared with a truth; give labels and runs of classes.")
        self.scored = any("probabilities" in run.outputs for run in runs)
        if self.scored:
            runs = [run for run in runs if "probabilities" in run.outputs]
        self.runs = tuple(_Sampled(run, self.store.grid) for run in runs[::-1])
        self.classes = tuple(dict.fromkeys(name for run in runs[::-1] for name in run.classes))
        if len(self.classes) >= IGNORED:
            raise StoreError(f"The runs have {len(self.classes)} classes together; at most 254 can be compared.")
        for sampled in self.runs:
            sampled.name_classes(self.classes)
        self.ignored = tuple(name for name in self.store.classes if name not in self.classes)
        self._numbers = np.full(256, IGNORED, np.uint8)
        self._numbers[0] = 0
        for value, name in enumerate(self.store.classes, 1):
            if name in self.classes:
                self._numbers[value] = self.classes.index(name) + 1

    def check(self, damaged: Damaged) -> tuple[str, ...]:
        """Sentences about the damaged parts of both, which are left out; `StoreError` where that is not wanted."""
        planes = ("labels", "edited") if self.edited_only else ("labels",)
        texts = [check_store(self.store, damaged, planes)]
        for sampled in self.runs:
            names = [name for name in _COMPARED if name in sampled.run.outputs]
            texts.append(check_run(sampled.run, damaged, names))
        return tuple(text for text in texts if text)

    @property
    def coarseness(self) -> float:
        """Side of a pixel of the prediction in pixels of the truth, at least 1."""
        return max(1.0, *(max(sampled.ratio) for sampled in self.runs))

    def truth(self, window: Window) -> Bytes:
        """The truth in a window, inside the store, as numbers of `classes`; 255 where it is not known."""
        values = self._numbers[self.store.truth(window)]
        if self.edited_only:
            values[~self.store.read_edited(window)] = IGNORED
        return values

    def model(self, window: Window) -> Bytes:
        """The model's classes in a window, inside the store; 255 where it was not run."""
        out = np.full(window.shape, IGNORED, np.uint8)
        for sampled in self.runs:
            open_ = out == IGNORED
            if not open_.any():
                break
            found = sampled.classes_in(window)
            if found is not None:
                np.copyto(out, found, where=open_)
        return out

    def read(self, window: Window) -> Compared | None:
        """Both in a window inside the store; None where nothing of the truth is known."""
        truth = self.truth(window)
        known = truth != IGNORED
        if not known.any():
            return None
        model, loss, sure = self._scores(window, truth, known)
        unpredicted = known & (model == IGNORED)
        truth[model == IGNORED] = IGNORED
        model[truth == IGNORED] = IGNORED
        return Compared(window, truth, model, loss, sure, unpredicted)

    def _scores(self, window: Window, truth: Bytes, known: npt.NDArray[np.bool_]) -> tuple[Bytes, Floats, Floats]:
        """The model's classes, its loss and its confidence where the truth is known."""
        if not self.scored:
            model = self.model(window)
            return model, ((model != truth) & known).astype(np.float32), np.full(window.shape, np.nan, np.float32)
        model = np.full(window.shape, IGNORED, np.uint8)
        loss, sure = np.zeros(window.shape, np.float32), np.zeros(window.shape, np.float32)
        for sampled in self.runs:
            open_ = known & (model == IGNORED)
            if not open_.any():
                break
            found = sampled.classes_in(window)
            if found is None:
                continue
            of_truth, of_model, total = sampled.probabilities(window, truth, found)
            open_ &= (found != IGNORED) & (total > 0.5)
            total = np.where(open_, total, 1)
            np.copyto(loss, -np.log(np.clip(of_truth / total, LEAST_PROBABILITY, 1)), where=open_)
            np.copyto(sure, of_model / total, where=open_)
            np.copyto(model, found, where=open_)
        return model, loss, sure


class _Sampled:
    """A run, seen on the grid of a truth."""

    def __init__(self, run: Run, grid: Grid) -> None:
        self.run, self.grid = run, grid
        self.own = Grid(run.info.extent, run.info.pixel, run.info.mpp)
        self.ratio = self.own.pixel[0] / grid.pixel[0], self.own.pixel[1] / grid.pixel[1]
        self._table = np.arange(256, dtype=np.uint8)
        self._done: dict[tuple[int, int], list[Window]] = {}
        for window in run.done.values():
            inside = self._on_truth(window)
            for bucket in _buckets(inside):
                self._done.setdefault(bucket, []).append(inside)

    def name_classes(self, classes: tuple[str, ...]) -> None:
        """Number the run's classes as in `classes`."""
        self._table[:] = IGNORED
        self._table[0] = 0
        for value, name in enumerate(self.run.classes, 1):
            self._table[value] = classes.index(name) + 1

    @property
    def done(self) -> Iterable[Window]:
        """The computed windows, in pixels of the truth."""
        return dict.fromkeys(window for found in self._done.values() for window in found)

    def classes_in(self, window: Window) -> Bytes | None:
        """The run's labels at the centres of the truth's pixels; 255 where it was not run, None if nowhere."""
        covered = np.zeros(window.shape, np.bool_)
        for bucket in _buckets(window):
            for part in self._done.get(bucket, ()):
                inside = part.intersection(window)
                if not inside.empty:
                    covered[inside.slices((window.y, window.x))] = True
        if not covered.any():
            return None
        rows, columns = (self._nearest(window, axis) for axis in (0, 1))
        source = _around(rows, columns)
        values = self.run.read(source)
        if "raw" in self.run.outputs:  # only raw labels distinguish pixels outside of the tissue from background
            values = np.where(self.run.read(source, output="raw") == IGNORED, IGNORED, values)
        lost = self.run.lost(source, _COMPARED)
        if lost is not None:
            values = np.where(lost, IGNORED, values)
        found: Bytes = self._table[values][np.ix_(rows - source.y, columns - source.x)]
        found[~covered] = IGNORED
        return found

    def probabilities(self, window: Window, truth: Bytes, model: Bytes) -> tuple[Floats, Floats, Floats]:
        """Probabilities of the truth's and of the model's class, and the sum over all classes.

        Bilinear between the centres of the run's pixels, as scores are computed at a mask's own resolution.
        """
        (rows, down), (columns, right) = (self._between(window, axis) for axis in (0, 1))
        ends = [np.stack([first, np.minimum(first + 1, size - 1)]) for first, size in self._axes(rows, columns)]
        source = _around(*ends)
        planes = self.run.read(source, output="probabilities")
        (above, below), (left, after) = ends[0] - source.y, ends[1] - source.x
        of_truth, of_model, total = (np.zeros(window.shape, np.float32) for _ in range(3))
        for value, plane in enumerate(planes):
            values = plane.astype(np.float32)
            mixed = values[above] * (1 - down[:, None]) + values[below] * down[:, None]
            mixed = mixed[:, left] * (1 - right) + mixed[:, after] * right
            number = self._table[value]
            np.copyto(of_truth, mixed, where=truth == number)
            np.copyto(of_model, mixed, where=model == number)
            total += mixed
        return of_truth, of_model, total

    def _axes(self, rows: npt.NDArray[Any], columns: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], int]]:
        return [(rows, self.own.shape[0]), (columns, self.own.shape[1])]

    def _centres(self, window: Window, axis: int) -> npt.NDArray[np.float64]:
        """Centres of the truth's pixels along an axis, in pixels of the run."""
        start, count = (window.y, window.height) if axis == 0 else (window.x, window.width)
        return pixel_centres(start, count) / self.ratio[axis]

    def _nearest(self, window: Window, axis: int) -> npt.NDArray[np.int64]:
        """The run's pixel in which each centre lies."""
        places = np.floor(self._centres(window, axis)).astype(np.int64)
        return np.clip(places, 0, self.own.shape[axis] - 1)

    def _between(self, window: Window, axis: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """The run's pixel whose centre lies before each centre, and how far it is to the next, 0 to 1."""
        return between_centres(self._centres(window, axis), self.own.shape[axis])

    def _on_truth(self, window: Window) -> Window:
        """The truth's pixels whose centre lies in a window of the run."""
        return self.grid.centres(self.own.region(window)).intersection(self.grid.whole)


def _around(rows: npt.NDArray[Any], columns: npt.NDArray[Any]) -> Window:
    """The smallest window with these rows and columns."""
    return Window.between((int(rows.min()), int(columns.min())), (int(rows.max()) + 1, int(columns.max()) + 1))


def _buckets(window: Window) -> list[tuple[int, int]]:
    """Squares that a window touches, so that few finished tiles are looked at for each window."""
    rows = range(snap_floor(window.y / _BUCKET), snap_ceil(window.stop[0] / _BUCKET))
    columns = range(snap_floor(window.x / _BUCKET), snap_ceil(window.stop[1] / _BUCKET))
    return [(y, x) for y in rows for x in columns]


def _runs(prediction: Predictions) -> list[Run]:
    """The runs of a prediction, the last one counting most."""
    if isinstance(prediction, Run):
        return [prediction]
    if isinstance(prediction, (str, Path)):
        prediction = open_labels(prediction)
    runs = merged_runs(prediction) if isinstance(prediction, LabelStore) else list(prediction)
    if not runs:
        where = f"{prediction.path} shows no prediction" if isinstance(prediction, LabelStore) else "No run was given"
        raise StoreError(
            f'{where}: predict the slide with outputs=("labels", "probabilities"), then compare it with the truth.'
        )
    return runs


# ----------------------------------------------------------------------------------------------------------------------
# The places where truth and prediction differ, found window by window.

LARGEST = 2048
"""Side of the largest region in pixels of the truth: a larger one is shown in parts, so that each can be changed."""

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
    first = first_pixels(parts, count)
    table[:, CODE] = codes.ravel()[first]
    table[:, COUNT] = np.bincount(flat, minlength=count + 1)[1:]
    table[:, LOSS] = np.bincount(flat, found.loss.ravel(), count + 1)[1:]
    table[:, SURE] = np.bincount(flat, found.confidence.ravel(), count + 1)[1:]
    y, x = np.divmod(first, codes.shape[1])
    table[:, FIRST] = (y + found.window.y) * float(width) + (x + found.window.x)
    boxes = ndimage.find_objects(parts)
    table[:, TOP : RIGHT + 1] = [(b[0].start, b[1].start, b[0].stop, b[1].stop) for b in boxes]
    table[:, TOP : RIGHT + 1] += (found.window.y, found.window.x, found.window.y, found.window.x)
    return parts, table


class Sweep:
    """Joins the regions of tiles, one row of tiles after the other.

    Parameters
    ----------
    width : int
        Of the whole truth.
    closed : callable
        Gets tables of regions that are whole.
    """

    def __init__(self, width: int, closed: Callable[[Table], None]) -> None:
        self.closed = closed
        self._joiner = RowJoiner(width)
        self._tables: list[Table] = [np.zeros((0, COLUMNS))]

    def begin_row(self, follows: bool) -> None:
        """Begin a row of tiles; `follows`: it lies right below the one before."""
        if not follows:
            self.end()
        self._joiner.begin_row(follows)

    def add(self, tile: Window, codes: Codes, parts: npt.NDArray[np.int64], table: Table) -> None:
        """Add a tile, from left to right."""
        top, left, bottom, right = sides_of(parts - 1)
        self._joiner.add(tile, (top, left, bottom, right), sides_of(codes), len(table))
        self._tables.append(table)

    def end_row(self) -> None:
        """Join regions that touch; those that do not reach the bottom of the row are whole."""
        table = np.concatenate(self._tables)
        group, is_open = self._joiner.end_row(lambda pairs: _joined(table, pairs))
        heads = np.unique(group, return_index=True)[1]
        merged = table[heads]
        if len(heads) < len(table):
            for column in (COUNT, LOSS, SURE):
                merged[:, column] = np.bincount(group, table[:, column], len(heads))
            for column, least in ((TOP, True), (LEFT, True), (FIRST, True), (BOTTOM, False), (RIGHT, False)):
                merged[:, column] = np.inf if least else -np.inf
                (np.minimum if least else np.maximum).at(merged[:, column], group, table[:, column])
        self.closed(merged[~is_open])
        self._tables = [merged[is_open]]

    def end(self) -> None:
        """All tiles were added."""
        self.closed(np.concatenate(self._tables))
        self._tables = [np.zeros((0, COLUMNS))]


def _joined(table: Table, pairs: Nodes) -> Nodes:
    """What each row belongs to, from 0, after rows that touch were joined as long as none grows over `LARGEST`."""
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
    owner: Nodes = np.unique([find(node) for node in range(len(table))], return_inverse=True)[1]
    return owner
