"""Labels of what is in view for other thresholds: computed from kept probabilities, beside the GUI thread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window
from napari_msunet.infer.postprocess.deciding import decide, radius, smooth
from napari_msunet.labels import LabelStore, Run
from napari_msunet.labels.merge import value_table

MOST_PIXELS = 1_000_000
"""Pixels of a preview: about those of the canvas."""


@dataclass(frozen=True)
class Asked:
    """What is to be shown.

    Attributes
    ----------
    window : Window
        In level-0 pixels of the store.
    thresholds : tuple of float
        Per class of the run; NaN: none.
    sigma : (y, x)
        Of the Gaussian, in level-0 pixels.
    """

    window: Window
    thresholds: tuple[float, ...]
    sigma: tuple[float, float]


@dataclass(frozen=True)
class Shown:
    """A preview: labels `(h, w)` with the store's values, of `window` of a level; pixels of level 0 per class."""

    asked: Asked
    labels: npt.NDArray[np.uint8]
    window: Window
    level: int
    areas: npt.NDArray[np.float64]


def level_of(window: Window, levels: int) -> int:
    """The finest level on which a window has no more than `MOST_PIXELS`."""
    level = 0
    while window.height * window.width > MOST_PIXELS * 4**level and level < levels - 1:
        level += 1
    return level


class Previewer:
    """Computes previews of one run; used by one thread at a time.

    What was read for a view is kept, so that a slider costs arithmetic only.
    """

    def __init__(self, store: LabelStore, run: Run) -> None:
        self.store, self.run = store, run
        self._place: tuple[Window, int, int] | tuple[()] = ()
        self._probabilities: npt.NDArray[np.floating] = np.zeros(0)
        self._edited: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._edits: npt.NDArray[np.number] = np.zeros(0)

    def __call__(self, asked: Asked) -> Shown:
        """The labels: a person's edits as they are, everything else from the probabilities."""
        level = level_of(asked.window, len(self.run.info.shapes))
        window = asked.window
        for _ in range(level):
            window = window.halved()
        sigma = asked.sigma[0] / 2**level, asked.sigma[1] / 2**level
        halo = max(map(radius, sigma))
        self._read(asked.window, window, level, halo)
        inner = Window(halo, halo, *window.shape).slices()
        probabilities = smooth(self._probabilities, sigma)[(slice(None), *inner)]
        found = decide(probabilities, np.array(asked.thresholds, np.float32))
        areas = np.bincount(found.ravel(), minlength=len(self.run.classes) + 1)[1:].astype(np.float64) * 4**level
        table = value_table(self.run, self.store.classes, False)
        labels = found if table is None else np.asarray(table, np.uint8)[found]
        labels = np.where(self._edited, self._edits, labels).astype(np.uint8)
        return Shown(asked, labels, window, level, areas)

    def _read(self, finest: Window, window: Window, level: int, halo: int) -> None:
        place = (finest, level, halo)
        if place == self._place:
            return
        self._probabilities = self.run.read(window.padded(halo), level, "probabilities").astype(np.float32)
        self._edited = self.store.read_edited(finest, level)
        self._edits = self.store.read(finest, level)
        self._place = place
