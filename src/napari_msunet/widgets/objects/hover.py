"""The object under the mouse: found in a thread, the latest place wins."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer, Signal

from napari_msunet.annotation.objects import FoundObject, object_at
from napari_msunet.labels import LabelStore
from napari_msunet.widgets.dock.background import Background

if TYPE_CHECKING:
    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.components import ViewerModel

    from napari_msunet.widgets.pyramid_labels import PyramidLabels

REST_MS = 60
"""Least time between two searches."""


class Hover(QObject):
    """Looks for the object under the mouse while it is on.

    Parameters
    ----------
    viewer : napari.Viewer
    parent : QObject, optional

    Attributes
    ----------
    found : Signal(object)
        A `FoundObject`, or None where the mouse is on none; on the GUI thread.
    layer : PyramidLabels, optional
        The labels that are looked at.
    """

    found = Signal(object)

    def __init__(self, viewer: ViewerModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.layer: PyramidLabels | None = None
        self.on = False
        self._background = Background("msunet-object", self)
        self._wanted: tuple[int, int] | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(REST_MS)
        self._timer.timeout.connect(self._look)

    def set_on(self, on: bool, layer: PyramidLabels | None) -> None:
        """Follow the mouse over these labels, or no longer."""
        self.layer = layer if on else None
        on = on and layer is not None
        if on and not self.on:
            self.viewer.mouse_move_callbacks.append(self._moved)
        elif self.on and not on:
            self.viewer.mouse_move_callbacks.remove(self._moved)
            self._timer.stop()
        self.on = on

    def _moved(self, viewer: ViewerModel, event: NapariMouseEvent) -> None:
        if self.layer is None or getattr(event, "buttons", None):
            return
        data = self.layer.world_to_data(viewer.cursor.position)
        self._wanted = (round(float(data[-2])), round(float(data[-1])))
        if not self._timer.isActive():
            self._timer.start()

    def _look(self) -> None:
        if self.layer is None or self._wanted is None:
            return
        if self._background.busy:
            self._timer.start()
            return
        place, self._wanted = self._wanted, None
        self._background.run(partial(_find, self.layer.store, place), self._deliver, lambda error: self._deliver(None))

    def _deliver(self, found: FoundObject | None) -> None:
        if self.on:
            self.found.emit(found)

    def close(self) -> None:
        """Follow the mouse no longer, for good."""
        self.set_on(False, None)
        self._background.close()


def _find(store: LabelStore, place: tuple[int, int]) -> FoundObject | None:
    return object_at(store, *place)
