"""What a run shows while it is filled: a first look, and its images, drawn again as tiles come."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer

from napari_msunet.errors import MsunetError
from napari_msunet.events import FirstLook, RegionDone
from napari_msunet.geometry import Window
from napari_msunet.labels import Run
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.predicting.first_look import FirstLookLayer
from napari_msunet.widgets.run_maps import RunMap, add_map_layer, redraw, remove_maps, run_maps

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import SlideRecord

REDRAW = 700
"""Milliseconds between two drawings of what came."""


class LiveMaps(QObject):
    """Shows what a run keeps beside labels (disagreement, uncertainty, probabilities), and a first look at what comes.

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
        """The layers of the run that was shown last, those that are still there."""
        return [layer for layer in self._layers if layer in self.layers.viewer.layers]

    @property
    def busy(self) -> bool:
        """Whether something is still to be shown."""
        return bool(self._coming) or self._background.busy

    def start(self, record: SlideRecord) -> None:
        """A prediction of this slide begins."""
        self._timer.stop()
        self.first_look.drop()
        self._record, self._run, self._layers, self._sources, self._coming = record, None, [], [], []

    def look(self, event: FirstLook) -> None:
        """The coarsest scale has seen a part of a large view."""
        record = self._record
        if record is not None and record.labels is not None:
            with suppress(MsunetError):  # the slide's layer was removed meanwhile
                labels = self.layers.need_labels(record)
                self.first_look.add(event, labels.store, self.layers.need_slide(record), labels)
                self._stale = True
                self._timer.start()

    def add(self, event: RegionDone) -> None:
        """A tile is finished."""
        self.first_look.finished(event)
        self._stale = self._stale or self.first_look.there
        if self._run is None:
            self._show(event.run)
        self._take([Window(event.y, event.x, event.height, event.width)])

    def finish(self, run: Run) -> None:
        """The prediction has ended: show the run as it is."""
        self._timer.stop()
        self.first_look.drop()
        if self._run is None or self._run.key != run.key:
            self._show(run.key)
        if run.complete:
            self._background.run(self._settle)
        self._background.run(lambda: None, lambda _: self._draw(whole=True))

    def pause(self) -> None:
        """The prediction was stopped: show what came."""
        self._timer.stop()
        self.first_look.drop()
        self._background.run(lambda: None, lambda _: self._draw(whole=True))

    def _settle(self) -> None:
        for source in self._sources:
            source.settle()

    def _show(self, key: str) -> None:
        """Have the layers of a run, if it has any."""
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
        """Add one layer: napari takes its time for each, and the window goes on between two."""
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
            if labels is not None:  # these stay in sight, and can be painted on
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
        """Draw nothing any more."""
        self._closed = True
        self._timer.stop()
        self._background.close()


def _take_all(sources: list[RunMap], windows: list[Window]) -> None:
    for window in windows:
        for source in sources:
            source.take(window)
