"""Measuring objects in threads: all objects of a store, kept up to date after edits, and the one under the mouse."""

from __future__ import annotations

import time
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer, Signal

from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.checks import touched
from napari_msunet.objects.table import FoundObject, ObjectTable, object_at, updated, walk_objects
from napari_msunet.widgets.dock.background import Background

if TYPE_CHECKING:
    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.components import ViewerModel

    from napari_msunet.geometry import Region
    from napari_msunet.widgets.paint import PyramidLabels
# ----------------------------------------------------------------------------------------------------------------------
# The object under the mouse, found in a thread, where only the latest place counts.

REST_MS = 60
"""Shortest time between two searches."""


class Hover(QObject):
    """Finds the object under the mouse while it is switched on.

    Parameters
    ----------
    viewer : napari.Viewer
    parent : QObject, optional

    Attributes
    ----------
    found : Signal(object)
        A `FoundObject`, or None where the mouse is on no object; emitted on the GUI thread.
    layer : PyramidLabels, optional
        The labels whose objects are found.
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
        """Start or stop following the mouse over these labels."""
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
        """Stop following the mouse and end the thread."""
        self.set_on(False, None)
        self._background.close()


def _find(store: LabelStore, place: tuple[int, int]) -> FoundObject | None:
    return object_at(store, *place)


# ----------------------------------------------------------------------------------------------------------------------
# Measuring all objects of a store in a thread.

SIDE = 512
"""Side of the windows that are measured at once. Larger ones would be faster, but make the GUI stutter."""

_TELL_SECONDS = 0.1


class MeasuringStoppedError(Exception):
    """The measuring was stopped."""


class Measuring(QObject):
    """Measures all objects of a store once, and after each stroke the objects around it.

    Attributes
    ----------
    progressed : Signal(float, float, object)
        Windows done, all windows, seconds left.
    changed : Signal()
        `table`, `stale` or `busy` has changed.
    table : ObjectTable
    stale : str
        Why the table no longer fits the labels; empty: it fits.
    measured : bool
        Whether anything was measured yet.
    """

    progressed = Signal(float, float, object)
    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.table = ObjectTable.empty()
        self.stale = ""
        self.measured = False
        self.busy = False
        self.store: LabelStore | None = None
        self._background = Background("msunet-objects", self)
        self._stop = Event()
        self._waiting: list[Window] = []

    def set_store(self, store: LabelStore | None) -> None:
        """Use another store, of which nothing is measured yet."""
        if store is not self.store:
            self._stop.set()
            self.store, self.table = store, ObjectTable.empty()
            self.measured, self.busy, self.stale, self._waiting = False, False, "", []
            self.changed.emit()

    def measure(self) -> None:
        """Measure everything; returns at once."""
        if self.store is None or self.busy:
            return
        self._stop = Event()
        self.busy, self.stale, self._waiting = True, "", []
        self._background.run(
            partial(self._walk, self.store, self._stop), partial(self._measured, self._stop), self._failed
        )
        self.changed.emit()

    def stop(self) -> None:
        """Stop measuring; the former table stays."""
        self._stop.set()

    def _walk(self, store: LabelStore, stop: Event) -> ObjectTable:
        """Measure all objects; runs in the thread."""
        parts, told = [], 0.0
        for progress, part in walk_objects(store, side=SIDE):
            if stop.is_set():
                raise MeasuringStoppedError
            parts.append(part)
            if time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                self.progressed.emit(progress.done, progress.total or 0, progress.seconds_left)
        return ObjectTable.joined(parts)

    def _measured(self, stop: Event, table: ObjectTable) -> None:
        if stop is not self._stop or stop.is_set():
            return
        self.table, self.measured, self.busy = table, True, False
        if self._waiting:
            self.stale, self._waiting = "Changed while it was measured: measure again.", []
        self.changed.emit()

    def _failed(self, error: BaseException) -> None:
        self.busy = False
        if not isinstance(error, MeasuringStoppedError):
            from napari_msunet.widgets.dock.show_errors import notify_error

            notify_error(str(error))
        self.changed.emit()

    def stroked(self, region: Window | Region | None) -> None:
        """Measure again where the labels changed: within a region of the store (None: anywhere)."""
        if not (self.measured or self.busy) or self.stale:
            return
        if region is None:
            self.outdated("Changed since: measure again.")
            return
        self._waiting.append(touched(region))
        if self.measured and not self.busy and len(self._waiting) == 1:
            self._update()

    def outdated(self, why: str) -> None:
        """Note that the table no longer fits the labels."""
        if self.measured and not self.stale:
            self.stale, self._waiting = why, []
            self.changed.emit()

    def _update(self) -> None:
        assert self.store is not None
        work = partial(updated, self.table, self.store, self._waiting[0])
        self._background.run(work, partial(self._updated, self.store), self._failed)

    def _updated(self, store: LabelStore, table: ObjectTable | None) -> None:
        if store is not self.store or not self._waiting:
            return
        self._waiting.pop(0)
        if table is None:
            self.outdated("Changed since over a large area: measure again.")
            return
        self.table = table
        self.changed.emit()
        if self._waiting:
            self._update()

    def close(self) -> None:
        """Stop measuring and end the thread."""
        self._stop.set()
        self._background.close()
