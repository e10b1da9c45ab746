"""From probabilities to labels, pixel by pixel, and the area of each class for any threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import correlate1d

from napari_msunet.config import Postprocess
from napari_msunet.errors import MsunetError
from napari_msunet.labels import Run
from napari_msunet.objects.components import Walk

# ----------------------------------------------------------------------------------------------------------------------
# From probabilities to labels, pixel by pixel, by thresholds, and the Gaussian smoothing before them.

Probabilities = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.uint8]

MAX_RADIUS = 256
"""Largest radius of the Gaussian in pixels, which is also read around each window."""


def threshold_array(thresholds: Mapping[str, float], classes: Sequence[str]) -> npt.NDArray[np.float32]:
    """Thresholds by class name as `(K,)` float32, NaN for a class without one.

    Raises
    ------
    MsunetError
        If a name is no class.
    """
    unknown = sorted(set(thresholds) - set(classes))
    if unknown:
        raise MsunetError(
            f"There is a threshold for {', '.join(unknown)}, but the classes are {', '.join(classes)}; name one of "
            "those."
        )
    return np.array([thresholds.get(name, np.nan) for name in classes], np.float32)


def decide(probabilities: Probabilities, thresholds: npt.NDArray[np.floating[Any]]) -> Labels:
    """The label of each pixel from its own probabilities.

    A class with a threshold is a candidate where its probability reaches it, a class without one where it is likelier
    than background. The likeliest candidate wins, or the first of several; where there is none, the pixel is
    background. Without any threshold this is the class of the largest probability.

    Parameters
    ----------
    probabilities : (K+1, h, w) float
        Background first.
    thresholds : (K,) float
        NaN: none.

    Returns
    -------
    (h, w) uint8
    """
    if np.isnan(thresholds).all():
        likeliest: Labels = probabilities.argmax(0).astype(np.uint8)
        return likeliest
    labels = np.zeros(probabilities.shape[1:], np.uint8)
    best = np.full(probabilities.shape[1:], -1, probabilities.dtype)
    for value, (plane, threshold) in enumerate(zip(probabilities[1:], thresholds, strict=True), 1):
        can = plane > probabilities[0] if np.isnan(threshold) else plane >= plane.dtype.type(threshold)
        can &= plane > best
        labels[can] = value
        np.copyto(best, plane, where=can)
    return labels


def needs_raw(settings: Postprocess, outputs: Iterable[str]) -> set[str]:
    """The additional outputs that the pass over the tiles must write for `finish`.

    Smoothing needs "probabilities". Work on whole objects needs "raw", the labels decided pixel by pixel (255 where
    nothing was predicted), so that it can be repeated after a kill.
    """
    needed = set()
    if settings.smoothing:
        needed.add("probabilities")
    if settings.smallest or settings.holes:
        needed.add("raw")
    return needed - set(outputs)


def deviations(smoothing: float, spacing: tuple[float, float], unit: str = "µm") -> tuple[float, float]:
    """Standard deviations `(y, x)` in pixels of a Gaussian given in the unit of the pixels' `spacing`.

    Raises
    ------
    MsunetError
        If the Gaussian would be wider than `MAX_RADIUS` pixels.
    """
    if not smoothing:
        return 0.0, 0.0
    sigma = smoothing / spacing[0], smoothing / spacing[1]
    if max(map(radius, sigma)) > MAX_RADIUS:
        most = MAX_RADIUS / 3 * min(spacing)
        raise MsunetError(
            f"A smoothing of {smoothing:g} {unit} is too wide for pixels of {min(spacing):g} {unit}; give at most "
            f"{most:.3g}."
        )
    return sigma


def radius(sigma: float) -> int:
    """The radius in pixels of a Gaussian, which is cut off at three standard deviations."""
    return ceil(3 * sigma)


def smooth(probabilities: Probabilities, sigma: tuple[float, float]) -> npt.NDArray[np.float32]:
    """Probabilities under a Gaussian, `(K+1, h, w)` float32.

    Pixels whose probabilities are all zero were not predicted; they have no weight, and stay zero. A pixel whose
    surroundings (`radius`) are all inside has the same value in any window.
    """
    given: npt.NDArray[np.float32] = np.asarray(probabilities, np.float32)
    if not any(sigma):
        return given
    known = np.asarray(given.any(0))
    weight = np.maximum(_blurred(known.astype(np.float32), sigma), np.float32(1e-6))
    blurred = np.stack([_blurred(given[channel], sigma) for channel in range(len(given))])
    return np.where(known, blurred / weight, np.float32(0)).astype(np.float32)


def _blurred(plane: npt.NDArray[np.float32], sigma: tuple[float, float]) -> npt.NDArray[np.float32]:
    for axis, deviation in enumerate(sigma):
        if deviation:
            reach = radius(deviation)
            taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
            plane = correlate1d(plane, taps / taps.sum(), axis=axis, mode="constant", output=np.float32)
    return plane


# ----------------------------------------------------------------------------------------------------------------------
# The area of each class at any thresholds, from a histogram of the probabilities.

MAX_BINS = 2**23
STEPS = {1: 5100, 2: 510}
"""Steps between 0 and 1 for one class and for two: multiples of 255, so that uint8 probabilities keep their values."""

MAX_PIXELS = 100_000_000
"""Most pixels that are read; for a larger run a coarser level is read."""

MOST_CLASSES = 12


@dataclass(frozen=True)
class Areas:
    """A histogram of a run's probabilities, of all classes together.

    Attributes
    ----------
    centres : (K+1, 1, n) float32
        The probabilities that occur, rounded to a step.
    counts : (n,) float64
        Pixels of level 0 with each of them.
    steps : int
        Steps between 0 and 1.
    level : int
        The level that was read; 0: every pixel.
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
    """Read the probabilities of a complete run, in bounded memory.

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
        None where there are more than `MOST_CLASSES` classes, for which the steps would be too coarse.
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
