"""The images of a run that is being filled: added with its first tile, drawn again as tiles come."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer

from napari_msunet.errors import MsunetError
from napari_msunet.events import RegionDone
from napari_msunet.geometry import Window
from napari_msunet.labels import Run
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.layers import layer_of_labels, layer_of_slide
from napari_msunet.widgets.run_maps import MAPS, RunMap, add_run_maps, map_of, redraw

if TYPE_CHECKING:
    from napari_msunet.widgets.dock.dock import MultiScaleUNet
    from napari_msunet.widgets.dock.state import SlideRecord

REDRAW = 700
"""Milliseconds between two drawings of what came."""


class LiveMaps(QObject):
    """Shows what a run keeps beside labels: disagreement, uncertainty, probabilities.

    Parameters
    ----------
    dock : MultiScaleUNet
    """

    def __init__(self, dock: MultiScaleUNet) -> None:
        super().__init__(dock)
        self.dock = dock
        self._record: SlideRecord | None = None
        self._run: Run | None = None
        self._layers: list[Any] = []
        self._stale = False
        self._background = Background("msunet-maps", self)
        self._timer = QTimer(self)
        self._timer.setInterval(REDRAW)
        self._timer.timeout.connect(self._redraw)

    @property
    def layers(self) -> list[Any]:
        """The layers of the run that was shown last, those that are still there."""
        return [layer for layer in self._layers if layer in self.dock.viewer.layers]

    def start(self, record: SlideRecord) -> None:
        """A prediction of this slide begins."""
        self._timer.stop()
        self._record, self._run, self._layers = record, None, []

    def add(self, event: RegionDone) -> None:
        """A tile is finished."""
        if self._run is None and not self._show(event.run):
            return
        self._take([Window(event.y, event.x, event.height, event.width)])

    def finish(self, run: Run) -> None:
        """The prediction has ended: show the run as it is."""
        self._timer.stop()
        if (self._run is None or self._run.key != run.key) and not self._show(run.key):
            return
        assert self._run is not None
        if self._run.complete:
            for source in self._sources():
                source.settle()
        self._background.run(lambda: None, lambda _: self._draw(whole=True))

    def pause(self) -> None:
        """The prediction was stopped: show what came."""
        self._timer.stop()
        self._background.run(lambda: None, lambda _: self._draw(whole=True))

    def _show(self, key: str) -> bool:
        """Add the layers of a run; whether there are any."""
        record = self._record
        if record is None or record.labels is None:
            return False
        labels = layer_of_labels(self.dock, record)
        self._run = run = labels.store.run(key)
        if not set(MAPS) & set(run.outputs):
            return False
        viewer = self.dock.viewer
        active = viewer.layers.selection.active
        try:
            self._layers = list(add_run_maps(viewer, run, layer_of_slide(self.dock, record)))
        except MsunetError:  # the slide's layer was removed meanwhile
            return False
        self._under(labels)
        viewer.layers.selection.active = active
        if not run.complete:
            self._take(list(run.done.values()))
            self._timer.start()
        return True

    def _under(self, labels: Any) -> None:
        """Below the labels, so that these stay in sight and can be painted on."""
        layers = self.dock.viewer.layers
        for layer in self._layers:
            layers.move(layers.index(layer), layers.index(labels))

    def _sources(self) -> list[RunMap]:
        return [source for layer in self.layers if (source := map_of(layer)) is not None]

    def _take(self, windows: list[Window]) -> None:
        sources = self._sources()
        if sources and windows:
            self._background.run(partial(_take_all, sources, windows), lambda _: self._came())

    def _came(self) -> None:
        self._stale = True

    def _redraw(self) -> None:
        if self._stale:
            self._stale = False
            self._draw()

    def _draw(self, whole: bool = False) -> None:
        for layer in self.layers:
            if layer.visible or whole:
                redraw(layer, whole)

    def closing(self) -> None:
        """Draw nothing any more."""
        self._timer.stop()
        self._background.close()


def _take_all(sources: list[RunMap], windows: list[Window]) -> None:
    for window in windows:
        for source in sources:
            source.take(window)
