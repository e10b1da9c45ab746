"""The layer that shows labels for other thresholds in place of the stored labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Labels

from napari_msunet.geometry import Window
from napari_msunet.inference.postprocess.threshold import decide, radius, smooth
from napari_msunet.labels import LabelStore, Run, open_labels
from napari_msunet.labels.metadata import Colour, default_colours
from napari_msunet.labels.runs.merge import value_table
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.layers import PassingLayer, add_to_look_at
from napari_msunet.widgets.napari_internals import drawn_once
from napari_msunet.widgets.paint.class_colours import colormap, features
from napari_msunet.widgets.placement import over

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_msunet.widgets.placement import LayerPlacement
# ----------------------------------------------------------------------------------------------------------------------
# The run of a label store whose probabilities can be used again.


@dataclass(frozen=True)
class RunWithProbabilities:
    """A store, a complete run of it with probabilities, and the colours of its classes."""

    store: LabelStore
    run: Run
    colours: tuple[Colour, ...]

    @property
    def path(self) -> Path:
        """Path of the store."""
        return self.store.path


def find_run_with_probabilities(
    path: Path, before: list[tuple[int, str]] | None = None
) -> tuple[list[tuple[int, str]], RunWithProbabilities | None] | None:
    """Find the newest prediction of a store; runs made from the probabilities of another run do not count.

    Parameters
    ----------
    path : Path
        Path of the store.
    before : optional
        The first value of the last result, so that no run is opened again where nothing has changed.

    Returns
    -------
    tuple or None
        A value for `before` at the next call, and the newest run, or None where it kept no probabilities or is not
        complete. None in place of both where nothing has changed.
    """
    notes = sorted((note.stat().st_mtime_ns, note.parent.name) for note in path.glob("runs/[!.]*/run.json"))
    if notes == before:
        return None
    store = open_labels(path)
    for _, key in reversed(notes):
        run = store.run(key)
        if run.description.get("derived"):
            continue
        if "probabilities" in run.outputs and run.complete:
            known = dict(zip(store.classes, store.colours, strict=True))
            spare = default_colours(len(run.classes))
            return notes, RunWithProbabilities(
                store, run, tuple(known.get(c, spare[n]) for n, c in enumerate(run.classes))
            )
        break
    return notes, None


# ----------------------------------------------------------------------------------------------------------------------
# Previews: the labels of the view for other thresholds, computed from kept probabilities in a thread.

MOST_PIXELS = 1_000_000
"""Most pixels of a preview: about as many as the canvas has."""


@dataclass(frozen=True)
class Asked:
    """The request for a preview.

    Attributes
    ----------
    window : Window
        The view, in level-0 pixels of the store.
    thresholds : tuple of float
        The threshold of each class of the run; NaN: none.
    sigma : (y, x)
        Standard deviation of the Gaussian, in level-0 pixels.
    """

    window: Window
    thresholds: tuple[float, ...]
    sigma: tuple[float, float]


@dataclass(frozen=True)
class ThresholdPreview:
    """A preview: labels `(h, w)` of `window` of a level, with the store's values, and level-0 pixels per class."""

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

    The probabilities of a view are kept, so that a slider needs no reading.
    """

    def __init__(self, store: LabelStore, run: Run) -> None:
        self.store, self.run = store, run
        self._place: tuple[Window, int, int] | tuple[()] = ()
        self._probabilities: npt.NDArray[np.floating] = np.zeros(0)
        self._edited: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._edits: npt.NDArray[np.number] = np.zeros(0)

    def __call__(self, asked: Asked) -> ThresholdPreview:
        """The labels of a request: the person's edits, and everything else from the probabilities."""
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
        return ThresholdPreview(asked, labels, window, level, areas)

    def _read(self, finest: Window, window: Window, level: int, halo: int) -> None:
        place = (finest, level, halo)
        if place == self._place:
            return
        self._probabilities = self.run.read(window.padded(halo), level, "probabilities").astype(np.float32)
        self._edited = self.store.read_edited(finest, level)
        self._edits = self.store.read(finest, level)
        self._place = place


# ----------------------------------------------------------------------------------------------------------------------
# The layer that shows the labels for other thresholds.

NAME = "Thresholds (preview)"


class PreviewLayer(PassingLayer):
    """A layer over the slide, made when it is first needed. While it is shown, the labels' own layer is hidden.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self._hidden: Layer | None = None
        self._place: LayerPlacement = {}

    def show(self, shown: ThresholdPreview, store: LabelStore, slide_layer: Layer, labels_layer: Layer | None) -> None:
        """Show the labels of a preview."""
        size = store.pixel[0] * 2**shown.level, store.pixel[1] * 2**shown.level
        place = over(slide_layer, size, (shown.window.y * size[0], shown.window.x * size[1]))
        if not self.there:
            self._add(shown, store, place, labels_layer)
            return
        layer = self.layer
        assert layer is not None
        if place == self._place and layer.data.shape == shown.labels.shape:
            layer.data[...] = shown.labels
        else:
            # Each of these changes alone makes napari slice, draw and measure all layers again; blocked, they do so
            # once.
            with drawn_once(layer):
                for name in ("scale", "translate", "affine"):
                    if name in place:
                        setattr(layer, name, place[name])
                layer.data = shown.labels
            self._place = place
        layer.refresh(thumbnail=False, highlight=False, extent=False)

    def _add(
        self, shown: ThresholdPreview, store: LabelStore, place: LayerPlacement, labels_layer: Layer | None
    ) -> None:
        self.layer = Labels(
            shown.labels,
            name=NAME,
            colormap=colormap(store),
            features=features(store),
            opacity=0.5 if labels_layer is None else labels_layer.opacity,
            metadata={KEY: {"map": "thresholds", "labels": str(store.path)}},
            **place,
        )
        self._place = place
        add_to_look_at(self.viewer, self.layer)
        if labels_layer is not None and labels_layer.visible:
            labels_layer.visible = False
            self._hidden = labels_layer

    def drop(self) -> None:
        """Remove the layer and show the labels again."""
        super().drop()
        if self._hidden is not None:
            self._hidden.visible = True
            self._hidden = None
