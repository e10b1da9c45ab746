"""Nothing painted is lost: strokes under way are stored when a layer goes, its viewer closes or the process ends."""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING
from weakref import WeakSet

from qtpy.QtCore import QEvent, QObject

from napari_msunet.labels import LabelStore
from napari_msunet.widgets.pyramid_labels import upkeep
from napari_msunet.widgets.pyramid_labels.upkeep import PaintedLayer
from napari_msunet.widgets.viewers import camera, main_window, viewers_showing

if TYPE_CHECKING:
    from napari.components import LayerList
    from napari.utils.events import Event
    from napari.viewer import Viewer

_layers: WeakSet[PaintedLayer] = WeakSet()
_watched: WeakSet[Viewer] = WeakSet()


def register(layer: PaintedLayer) -> None:
    """Know a new layer."""
    _layers.add(layer)


def layers_of(store: LabelStore) -> list[PaintedLayer]:
    """All layers over a store, in whatever viewers."""
    return [layer for layer in _layers if layer.store is store]


def watch_viewers(layer: PaintedLayer) -> None:
    """Watch the viewers that show a layer, from its first dab on."""
    for viewer in viewers_showing(layer):
        watch(viewer)


def watch(viewer: Viewer) -> None:
    """End strokes when a layer leaves this viewer or is no longer the active one, or when its window closes."""
    if viewer in _watched:
        return
    _watched.add(viewer)
    viewer.layers.events.removed.connect(_on_removed)
    layers = viewer.layers  # not the viewer itself: that would keep it alive
    camera(viewer).events.zoom.connect(lambda: _on_zoom(layers))
    viewer.layers.selection.events.active.connect(_on_active)
    window = main_window(viewer)
    window.installEventFilter(_CloseWatcher(window))
    upkeep.start(window, layers, _layers)


def _on_zoom(layers: LayerList) -> None:
    """Brushes that keep their size on the screen."""
    for layer in layers:
        if layer in _layers:
            layer.follow_zoom()


def _on_removed(event: Event) -> None:
    if event.value in _layers:
        event.value.end_stroke()
        event.value.flush()


def _on_active(event: Event) -> None:
    """A stroke ends with its layer's turn: the release of the mouse goes to another layer now."""
    for layer in list(_layers):
        if layer is not event.value:
            layer.end_stroke()


class _CloseWatcher(QObject):
    """Ends strokes when a window is closed; it belongs to the window and goes with it."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Close:
            for layer in list(_layers):
                layer.end_stroke()
                layer.flush()
        return False


@atexit.register
def _at_exit() -> None:
    for layer in list(_layers):
        layer.end_stroke()
