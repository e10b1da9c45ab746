"""A truth and a prediction of the same slide, pixel on pixel: its class, the model's class, and the model's loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.config import Damaged
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Grid, Window, snap_ceil, snap_floor
from napari_msunet.labels.annotated import IGNORED
from napari_msunet.labels.damage_checks import check_run, check_store
from napari_msunet.labels.metadata import load_info
from napari_msunet.labels.review_scores import merged_runs
from napari_msunet.labels.runs import Run
from napari_msunet.labels.store import LabelStore, open_labels

LEAST_PROBABILITY = 1e-4
"""A probability counts as this at least, so that the loss of a pixel is at most 9.2: float16 holds zeros."""

"""In a run's raw labels: not predicted."""

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
    """A truth, and what a model says of the same slide.

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
        """What of both is damaged and left out, in sentences; `StoreError` where that is not wanted."""
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
        """What was computed, in pixels of the truth."""
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
        if "raw" in self.run.outputs:  # only there what lies outside of the tissue differs from background
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
        places: npt.NDArray[np.float64] = (np.arange(start, start + count, dtype=np.float64) + 0.5) / self.ratio[axis]
        return places

    def _nearest(self, window: Window, axis: int) -> npt.NDArray[np.int64]:
        """The run's pixel in which each centre lies."""
        places = np.floor(self._centres(window, axis)).astype(np.int64)
        return np.clip(places, 0, self.own.shape[axis] - 1)

    def _between(self, window: Window, axis: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """The run's pixel whose centre lies before each centre, and how far it is to the next, 0 to 1."""
        places = np.clip(self._centres(window, axis) - 0.5, 0, self.own.shape[axis] - 1)
        first = np.floor(places).astype(np.int64)
        return first, (places - first).astype(np.float32)

    def _on_truth(self, window: Window) -> Window:
        """The truth's pixels whose centre lies in a window of the run."""
        edges = [
            (snap_ceil(a * r - 0.5), snap_ceil(b * r - 0.5))
            for a, b, r in zip((window.y, window.x), window.stop, self.ratio, strict=True)
        ]
        found = Window.between((edges[0][0], edges[1][0]), (edges[0][1], edges[1][1]))
        return found.intersection(self.grid.whole)


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
