"""The layers of a running prediction: a first look, and the run's maps, which are redrawn as tiles come."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from math import ceil, floor
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from napari.layers import Labels
from qtpy.QtCore import QObject, QTimer

from napari_msunet.errors import MsunetError
from napari_msunet.events import FirstLook, RegionDone
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore, Run
from napari_msunet.labels.chunks import WindowArray
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.layers import PassingLayer, add_to_look_at
from napari_msunet.widgets.paint.class_colours import colormap, features
from napari_msunet.widgets.placement import over
from napari_msunet.widgets.prediction.run_maps import RunMap, add_map_layer, redraw, remove_maps, run_maps

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import SlideRecord
# ----------------------------------------------------------------------------------------------------------------------
# The first look: the answer of the coarsest scale for a large view, shown until the tiles there are finished.

NAME = "First look (coarsest scale)"

SMALLEST = 1024
"""Longest side of the coarsest level."""


class Looked:
    """First looks as a pyramid of labels: 0 where there is none, or where a tile has been finished since.

    Parameters
    ----------
    shape : (h, w)
        Shape of the run in pixels of its level 0.
    pixel : float
        Side of a pixel of the first looks in level-0 pixels of the run.
    """

    def __init__(self, shape: tuple[int, int], pixel: float) -> None:
        self.pixel = pixel
        self._parts: list[tuple[Window, npt.NDArray[np.uint8]]] = []
        self._done: list[Window] = []
        height, width = (ceil(side / pixel) for side in shape)
        shapes = [(height, width)]
        while max(shapes[-1]) > SMALLEST:
            shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
        self.levels = [LookedLevel(self, level, size) for level, size in enumerate(shapes)]

    def add(self, look: FirstLook) -> None:
        """Add a first look at another part."""
        labels = look.array().copy()
        place = Window(round(look.y / self.pixel), round(look.x / self.pixel), *labels.shape)
        self._parts.append((place, labels))
        for window in self._done:
            _clear(place, labels, window)

    def finished(self, tile: Window) -> None:
        """Remove the looks under a finished tile (level-0 pixels of the run), whose labels are shown instead."""
        (y0, x0), (y1, x1) = (tile.y, tile.x), tile.stop
        inside = Window.between(
            (ceil(y0 / self.pixel), ceil(x0 / self.pixel)), (floor(y1 / self.pixel), floor(x1 / self.pixel))
        )
        self._done.append(inside)
        for place, labels in self._parts:
            _clear(place, labels, inside)

    def read(self, level: int, window: Window) -> npt.NDArray[np.uint8]:
        """A window of a level; each level has every other pixel of the finer one."""
        out = np.zeros(window.shape, np.uint8)
        step = 1 << level
        for place, labels in self._parts:
            first = -(-place.y // step), -(-place.x // step)
            last = -(-place.stop[0] // step), -(-place.stop[1] // step)
            part = Window.between(first, last).intersection(window)
            if not part.empty:
                rows = slice(part.y * step - place.y, None, step)
                columns = slice(part.x * step - place.x, None, step)
                out[part.slices((window.y, window.x))] = labels[rows, columns][: part.height, : part.width]
        return out


def _clear(place: Window, labels: npt.NDArray[np.uint8], window: Window) -> None:
    part = place.intersection(window)
    if not part.empty:
        labels[part.slices((place.y, place.x))] = 0


class ReadByLevel(Protocol):
    """Labels that arrive piece by piece, such as `Looked`."""

    def read(self, level: int, window: Window) -> npt.NDArray[np.uint8]:
        """The labels of a window of a level; 0 where nothing has arrived."""


class LookedLevel(WindowArray):
    """A level of labels that arrive piece by piece, as an array of which napari reads the part in view."""

    def __init__(self, looked: ReadByLevel, level: int, shape: tuple[int, int]) -> None:
        super().__init__(shape, np.uint8, lambda window: looked.read(level, window))
        self.size = int(np.prod(shape, dtype=np.int64))

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> npt.NDArray[np.generic]:
        return np.asarray(self[...], dtype)


class FirstLookLayer(PassingLayer):
    """The layer over the slide, made with the first look and removed at the end of the prediction.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self._looked: Looked | None = None
        self._run = ""

    def add(self, look: FirstLook, store: LabelStore, slide_layer: Layer, labels_layer: Layer | None) -> None:
        """Add a first look; `draw` shows it."""
        if look.run != self._run:
            self.drop()
        if self._looked is None:
            self._run, self._looked = look.run, Looked(store.shape, look.width / look.columns)
            for window in store.run(look.run).done.values():
                self._looked.finished(window)
        self._looked.add(look)
        if self.layer is None:
            self._show(self._looked, store, slide_layer, labels_layer)

    def finished(self, tile: RegionDone) -> None:
        """Remove the look under a finished tile; `draw` shows this."""
        if self._looked is not None:
            self._looked.finished(Window(tile.y, tile.x, tile.height, tile.width))

    def draw(self) -> None:
        """Draw the changes since the last drawing."""
        if self.there and self.layer is not None and self.layer.visible:
            redraw(self.layer)

    def drop(self) -> None:
        """Remove the layer."""
        super().drop()
        self._looked, self._run = None, ""

    def _show(self, looked: Looked, store: LabelStore, slide_layer: Layer, labels_layer: Layer | None) -> None:
        pixel = store.pixel[0] * looked.pixel, store.pixel[1] * looked.pixel
        several = len(looked.levels) > 1
        self.layer = Labels(
            looked.levels if several else looked.levels[0],
            multiscale=several,
            name=NAME,
            colormap=colormap(store),
            features=features(store),
            opacity=0.6 * (0.5 if labels_layer is None else labels_layer.opacity),
            metadata={KEY: {"map": "first look", "labels": str(store.path)}},
            **over(slide_layer, pixel),
        )
        add_to_look_at(self.viewer, self.layer, below=labels_layer)  # finished labels stay above it


# ----------------------------------------------------------------------------------------------------------------------
# The maps that appear while a prediction runs.

REDRAW = 700
"""Milliseconds between two drawings."""


class LiveMaps(QObject):
    """Shows the maps of a run (disagreement, uncertainty, probabilities) while it fills, and the first look.

    Parameters
    ----------
    layers : Layers
    parent : QObject
    """

    def __init__(self, layers: Layers, parent: QObject) -> None:
        super().__init__(parent)
        self.layers = layers
        self.first_look = FirstLookLayer(layers.viewer)
        self._record: SlideRecord | None = None
        self._run: Run | None = None
        self._layers: list[Image] = []
        self._sources: list[RunMap] = []
        self._coming: list[RunMap] = []
        self._stale = self._closed = False
        self._background = Background("msunet-maps", self)
        self._timer = QTimer(self)
        self._timer.setInterval(REDRAW)
        self._timer.timeout.connect(self._redraw)

    @property
    def maps(self) -> list[Image]:
        """The layers of the run that was shown last, without those that were removed."""
        return [layer for layer in self._layers if layer in self.layers.viewer.layers]

    @property
    def busy(self) -> bool:
        """Whether tiles or layers wait to be shown."""
        return bool(self._coming) or self._background.busy

    def start(self, record: SlideRecord) -> None:
        """Prepare for a prediction of this slide, which begins."""
        self._timer.stop()
        self.first_look.drop()
        self._record, self._run, self._layers, self._sources, self._coming = record, None, [], [], []

    def look(self, event: FirstLook) -> None:
        """Show the first look at a part of a large view."""
        record = self._record
        if record is not None and record.labels is not None:
            with suppress(MsunetError):  # the slide's layer was removed meanwhile
                labels = self.layers.need_labels(record)
                self.first_look.add(event, labels.store, self.layers.need_slide(record), labels)
                self._stale = True
                self._timer.start()

    def add(self, event: RegionDone) -> None:
        """Show a finished tile."""
        self.first_look.finished(event)
        self._stale = self._stale or self.first_look.there
        if self._run is None:
            self._show(event.run)
        self._take([Window(event.y, event.x, event.height, event.width)])

    def finish(self, run: Run) -> None:
        """Show the whole run; called when the prediction has ended."""
        self._timer.stop()
        self.first_look.drop()
        if self._run is None or self._run.key != run.key:
            self._show(run.key)
        if run.complete:
            self._background.run(self._settle)
        self._background.run(lambda: None, lambda _: self._draw(whole=True))

    def pause(self) -> None:
        """Show the tiles so far; called when the prediction was stopped."""
        self._timer.stop()
        self.first_look.drop()
        self._background.run(lambda: None, lambda _: self._draw(whole=True))

    def _settle(self) -> None:
        for source in self._sources:
            source.settle()

    def _show(self, key: str) -> None:
        """Add the layers of a run, if it keeps any maps."""
        record = self._record
        if record is None or record.labels is None:
            return
        store = self.layers.need_labels(record).store
        self._run = run = store.run(key)
        self._layers, self._sources = [], run_maps(run)
        if self._sources:
            remove_maps(self.layers.viewer, run)
            self._coming = list(self._sources)
            QTimer.singleShot(0, self._add_next)
            if not run.complete:
                self._take(list(run.done.values()))
                self._timer.start()

    def _add_next(self) -> None:
        """Add one layer. napari needs some time for each, so the window handles its events between two."""
        record = self._record
        if not self._coming or self._closed or record is None:
            return
        source, viewer = self._coming.pop(0), self.layers.viewer
        if source.run is self._run:
            active = viewer.layers.selection.active
            try:
                layer = add_map_layer(viewer, source, self.layers.need_slide(record), visible=not self._layers)
            except MsunetError:  # the slide's layer was removed meanwhile
                self._coming = []
                return
            self._layers.append(layer)
            labels = self.layers.of_store(record.labels)
            if labels is not None:  # the labels stay on top and selected, so that they can be painted on
                viewer.layers.move(viewer.layers.index(layer), viewer.layers.index(labels))
            viewer.layers.selection.active = active
        QTimer.singleShot(0, self._add_next)

    def _take(self, windows: list[Window]) -> None:
        if self._sources and windows:
            self._background.run(partial(_take_all, self._sources, windows), lambda _: self._came())

    def _came(self) -> None:
        self._stale = True

    def _redraw(self) -> None:
        if self._stale:
            self._stale = False
            self.first_look.draw()
            self._draw()

    def _draw(self, whole: bool = False) -> None:
        for layer in self.maps:
            if layer.visible or whole:
                redraw(layer, whole)

    def closing(self) -> None:
        """Stop drawing."""
        self._closed = True
        self._timer.stop()
        self._background.close()


def _take_all(sources: list[RunMap], windows: list[Window]) -> None:
    for window in windows:
        for source in sources:
            source.take(window)
