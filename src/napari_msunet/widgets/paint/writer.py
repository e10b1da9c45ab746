"""Storing strokes in a thread, in the order in which they were painted."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from qtpy.QtCore import QObject, Qt, Signal

from napari_msunet.errors import MsunetError, NotSavedError
from napari_msunet.labels import LabelStore
from napari_msunet.widgets.paint.stroke import Stroke

RETRY_SECONDS = 1.0
"""Seconds after which a stroke that the disk refused is tried again."""

_IDLE_SECONDS = 2.0


class Job(NamedTuple):
    """Work on the store, and the function `done(result, error)` that is called in the GUI thread afterwards."""

    action: Callable[[], object]
    done: Callable[[Any, Exception | None], None]
    stroke: Stroke | None = None


class StrokeWriter(QObject):
    """Does jobs on one store, one after the other, in a thread of its own, which ends when there is nothing to do.

    Strokes that the disk refuses are kept by the store, which writes them as soon as it can. A stroke that the store
    itself refuses stays here, is shown, and is tried again until the store takes it; later jobs wait. In both cases
    `refused` is called in the GUI thread with the reason when this begins, and `accepted` when it is over.
    """

    _news = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._jobs: deque[Job] = deque()
        self._told: deque[Callable[[], None]] = deque()
        self._turn = threading.Condition()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._attempts = 0
        self._reason = "The disk refuses to take what was painted."
        self._hurry = False
        self._unsaved = 0
        self.refused: Callable[[str], None] = lambda reason: None
        self.accepted: Callable[[], None] = lambda: None
        self._news.connect(self.collect, Qt.ConnectionType.QueuedConnection)

    def put(self, job: Job) -> None:
        """Add a job behind all others."""
        with self._turn:
            self._jobs.append(job)
            self._hurry = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="label strokes", daemon=True)
                self._thread.start()
            self._turn.notify_all()

    def strokes(self) -> list[Stroke]:
        """The strokes that are not stored yet, in order."""
        with self._turn:
            return [job.stroke for job in self._jobs if job.stroke is not None]

    @property
    def failure(self) -> Exception | None:
        """Why the first stroke that waits could not be stored."""
        return self._failure

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all is stored or cannot be, and return whether all is stored; in the GUI thread."""
        stored = self.settle(seconds)
        self.collect()
        return stored

    def settle(self, seconds: float | None = None) -> bool:
        """As `wait`, in any thread: no `done` is called."""
        end = None if seconds is None else time.monotonic() + seconds
        with self._turn:
            if self._jobs and self._failure is not None:
                self._hurry = True
                self._turn.notify_all()
            tried = self._attempts
            while self._jobs and not (self._failure is not None and self._attempts > tried and not self._hurry):
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._turn.wait(left)
            return not self._jobs

    def settle_all(self) -> None:
        """Wait until all is stored, or cannot be."""
        self.settle()

    def collect(self) -> None:
        """Call `done` for the jobs that have ended since the last call; in the GUI thread."""
        while self._told:
            self._told.popleft()()

    def _work(self) -> None:
        while True:
            with self._turn:
                if not self._jobs:
                    self._turn.wait(_IDLE_SECONDS)
                if not self._jobs:
                    self._thread = None
                    return
                job, self._hurry = self._jobs[0], False
            result, error = None, None
            try:
                result = job.action()
            except NotSavedError as raised:  # the store has the stroke in memory; `unsaved_changed` reports that
                result = raised.number if job.stroke is not None else raised.region
                self._reason = str(raised)
            except Exception as raised:  # any error must reach the GUI thread
                error = raised
            self._ended(job, result, error)

    def _ended(self, job: Job, result: object, error: Exception | None) -> None:
        with self._turn:
            self._attempts += 1
            if job.stroke is not None and isinstance(error, MsunetError):
                if self._failure is None:
                    refusal = str(error)
                    self._told.append(lambda: self.refused(refusal))
                self._failure = error
                self._turn.notify_all()
                self._tell()
                if not self._hurry:
                    self._turn.wait(RETRY_SECONDS)
                return
            self._jobs.popleft()
            self._told.append(lambda: job.done(result, error))
            if self._failure is not None:
                self._failure = None
                self._told.append(lambda: self.accepted())
            self._turn.notify_all()
        self._tell()

    def unsaved_changed(self, unsaved: int) -> None:
        """Note that the store has `unsaved` strokes in memory only; called in any thread."""
        with self._turn:
            before, self._unsaved = self._unsaved, unsaved
            if unsaved and not before:
                self._told.append(lambda: self.refused(self._reason))
            elif before and not unsaved:
                self._told.append(lambda: self.accepted())
        self._tell()

    def _tell(self) -> None:
        with suppress(RuntimeError):  # at the end of the process Qt may be gone already
            self._news.emit()


_writers: WeakKeyDictionary[LabelStore, StrokeWriter] = WeakKeyDictionary()


def writer_of(store: LabelStore) -> StrokeWriter:
    """The writer of a store: one for all its layers."""
    writer = _writers.get(store)
    if writer is None:
        writer = _writers[store] = StrokeWriter()
        store.before_flush.append(writer.settle_all)
        store.on_unsaved.append(writer.unsaved_changed)
    return writer
