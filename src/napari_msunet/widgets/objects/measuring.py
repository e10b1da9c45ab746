"""Keeping a table of objects true to its labels, beside the GUI thread."""

from __future__ import annotations

import time
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_msunet.annotation.objects import updated, walk_objects
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.checks import touched
from napari_msunet.labels.objects import ObjectTable
from napari_msunet.widgets.dock.background import Background

if TYPE_CHECKING:
    from napari_msunet.geometry import Region

SIDE = 512
"""Side of the windows that are measured at once: larger ones are faster, and make the window stutter."""

_TELL_SECONDS = 0.1


class StoppedError(Exception):
    """The measuring was not wanted any more."""


class Measuring(QObject):
    """Measures all objects of a store once, and after each stroke those around it.

    Attributes
    ----------
    progressed : Signal(float, float, object)
        Windows done, of how many, seconds left.
    changed : Signal()
        `table`, `stale` or `busy` is another one.
    table : ObjectTable
    stale : str
        Why the table is not what the labels are now; empty: it is.
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
        """Look at another store; nothing of it is measured yet."""
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
        """Give up measuring; the former table stays."""
        self._stop.set()

    def _walk(self, store: LabelStore, stop: Event) -> ObjectTable:
        """In the thread."""
        parts, told = [], 0.0
        for progress, part in walk_objects(store, side=SIDE):
            if stop.is_set():
                raise StoppedError
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
        if not isinstance(error, StoppedError):
            from napari_msunet.widgets.dock.telling import tell_error

            tell_error(str(error))
        self.changed.emit()

    def stroked(self, region: Window | Region | None) -> None:
        """The labels changed within a region of the store (None: anywhere)."""
        if not (self.measured or self.busy) or self.stale:
            return
        if region is None:
            self.outdated("Changed since: measure again.")
            return
        self._waiting.append(touched(region))
        if self.measured and not self.busy and len(self._waiting) == 1:
            self._update()

    def outdated(self, why: str) -> None:
        """Say that the table is not what the labels are now."""
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
        """Stop for good."""
        self._stop.set()
        self._background.close()
