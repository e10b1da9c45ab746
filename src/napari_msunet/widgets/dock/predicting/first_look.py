"""The layer that shows at once what the coarsest scale says of a large view, until its tiles are finished."""

from __future__ import annotations

from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Labels

from napari_msunet.events import FirstLook, RegionDone
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.lazy import WindowArray
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.layers import PassingLayer, add_to_look_at
from napari_msunet.widgets.placement import over
from napari_msunet.widgets.pyramid_labels.colours import colormap, features
from napari_msunet.widgets.run_maps import redraw

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

NAME = "First look (coarsest scale)"

SMALLEST = 1024
"""Side of the coarsest level at most."""


class Looked:
    """First looks as a pyramid of labels: 0 where there is none, and where tiles have been finished since.

    Parameters
    ----------
    shape : (h, w)
        Of the run in pixels of its level 0.
    pixel : float
        Side of a pixel of the looks in those.
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
        """One more part."""
        labels = look.array().copy()
        place = Window(round(look.y / self.pixel), round(look.x / self.pixel), *labels.shape)
        self._parts.append((place, labels))
        for window in self._done:
            _clear(place, labels, window)

    def finished(self, tile: Window) -> None:
        """A tile (level-0 pixels of the run) is finished: its labels are seen instead."""
        (y0, x0), (y1, x1) = (tile.y, tile.x), tile.stop
        inside = Window.between(
            (ceil(y0 / self.pixel), ceil(x0 / self.pixel)), (floor(y1 / self.pixel), floor(x1 / self.pixel))
        )
        self._done.append(inside)
        for place, labels in self._parts:
            _clear(place, labels, inside)

    def read(self, level: int, window: Window) -> npt.NDArray[np.uint8]:
        """A window of a level: every other pixel of the one below."""
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


class LookedLevel(WindowArray):
    """A level of `Looked` as an array that napari reads where it is looked at."""

    def __init__(self, looked: Looked, level: int, shape: tuple[int, int]) -> None:
        super().__init__(shape, np.uint8, lambda window: looked.read(level, window))
        self.size = int(np.prod(shape, dtype=np.int64))

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> npt.NDArray[np.generic]:
        return np.asarray(self[...], dtype)


class FirstLookLayer(PassingLayer):
    """The layer over the slide, made with the first look and gone with the prediction.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self._looked: Looked | None = None
        self._run = ""

    def add(self, look: FirstLook, store: LabelStore, slide_layer: Layer, labels_layer: Layer | None) -> None:
        """Take one more look; `draw` shows it."""
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
        """A tile came, which is seen instead; `draw` shows it."""
        if self._looked is not None:
            self._looked.finished(Window(tile.y, tile.x, tile.height, tile.width))

    def draw(self) -> None:
        """Draw what came since."""
        if self.there and self.layer is not None and self.layer.visible:
            redraw(self.layer)

    def drop(self) -> None:
        """Take it away."""
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
        add_to_look_at(self.viewer, self.layer, below=labels_layer)  # what is finished stays above
