"""The area of each class for any thresholds, from one look at the probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.infer.postprocess.deciding import decide
from napari_msunet.infer.postprocess.walking import Walk
from napari_msunet.labels import Run

MAX_BINS = 2**23
STEPS = {1: 5100, 2: 510}
"""Steps between 0 and 1 for one class and for two: multiples of 255, so that uint8 probabilities keep their values."""

MAX_PIXELS = 100_000_000
"""Pixels that are looked at; a larger run is looked at on a coarser level."""

MOST_CLASSES = 12


@dataclass(frozen=True)
class Areas:
    """A histogram of a run's probabilities, of all classes together.

    Attributes
    ----------
    centres : (K+1, 1, n) float32
        The probabilities that occur, to one step.
    counts : (n,) float64
        Pixels of level 0 with each.
    steps : int
        Steps between 0 and 1.
    level : int
        What was looked at; 0: every pixel.
    """

    centres: npt.NDArray[np.float32]
    counts: npt.NDArray[np.float64]
    steps: int
    level: int

    def __call__(self, thresholds: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Pixels of level 0 of each class `(K,)` for thresholds `(K,)`, NaN for a class without one."""
        labels = decide(self.centres, thresholds)[0]
        count = np.bincount(labels, self.counts, minlength=len(thresholds) + 1)[1:]
        return count.astype(np.float64)


def build_areas(run: Run, check: Callable[[], None] = lambda: None, most: int = MAX_PIXELS) -> Areas | None:
    """Look at a complete run's probabilities, in bounded memory.

    Parameters
    ----------
    run : Run
    check : callable
        Called for each window; raises to stop.
    most : int
        See `MAX_PIXELS`.

    Returns
    -------
    Areas or None
        None where there are more than `MOST_CLASSES` classes: the steps would be too coarse to say anything.
    """
    classes = len(run.classes)
    if classes > MOST_CLASSES:
        return None
    steps = min(STEPS.get(classes, 510), int(MAX_BINS ** (1 / classes)) - 1)
    pixels = sum(window.height * window.width for window in run.done.values())
    level = 0
    while pixels > most * 4**level and level < len(run.info.shapes) - 1:
        level += 1
    done = list(run.done.values())
    for _ in range(level):
        done = [window.halved() for window in done]
    bins = np.zeros((steps + 1) ** classes)
    base = (steps + 1) ** np.arange(classes)
    for window in Walk(run.info.shapes[level], done):
        check()
        planes = run.read(window, level, "probabilities")[1:]
        code = np.zeros(window.shape, np.int64)
        for plane, weight in zip(planes, base, strict=True):
            code += np.rint(plane.astype(np.float32) * np.float32(steps)).astype(np.int64) * weight
        bins += np.bincount(code.ravel(), minlength=len(bins))
    found = np.flatnonzero(bins)
    given = (found // base[:, None] % (steps + 1)).astype(np.float32) / np.float32(steps)
    centres = np.concatenate([1 - given.sum(0, keepdims=True), given])[:, None]
    return Areas(centres.astype(np.float32), bins[found] * 4.0**level, steps, level)
