"""Scores from a confusion matrix, which is added up window by window, so that no slide is held whole."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_msunet.constants import IGNORED

SCORES = ("dice", "iou", "precision", "recall", "f1", "accuracy")

Matrix = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def confusion(predicted: Tensor, target: Tensor, outputs: int) -> Tensor:
    """The confusion matrix: how often each class was predicted as each other class.

    Parameters
    ----------
    predicted, target : Tensor of the same shape, integers
        Class numbers; pixels whose target is 255 do not count.
    outputs : int
        Number of classes with background, K+1.

    Returns
    -------
    (K+1, K+1) int64 Tensor
        Rows: the truth; columns: the prediction.
    """
    target = target.flatten().long()
    cells = torch.where(target == IGNORED, outputs * outputs, target * outputs + predicted.flatten().long())
    counts = torch.bincount(cells, minlength=outputs * outputs + 1)
    return counts[:-1].reshape(outputs, outputs)


class Confusion:
    """A confusion matrix that grows with each `add`.

    Parameters
    ----------
    outputs : int
        Number of classes with background, K+1.
    """

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs
        self._counts: Tensor | None = None

    def add(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Count the pixels of a window, and give its own counts; they stay on its device."""
        counts = confusion(predicted, target, self.outputs)
        self._counts = counts if self._counts is None else self._counts + counts
        return counts

    def merge(self, other: Confusion) -> None:
        """Add the counts of another confusion matrix."""
        if other._counts is not None:
            self._counts = other._counts if self._counts is None else self._counts + other._counts

    def replace(self, counts: Tensor) -> None:
        """Replace the counts, such as by those of all processes that train together."""
        self._counts = counts

    @property
    def matrix(self) -> Matrix:
        """`(K+1, K+1)` pixel counts: rows the truth, columns the prediction."""
        if self._counts is None:
            return np.zeros((self.outputs, self.outputs), np.int64)
        return np.asarray(self._counts.cpu().numpy(), np.int64)


def class_scores(matrix: Matrix) -> dict[str, Floats]:
    """Scores of each class, background first; of one matrix or of many at once.

    With TP, FP, FN, TN of one class against all others: ``Dice = F1 = 2 TP / (2 TP + FP + FN)``,
    ``IoU = TP / (TP + FP + FN)``, ``precision = TP / (TP + FP)``, ``recall = TP / (TP + FN)``,
    ``accuracy = (TP + TN) / all``. NaN where the denominator is zero.

    Parameters
    ----------
    matrix : (..., K+1, K+1) array
        Rows: the truth; columns: the prediction.

    Returns
    -------
    dict of str to (..., K+1) float64 array
        By the names in `SCORES`.
    """
    true = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    predicted, actual = matrix.sum(-2).astype(np.float64), matrix.sum(-1).astype(np.float64)
    everything = np.broadcast_to(actual.sum(-1, keepdims=True), true.shape)
    total = everything

    def ratio(above: Floats, below: Floats) -> Floats:
        return np.divide(above, below, out=np.full_like(above, nan), where=below > 0)

    dice = ratio(2 * true, predicted + actual)
    return {
        "dice": dice,
        "iou": ratio(true, predicted + actual - true),
        "precision": ratio(true, predicted),
        "recall": ratio(true, actual),
        "f1": dice,
        "accuracy": ratio(total - predicted - actual + 2 * true, everything),
    }


def mean_iou(matrix: Matrix) -> float:
    """The mean IoU over classes 1..K that occur in the truth or the prediction; NaN where none does."""
    return _mean(class_scores(matrix)["iou"][1:])


def mean_score(name: str, matrix: Matrix, classes: Sequence[int] | None = None) -> float:
    """A score of `class_scores`, mean over the classes that are there (background is none); NaN where none is.

    Parameters
    ----------
    name : str
        Such as "dice" or "iou".
    matrix : (K+1, K+1) array
    classes : sequence of int, optional
        Numbers of the classes that count; None: 1..K.
    """
    values = class_scores(matrix)[name]
    values = values[1:] if classes is None else values[list(classes)]
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def mean_scores(matrix: Matrix) -> dict[str, Floats]:
    """Each score of `class_scores`, mean over classes 1..K that are there; of many `(..., K+1, K+1)` matrices at once.

    NaN where no class is there.
    """
    found: dict[str, Floats] = {}
    for name, values in class_scores(matrix).items():
        own = values[..., 1:]
        known = np.isfinite(own)
        count = known.sum(-1)
        total = np.where(known, own, 0.0).sum(-1)
        found[name] = np.divide(total, count, out=np.full(total.shape, nan), where=count > 0)
    return found


def report(matrix: Matrix, classes: Sequence[str]) -> dict[str, Any]:
    """All scores as plain JSON values, None where a score is not defined.

    Returns
    -------
    dict
        The mean of each score over classes 1..K, ``"pixels"``, and under ``"classes"`` the scores by class name.
    """
    scores = class_scores(matrix)
    values: dict[str, Any] = {name: _plain(_mean(scores[name][1:])) for name in SCORES}
    values["pixels"] = int(matrix.sum())
    values["classes"] = {
        label: {name: _plain(float(scores[name][i])) for name in SCORES} for i, label in enumerate(classes, start=1)
    }
    return values


def _mean(values: npt.NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else nan


def _plain(value: float) -> float | None:
    """A number that JSON can hold, or None."""
    return value if isfinite(value) else None
