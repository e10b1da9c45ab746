"""The worker for Qt: signals on the window's thread, never so many that the window would wait."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication

from napari_msunet.config import Job, PredictJob, PreviewJob, TrainJob
from napari_msunet.events import Event, Progress
from napari_msunet.settings import load_settings, worker_command
from napari_msunet.stopping import Keep, View
from napari_msunet.worker.client import JobHandle, WorkerClient
from napari_msunet.worker.paths import PathMap

BATCH_SECONDS = 0.05
"""Between two batches of signals: at most 20 a second."""

LOOK_SECONDS = 0.1
"""Between two messages to the worker about where somebody looks."""

BUDGET_SECONDS = 0.02
"""Of the window's time that one batch may take; what is left waits for the next one."""


class _Entry:
    """Something to tell: an event, or that a job has started or ended."""

    __slots__ = ("handle", "kind", "superseded", "value")

    def __init__(self, handle: JobHandle, kind: str, value: Any = None) -> None:
        self.handle = handle
        self.kind = kind
        self.value = value
        self.superseded = False


class _Inbox:
    """What the client's threads have said and the window has not yet heard; of progress only the newest.

    It knows nothing of the runner: whoever forgets to close a runner leaves no Qt object behind.
    """

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()
        self._progress: dict[int, _Entry] = {}
        self._lock = threading.Lock()

    def put(self, entry: _Entry) -> bool:
        """Add something; whether nothing had been waiting."""
        with self._lock:
            if isinstance(entry.value, Progress):
                older = self._progress.get(id(entry.handle))
                if older is not None:
                    older.superseded = True
                self._progress[id(entry.handle)] = entry
            self._entries.append(entry)
            return len(self._entries) == 1

    def take(self) -> _Entry | None:
        """The oldest that still counts; None where nothing waits."""
        with self._lock:
            while self._entries:
                entry = self._entries.popleft()
                if not entry.superseded:
                    if self._progress.get(id(entry.handle)) is entry:
                        del self._progress[id(entry.handle)]
                    return entry
        return None

    @property
    def empty(self) -> bool:
        return not self._entries


class JobRunner(QObject):
    """Runs jobs in the worker process and tells the window, on its own thread, what happens.

    Attributes
    ----------
    view_of : callable, optional
        Says what of a slide is on the screen when its prediction begins; `look` says it from then on.

    Signals
    -------
    started (JobHandle)
        The job's turn has come.
    happened (JobHandle, Event)
        Every `Metric`, `Message`, `RegionDone` and `Result`, in their order; of `Progress` the newest.
    ended (JobHandle, outcome, text)
        "done", "cancelled", "error" or "lost" and one sentence or None; `handle.details` has more for developers.

    Parameters
    ----------
    parent : QObject, optional
    command : sequence of str, optional
        What to start as the worker; None: what the settings say.
    """

    started = Signal(object)
    happened = Signal(object, object)  # not called event: that is a method of every QObject, which Qt calls
    ended = Signal(object, str, object)
    _woken = Signal()

    def __init__(self, parent: QObject | None = None, command: Sequence[str] | None = None) -> None:
        super().__init__(parent)
        paths = (lambda: PathMap(load_settings().path_map)) if command is None else None
        command = worker_command if command is None else command
        self.client = WorkerClient(command, paths)
        self._command, self._paths = command, paths
        self._beside: WorkerClient | None = None
        self._closed = False
        self._outdated = False
        self._inbox = _Inbox()
        self._view: View | None = None
        self._slide: Path | None = None
        self.view_of: Callable[[Path], View | None] | None = None
        self._unfinished: dict[int, JobHandle] = {}
        self._last = 0.0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._deliver)
        self._looking = QTimer(self)
        self._looking.setSingleShot(True)
        self._looking.setInterval(round(LOOK_SECONDS * 1000))
        self._looking.timeout.connect(self._tell_view)
        self._woken.connect(self._arm, Qt.ConnectionType.QueuedConnection)
        # Whichever comes first: the program's end, the C++ object's, or the Python object's. None of them holds self.
        weakref.finalize(self, self.client.close)
        self.destroyed.connect(partial(_close, self.client))
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.close)

    # ----------------------------------------------------------------------------------------------------------- jobs

    @property
    def jobs(self) -> list[JobHandle]:
        """Jobs and inspections whose end was not told yet, oldest first."""
        return list(self._unfinished.values())

    @property
    def busy(self) -> bool:
        """Whether there is such a job."""
        return bool(self._unfinished)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def warm(self) -> None:
        """Start the process now, so that the first job need not wait for it; returns at once."""
        if not self._closed:
            self.client.start()

    def submit(self, job: Job, priority: bool = False) -> JobHandle:
        """Give a job to the worker; with `priority` before all that wait."""
        listening = _Listening(self)
        client = self._free_client(job) if isinstance(job, PredictJob | PreviewJob) else self.client
        handle = client.submit(job, listening.event, listening.end, on_start=listening.start, priority=priority)
        if isinstance(job, PredictJob) and self.view_of is not None:
            handle.look(self.view_of(job.slide))  # it is there before the first tile is chosen
        return self._known(handle, listening)

    def _training(self) -> bool:
        return any(isinstance(handle.job, TrainJob) for handle in self._unfinished.values())

    def _free_client(self, job: PredictJob | PreviewJob) -> WorkerClient:
        """The worker; while it trains, another one beside it, so that a prediction need not wait for hours."""
        models = job.models if isinstance(job, PredictJob) else (job.model,)
        if not self._training() or not all(model.exists() for model in models):  # the training may be making it
            return self.client
        if self._beside is None:
            self._beside = WorkerClient(self._command, self._paths)
            weakref.finalize(self, self._beside.close)
            self.destroyed.connect(partial(_close, self._beside))
        return self._beside

    def look(self, view: View | None, slide: Path | None = None) -> None:
        """Tell running predictions what is on the screen: that is computed first. Call it at every move.

        Parameters
        ----------
        view : tuple of float, optional
            `y, x, height, width` in level-0 pixels of the slide.
        slide : Path, optional
            Only predictions of this slide are told.
        """
        self._view, self._slide = view, slide
        if not self._closed and not self._looking.isActive():
            self._looking.start()

    def _tell_view(self) -> None:
        for handle in self._unfinished.values():
            if isinstance(handle.job, PredictJob) and self._slide in (None, handle.job.slide):
                handle.look(self._view)

    def renew(self) -> None:
        """Let the next job start a new worker, since the settings have changed; jobs under way end in the old one."""
        self._outdated = True
        self._end_outdated()

    def _end_outdated(self) -> None:
        if self._outdated and not self._unfinished and not self._closed:
            self._outdated = False
            self.client.renew()

    def inspect(self, asked: dict[str, Any]) -> JobHandle:
        """Ask the worker what a file is, or what its machine has; see `WorkerClient.inspect`."""
        listening = _Listening(self)
        return self._known(self.client.inspect(asked, listening.event, listening.end), listening)

    def _known(self, handle: JobHandle, listening: _Listening) -> JobHandle:
        self._unfinished[id(handle)] = handle
        listening.know(handle)
        return handle

    def cancel(self, handle: JobHandle, keep: Keep = "best") -> None:
        """Stop a job; `keep` ("best", "last", "none") says what a training leaves."""
        handle.cancel(keep)

    def close(self) -> None:
        """End the process and its threads; no signal comes after this. Can be called again."""
        if self._closed:
            return
        self._closed = True
        self._timer.stop()
        self._looking.stop()
        self._unfinished.clear()
        self.client.close()
        if self._beside is not None:
            self._beside.close()

    # -------------------------------------------------------------------------------------------------------- delivery

    def _arm(self) -> None:
        """Something waits: deliver it, but not too soon after the last time."""
        if not self._closed and not self._timer.isActive():
            wait = BATCH_SECONDS - (time.monotonic() - self._last)
            self._timer.start(max(0, round(wait * 1000)))

    def _deliver(self) -> None:
        """Tell what waits, within the time allowed."""
        began = time.monotonic()
        while not self._closed and time.monotonic() - began < BUDGET_SECONDS:
            entry = self._inbox.take()
            if entry is None:
                break
            self._tell(entry)
        self._last = time.monotonic()
        if not self._inbox.empty:
            self._arm()

    def _tell(self, entry: _Entry) -> None:
        if entry.kind == "started":
            self.started.emit(entry.handle)
        elif entry.kind == "event":
            self.happened.emit(entry.handle, entry.value)
        else:
            self._unfinished.pop(id(entry.handle), None)
            self._rest()
            self._end_outdated()
            self.ended.emit(entry.handle, *entry.value)

    def _rest(self) -> None:
        """End the second worker once it is not needed; in a thread, because the process takes its time."""
        if self._beside is not None and not self._beside.jobs and not self._training():
            beside, self._beside = self._beside, None
            threading.Thread(target=beside.close, name="msunet-beside", daemon=True).start()


class _Listening:
    """The callbacks of one job; it holds the runner weakly, and waits for its handle."""

    def __init__(self, runner: JobRunner) -> None:
        self._runner = weakref.ref(runner)
        self._known = threading.Event()
        self._handle: JobHandle | None = None

    def know(self, handle: JobHandle) -> None:
        self._handle = handle
        self._known.set()

    def start(self) -> None:
        self._put("started")

    def event(self, event: Event) -> None:
        self._put("event", event)

    def end(self, outcome: str, text: str | None, details: str | None) -> None:
        self._put("ended", (outcome, text))

    def _put(self, kind: str, value: Any = None) -> None:
        self._known.wait(5.0)  # the first answer may come before `submit` has returned
        runner = self._runner()
        if runner is None or runner.closed or self._handle is None:
            return
        if runner._inbox.put(_Entry(self._handle, kind, value)):
            try:
                runner._woken.emit()
            except RuntimeError:  # Qt has deleted it
                return


def _close(client: WorkerClient, *_: object) -> None:
    client.close()
