"""Storing strokes under way when a layer is removed, its viewer closes or the process ends, so that none is lost."""

from __future__ import annotations

import atexit
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QObject, QTimer

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import to_position
from napari_msunet.labels import LabelStore
from napari_msunet.widgets.napari_internals import camera, main_window, viewers_showing
from napari_msunet.widgets.placement import placement_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    import pint
    from napari.components import LayerList
    from napari.utils.events import Event
    from napari.utils.transforms import Affine
    from napari.viewer import Viewer

    from napari_msunet.geometry import Region, Window
# ----------------------------------------------------------------------------------------------------------------------
# Checks once a second: what another process wrote, and which chunks of a store cannot be read.

_MS = 1000
_EDGE = 24  # level-0 pixels: wide enough to be visible with the whole slide in view
_shown: WeakKeyDictionary[LabelStore, set[Path]] = WeakKeyDictionary()


class PaintedLayer(Protocol):
    """The part of `PyramidLabels` that this module uses."""

    store: LabelStore
    name: str
    scale: npt.NDArray[np.float64]
    translate: npt.NDArray[np.float64]
    rotate: npt.NDArray[np.float64]
    shear: npt.NDArray[np.float64]
    affine: Affine
    units: tuple[pint.Unit, ...]

    def can_be_stored(self) -> bool: ...
    def refresh_window(self, window: Window | Region) -> None: ...
    def end_stroke(self, patience: float | None = None) -> None: ...
    def flush(self) -> None: ...
    def follow_zoom(self) -> None: ...


def start(parent: QObject, layers: LayerList, painted: Collection[PaintedLayer]) -> None:
    """Check those of a viewer's `layers` that are `painted`, as long as `parent`, its window, lives."""
    timer = QTimer(parent)
    timer.setInterval(_MS)
    timer.timeout.connect(lambda: look(layers, painted))
    timer.start()


def look(layers: LayerList, painted: Collection[PaintedLayer]) -> None:
    """Show what another process wrote into read-only stores, and report damage."""
    for layer in [layer for layer in layers if layer in painted]:
        # a store that was closed or is changing: tried again the next time
        with suppress(MsunetError, OSError, RuntimeError):
            if not layer.can_be_stored():
                for region in layer.store.external_changes():
                    layer.refresh_window(region)
            _show_damage(layers, layer)


def _show_damage(layers: LayerList, layer: PaintedLayer) -> None:
    """Show red frames around the chunks that cannot be decoded, and one sentence."""
    from napari.layers import Shapes

    known = _shown.setdefault(layer.store, set())
    found = [damage for damage in layer.store.damaged if damage.level == 0 and damage.path not in known]
    if not found:
        return
    known.update(damage.path for damage in found)
    frames = [
        to_position(np.array([[w.y, w.x], [w.y, w.stop[1]], [w.stop[0], w.stop[1]], [w.stop[0], w.x]], float))
        for w in (damage.window for damage in found)
    ]
    marks = next((other for other in layers if other.metadata.get("damage of") == layer.name), None)
    if marks is None:
        marks = Shapes(
            name=f"{layer.name}: damaged",
            ndim=2,
            metadata={"damage of": layer.name},
            **placement_of(layer),
        )
        active = layers.selection.active
        layers.append(marks)
        layers.selection.active = active
    marks.add(frames, shape_type="polygon", edge_color="red", face_color="transparent", edge_width=_EDGE)
    marks.editable = False
    more = f" ({len(found) - 1} more like it)" if len(found) > 1 else ""
    show_error(f"Damaged labels: {found[0].message}{more} It is shown in a red frame; the rest can be worked on.")


# ----------------------------------------------------------------------------------------------------------------------
# The life of a paintable layer: from when it enters a viewer to when it leaves the last one.

_layers: WeakSet[PaintedLayer] = WeakSet()
_watched: WeakSet[Viewer] = WeakSet()


def register(layer: PaintedLayer) -> None:
    """Register a new layer."""
    _layers.add(layer)


def layers_of(store: LabelStore) -> list[PaintedLayer]:
    """All layers over a store, in any viewer."""
    return [layer for layer in _layers if layer.store is store]


def watch_viewers(layer: PaintedLayer) -> None:
    """Watch the viewers that show a layer; called at its first dab."""
    for viewer in viewers_showing(layer):
        watch(viewer)


def watch(viewer: Viewer) -> None:
    """End strokes when a layer leaves this viewer or is no longer the active one, or when its window closes."""
    if viewer in _watched:
        return
    _watched.add(viewer)
    viewer.layers.events.removed.connect(_on_removed)
    layers = viewer.layers  # not the viewer itself, which the callbacks would keep alive
    camera(viewer).events.zoom.connect(lambda: _on_zoom(layers))
    viewer.layers.selection.events.active.connect(_on_active)
    window = main_window(viewer)
    window.installEventFilter(_CloseWatcher(window))
    start(window, layers, _layers)


def _on_zoom(layers: LayerList) -> None:
    """Adjust brushes that keep their size on the screen."""
    for layer in layers:
        if layer in _layers:
            layer.follow_zoom()


def _on_removed(event: Event) -> None:
    if event.value in _layers:
        event.value.end_stroke()
        event.value.flush()


def _on_active(event: Event) -> None:
    """End a stroke when another layer becomes the active one, which will get the release of the mouse."""
    for layer in list(_layers):
        if layer is not event.value:
            layer.end_stroke()


class _CloseWatcher(QObject):
    """Ends strokes when a window is closed; it is a child of the window and is deleted with it."""

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
