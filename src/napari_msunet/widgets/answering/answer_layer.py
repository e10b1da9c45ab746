"""The layer of the answer: labels of tiles, which come one by one and replace older ones, over the slide."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Labels

from napari_msunet.events import Answered
from napari_msunet.geometry import Window, pyramid_shapes
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.layers import PassingLayer, add_to_look_at
from napari_msunet.widgets.paint.class_colours import Legend
from napari_msunet.widgets.placement import over
from napari_msunet.widgets.prediction.live import LookedLevel
from napari_msunet.widgets.prediction.run_maps import redraw

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer
NAME = "Answer"

OPACITY = 0.45

MOST_TILES = 400
"""Tiles that are kept; about a hundred million pixels."""


class AnswerMap:
    """The tiles of an answer as a pyramid of labels, 0 where there is none.

    Parameters
    ----------
    shape : (height, width)
        Of the grid of the answer.
    pixel : (y, x)
        Size of its pixels in level-0 pixels of the slide.
    """

    def __init__(self, shape: tuple[int, int], pixel: tuple[float, float]) -> None:
        self.shape, self.pixel = shape, pixel
        self.model = ""
        self._tiles: OrderedDict[tuple[int, int], tuple[Window, npt.NDArray[np.uint8]]] = OrderedDict()
        self.levels = [LookedLevel(self, level, size) for level, size in enumerate(pyramid_shapes(shape))]

    def add(self, answer: Answered) -> None:
        """Put a tile in the place of the one before; with the first tile of another model, those of the model before
        go."""
        if answer.model != self.model:
            self._tiles.clear()
            self.model = answer.model
        self._tiles.pop((answer.y, answer.x), None)
        self._tiles[answer.y, answer.x] = Window(answer.y, answer.x, answer.rows, answer.columns), answer.array()
        while len(self._tiles) > MOST_TILES:
            self._tiles.popitem(last=False)

    def read(self, level: int, window: Window) -> npt.NDArray[np.uint8]:
        """A window of a level; each level has every other pixel of the finer one."""
        out = np.zeros(window.shape, np.uint8)
        step = 1 << level
        for place, labels in list(self._tiles.values()):
            first = -(-place.y // step), -(-place.x // step)
            last = -(-place.stop[0] // step), -(-place.stop[1] // step)
            part = Window.between(first, last).intersection(window)
            if not part.empty:
                rows = slice(part.y * step - place.y, None, step)
                columns = slice(part.x * step - place.x, None, step)
                out[part.slices((window.y, window.x))] = labels[rows, columns][: part.height, : part.width]
        return out


class AnswerLayer(PassingLayer):
    """The layer over the slide and below the annotation; it is not painted on, and goes with the switch.

    Parameters
    ----------
    viewer : napari.Viewer
    name : str
    """

    answers: AnswerMap | None = None

    def __init__(self, viewer: ViewerModel, name: str = NAME) -> None:
        super().__init__(viewer)
        self.name = name

    def add(self, answer: Answered) -> None:
        """Take a tile; `draw` shows it."""
        if self.answers is None or (self.answers.shape, self.answers.pixel) != (answer.shape, answer.pixel):
            self.drop()
            self.answers = AnswerMap(answer.shape, answer.pixel)
        self.answers.add(answer)

    def draw(self, legend: Legend, slide: Layer, below: Layer | None) -> None:
        """Draw what came since the last drawing, in the colours of the legend, below another layer."""
        if self.answers is None:
            return
        if not self.there:
            self._show(self.answers, legend, slide, below)
        elif self.layer is not None and self.layer.visible:
            redraw(self.layer)

    def _show(self, answers: AnswerMap, legend: Legend, slide: Layer, below: Layer | None) -> None:
        several = len(answers.levels) > 1
        self.layer = Labels(
            answers.levels if several else answers.levels[0],
            multiscale=several,
            name=self.name,
            colormap=legend.colormap,
            features=legend.features,
            opacity=OPACITY,
            metadata={KEY: {"map": self.name}},
            **over(slide, answers.pixel),
        )
        add_to_look_at(self.viewer, self.layer, below=below)

    def recolour(self, legend: Legend) -> None:
        """Show the present colours of the classes."""
        if self.there and self.layer is not None:
            self.layer.colormap, self.layer.features = legend

    def drop(self) -> None:
        """Remove the layer."""
        super().drop()
        self.answers = None
