"""Jobs that run in the worker, for Qt: a handle for each job, whose signals come on the GUI thread, in batches."""

from __future__ import annotations

import itertools
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication

from napari_msunet.config import (
    AnswerRequest,
    ContextJob,
    CrossValidateJob,
    EvaluateJob,
    ExperimentJob,
    Job,
    LiveRequest,
    PlanJob,
    PredictJob,
    PreviewJob,
    TrainJob,
    TuneJob,
)
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event, Keep, Message, Progress, Result, View
from napari_msunet.jobs.client import WorkerClient, WorkerRequest
from napari_msunet.jobs.paths import PathMap
from napari_msunet.jobs.settings import load_settings, worker_command
from napari_msunet.widgets.dock.background import Background

if TYPE_CHECKING:
    Found = TypeVar("Found")

BATCH_SECONDS = 0.05
"""Shortest time between two batches of signals: at most 20 batches a second."""

LOOK_SECONDS = 0.1
"""Shortest time between two messages to the worker about what is in view."""

WAIT_SECONDS = 0.01
"""Time after which `JobHandle.wait` looks again."""

_TRAININGS = (TrainJob, CrossValidateJob, ContextJob, ExperimentJob, TuneJob)
"""Jobs that take minutes to hours. Other jobs do not wait for them."""

BUDGET_SECONDS = 0.02
"""Time of the GUI thread that one batch may take; the rest waits for the next batch."""


class JobHandle(QObject):
    """A job, or an inspection, that was given to the worker. Its signals come on the GUI thread.

    Attributes
    ----------
    job : a job, or the dict of an inspection
    state : str
        "preparing", "queued", "running" or "ended".
    outcome : str, optional
        "done", "cancelled", "error" or "lost".
    text, details : str, optional
        Why it ended in this way, as one sentence, and details for developers.
    value : Result, optional
        The result of the job.

    Signals
    -------
    started ()
        The worker has begun the job.
    happened (Event)
        Every event of the job, in order, but of `Progress` only the newest. `progress`, `message` and `result` are
        emitted for events of these kinds too.
    finished (str, object)
        The outcome and, where there is one, its sentence.
    """

    started = Signal()
    happened = Signal(object)
    progress = Signal(object)
    message = Signal(object)
    result = Signal(object)
    finished = Signal(str, object)

    def __init__(self, number: int, job: Any, parent: QObject) -> None:
        super().__init__(parent)
        self.number = number
        self.job = job
        self.outcome: str | None = None
        self.text: str | None = None
        self.details: str | None = None
        self.value: Result | None = None
        self.follow_up: Callable[[], bool] = lambda: False
        """Tells whether the window still works on the result, such as merging it into labels."""
        self._request: WorkerRequest | None = None
        self._unwanted = False

    def __repr__(self) -> str:
        return f"JobHandle({getattr(self.job, 'job', 'inspect')!r}, {self.outcome or self.state})"

    @property
    def state(self) -> str:
        """The state of the job, see the class."""
        if self.outcome is not None:
            return "ended"
        return "preparing" if self._request is None else self._request.state

    def cancel(self, keep: Keep = "best") -> None:
        """Stop the job; `keep` ("best", "last", "none") says what a training leaves."""
        self._unwanted = True
        if self._request is not None:
            self._request.cancel(keep)

    def look(self, view: View | None) -> None:
        """Tell a prediction what is on the screen, `y, x, height, width` in level-0 pixels, to be computed first."""
        if self._request is not None:
            self._request.look(view)

    def wait(self, seconds: float | None = None) -> Result:
        """Wait until the job has ended, and give its result; the window stays usable. For the console and for scripts.

        Parameters
        ----------
        seconds : float, optional
            The longest time to wait; None: until the job ends.

        Raises
        ------
        MsunetError
            If the job was stopped or failed, or the time is up.
        """
        ends = None if seconds is None else time.monotonic() + seconds
        while self.outcome is None or self.follow_up():
            if ends is not None and time.monotonic() > ends:
                raise MsunetError(
                    f"The {getattr(self.job, 'job', 'job')} did not end within {seconds:g} s; it goes on."
                )
            QApplication.processEvents()
            time.sleep(WAIT_SECONDS)
        if self.outcome in ("error", "lost"):
            raise MsunetError(self.text or "The worker process ended unexpectedly; what was finished is kept.")
        return self.value or Result()

    def _tell(self, kind: str, value: Any) -> None:
        """Emit the signals of an entry; called on the GUI thread."""
        if kind == "started":
            self.started.emit()
        elif kind == "event":
            if isinstance(value, Progress):
                self.progress.emit(value)
            elif isinstance(value, Message):
                self.message.emit(value)
            elif isinstance(value, Result):
                self.value = value
                self.result.emit(value)
            self.happened.emit(value)
        else:
            self.outcome, self.text, self.details = value
            self.finished.emit(self.outcome, self.text)


class _Entry:
    """Something that happened to a job, known by its number: an event, its start or its end."""

    __slots__ = ("kind", "number", "superseded", "value")

    def __init__(self, number: int, kind: str, value: object = None) -> None:
        self.number = number
        self.kind = kind
        self.value = value
        self.superseded = False


class _Inbox:
    """Entries from the client's threads that the window has not taken yet; of progress only the newest.

    It holds no Qt object. So `Jobs` that were not closed leave no Qt objects behind, and none is deleted in another
    thread.
    """

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()
        self._progress: dict[int, _Entry] = {}
        self._lock = threading.Lock()

    def put(self, entry: _Entry) -> bool:
        """Add an entry, and return whether nothing had been waiting."""
        with self._lock:
            if isinstance(entry.value, Progress):
                older = self._progress.get(entry.number)
                if older is not None:
                    older.superseded = True
                self._progress[entry.number] = entry
            self._entries.append(entry)
            return len(self._entries) == 1

    def take(self) -> _Entry | None:
        """The oldest entry that still counts; None where nothing waits."""
        with self._lock:
            while self._entries:
                entry = self._entries.popleft()
                if not entry.superseded:
                    if self._progress.get(entry.number) is entry:
                        del self._progress[entry.number]
                    return entry
        return None

    @property
    def empty(self) -> bool:
        return not self._entries


class Jobs(QObject):
    """Runs jobs in the worker process; a prediction, an export or a measurement beside a training in a second one.

    Attributes
    ----------
    view_of : callable, optional
        Gives the part of a slide that is on the screen when its prediction begins; later changes come through `look`.

    Signals
    -------
    started (JobHandle)
        The worker has begun a job.

    Parameters
    ----------
    parent : QObject, optional
    command : sequence of str, optional
        The command that starts the worker; None: the command in the settings.
    """

    started = Signal(object)
    _woken = Signal()

    def __init__(self, parent: QObject | None = None, command: Sequence[str] | None = None) -> None:
        super().__init__(parent)
        paths = (lambda: PathMap(load_settings().path_map)) if command is None else None
        self._command = worker_command if command is None else command
        self._paths = paths
        self.client = WorkerClient(self._command, paths)
        self._beside: WorkerClient | None = None
        self._closed = False
        self._outdated = False
        self._inbox = _Inbox()
        self._view: View | None = None
        self._slide: Path | None = None
        self.view_of: Callable[[Path], View | None] | None = None
        self._numbers = itertools.count(1)
        self._unfinished: dict[int, JobHandle] = {}
        self._before = Background("msunet-before", self)
        self._last = 0.0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._deliver)
        self._looking = QTimer(self)
        self._looking.setSingleShot(True)
        self._looking.setInterval(round(LOOK_SECONDS * 1000))
        self._looking.timeout.connect(self._tell_view)
        self._woken.connect(self._arm, Qt.ConnectionType.QueuedConnection)
        # The workers end with the program, the C++ object or the Python object, whichever ends first. None of these
        # three callbacks holds `self`, which would otherwise live for as long as they do.
        weakref.finalize(self, self.client.close)
        self.destroyed.connect(partial(_close, self.client))
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.close)

    # ----------------------------------------------------------------------------------------------------------- jobs

    @property
    def jobs(self) -> list[JobHandle]:
        """Jobs and inspections whose end was not emitted yet, oldest first."""
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
        """Start the process now, so that the first job does not wait for it; returns at once."""
        if not self._closed:
            self.client.start()

    def submit(
        self,
        job: Job,
        priority: bool = False,
        before: Callable[[], Found] | None = None,
        ready: Callable[[Found], Job | None] | None = None,
    ) -> JobHandle:
        """Give a job to the worker; returns at once.

        Parameters
        ----------
        job : a job
        priority : bool
            Whether the job goes before all jobs that wait.
        before : callable, optional
            Runs first, in a thread; for preparations that would block the window.
        ready : callable, optional
            Takes what `before` returned, on the GUI thread, just before the job is sent; gives the job to send, or None
            for the job as it is.
        """
        handle = self._handle(job)
        if before is None and ready is None:
            self._send(handle, priority)
            return handle

        def prepared(value: Any) -> None:
            try:
                if ready is not None and not handle._unwanted:
                    handle.job = ready(value) or handle.job
                self._send(handle, priority)
            except MsunetError as error:
                self._end(handle, "error", str(error), None)

        def failed(error: BaseException) -> None:
            details = None if isinstance(error, MsunetError) else "".join(traceback.format_exception(error))
            self._end(handle, "error", str(error), details)

        self._before.run(before or (lambda: None), prepared, failed)
        return handle

    def _handle(self, job: Job | AnswerRequest | LiveRequest | dict[str, object] | None) -> JobHandle:
        handle = JobHandle(next(self._numbers), job, self)
        self._unfinished[handle.number] = handle
        return handle

    def _send(self, handle: JobHandle, priority: bool) -> None:
        """Give a job whose preparations are done to the worker, unless it was cancelled meanwhile."""
        if handle._unwanted:
            self._end(handle, "cancelled", None, None)
            return
        on = _Listening(self, handle)
        client = self._free_client(handle.job)
        handle._request = client.submit(handle.job, on.event, on.end, on_start=on.start, priority=priority)
        if isinstance(handle.job, PredictJob) and self.view_of is not None:
            handle.look(self.view_of(handle.job.slide))  # the worker knows the view before it chooses the first tile

    def _end(self, handle: JobHandle, *end: str | None) -> None:
        """A job has ended, or never reached the worker."""
        self._unfinished.pop(handle.number, None)
        self._rest()
        self._end_outdated()
        handle._tell("ended", end)

    def _training(self) -> bool:
        return any(isinstance(handle.job, _TRAININGS) for handle in self._unfinished.values())

    def _free_client(self, job: Job) -> WorkerClient:
        """The worker; while it trains, a second one beside it, so that no other job waits for hours."""
        predicting = job.prediction if isinstance(job, PlanJob) else job
        models = (
            predicting.models
            if isinstance(predicting, PredictJob)
            else (predicting.model,)
            if isinstance(predicting, PreviewJob | EvaluateJob)
            else ()
        )
        if isinstance(job, _TRAININGS) or not self._training():
            return self.client
        if not all(model.exists() for model in models):  # the running training may be the one that makes this model
            return self.client
        if self._beside is None:
            self._beside = WorkerClient(self._command, self._paths)
            weakref.finalize(self, self._beside.close)
            self.destroyed.connect(partial(_close, self._beside))
        return self._beside

    def look(self, view: View | None, slide: Path | None = None) -> None:
        """Tell running predictions what is on the screen, to be computed first. To be called at every move of the view.

        Parameters
        ----------
        view : tuple of float, optional
            `y, x, height, width` in level-0 pixels of the slide.
        slide : Path, optional
            Only predictions of this slide get the view.
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

    def inspect(self, asked: dict[str, object]) -> JobHandle:
        """Ask the worker what a file is, or what its machine has; see `WorkerClient.inspect`."""
        handle = self._handle(asked)
        on = _Listening(self, handle)
        handle._request = self.client.inspect(asked, on.event, on.end)
        return handle

    def answer(self, asked: AnswerRequest | None) -> JobHandle:
        """Ask for the labels of what is in view while a person paints; see `WorkerClient.answer`."""
        handle = self._handle(asked)
        on = _Listening(self, handle)
        handle._request = self.client.answer(asked, on.event, on.end)
        return handle

    def live(self, asked: LiveRequest) -> JobHandle:
        """Ask for the labels of what is in view by the model of a training; see `WorkerClient.live`."""
        handle = self._handle(asked)
        on = _Listening(self, handle)
        handle._request = self.client.live(asked, on.event, on.end)
        return handle

    def close(self) -> None:
        """End the process and its threads; no signal comes after this. It can be called more than once."""
        if self._closed:
            return
        self._closed = True
        self._timer.stop()
        self._looking.stop()
        self._before.close()
        self._unfinished.clear()
        self.client.close()
        if self._beside is not None:
            self._beside.close()

    # -------------------------------------------------------------------------------------------------------- delivery

    def _arm(self) -> None:
        """Plan the delivery of what waits, but not too soon after the last one."""
        if not self._closed and not self._timer.isActive():
            wait = BATCH_SECONDS - (time.monotonic() - self._last)
            self._timer.start(max(0, round(wait * 1000)))

    def _deliver(self) -> None:
        """Emit the signals of what waits, within the time of one batch."""
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
        handle = self._unfinished.get(entry.number)
        if handle is None:
            return
        if entry.kind == "ended":
            self._end(handle, *entry.value)
            return
        if entry.kind == "started":
            self.started.emit(handle)
        handle._tell(entry.kind, entry.value)

    def _rest(self) -> None:
        """End the second worker once it is not needed; in a thread, because the process takes a while to end."""
        if self._beside is not None and not self._beside.jobs and not self._training():
            beside, self._beside = self._beside, None
            threading.Thread(target=beside.close, name="msunet-beside", daemon=True).start()


class _Listening:
    """The callbacks of one job; it holds the jobs weakly."""

    def __init__(self, jobs: Jobs, handle: JobHandle) -> None:
        self._jobs = weakref.ref(jobs)
        self._number = handle.number

    def start(self) -> None:
        self._put("started")

    def event(self, event: Event) -> None:
        self._put("event", event)

    def end(self, outcome: str, text: str | None, details: str | None) -> None:
        self._put("ended", (outcome, text, details))

    def _put(self, kind: str, value: object = None) -> None:
        jobs = self._jobs()
        if jobs is None or jobs.closed:
            return
        if jobs._inbox.put(_Entry(self._number, kind, value)):
            try:
                jobs._woken.emit()
            except RuntimeError:  # Qt has deleted it
                return


def _close(client: WorkerClient, *_: object) -> None:
    client.close()
