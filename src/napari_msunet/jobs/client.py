"""The client of a worker process: it sends jobs, receives events, and starts the process when it is needed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

from napari_msunet.config import AnswerRequest, Job, LiveRequest
from napari_msunet.events import Event, Keep, View
from napari_msunet.jobs.link import Link
from napari_msunet.jobs.paths import PathMap
from napari_msunet.jobs.settings import default_worker

Outcome = Literal["done", "cancelled", "error", "lost"]

CLOSE_SECONDS = 0.5
"""Seconds that closing gives the process to put its files in order. Files on disk are whole at any time."""


class WorkerRequest:
    """A job, or an inspection, that was given to the worker.

    Attributes
    ----------
    id : int
    job : a job, or the dict of an inspection
    state : str
        "queued", "running" or "ended".
    outcome, text, details : str or None
        How the job ended, the reason in one sentence, and the traceback or the last lines of the process; set before
        `on_end` is called.
    """

    def __init__(
        self,
        number: int,
        job: Any,
        on_event: Callable[[Event], None] | None,
        on_end: Callable[[Outcome, str | None, str | None], None] | None,
        on_start: Callable[[], None] | None,
    ) -> None:
        self.id = number
        self.job = job
        self.state: Literal["queued", "running", "ended"] = "queued"
        self.outcome: Outcome | None = None
        self.text: str | None = None
        self.details: str | None = None
        self._link: Link | None = None
        self._on_event = on_event
        self._on_end = on_end
        self._on_start = on_start
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"WorkerRequest({self.id}, {getattr(self.job, 'job', 'inspect')!r}, {self.outcome or self.state})"

    def cancel(self, keep: Keep = "best") -> None:
        """Stop the job within a batch, or take it out of the queue; `keep` says what a training leaves."""
        if self._link is not None and self.state != "ended":
            self._link.send({"id": self.id, "cancel": True, "keep": keep})

    def look(self, view: View | None) -> None:
        """Tell a prediction what is on the screen, `y, x, height, width` in level-0 pixels: that comes first."""
        if self._link is not None and self.state != "ended":
            self._link.send({"id": self.id, "look": view})

    # Called by the link's thread:

    def started(self) -> None:
        """The worker has begun."""
        self.state = "running"
        if self._on_start is not None:
            self._on_start()

    def event(self, event: Event) -> None:
        """Something happened."""
        if self._on_event is not None:
            self._on_event(event)

    def end(self, outcome: Outcome, text: str | None, details: str | None) -> None:
        """Note that the job has ended. Only the first call counts, and the callbacks are dropped after it."""
        with self._lock:
            if self.state == "ended":
                return
            self.outcome, self.text, self.details = outcome, text, details
            self.state = "ended"
            on_end = self._on_end
            self._on_event = self._on_end = self._on_start = self._link = None
        if on_end is not None:
            on_end(outcome, text, details)


class WorkerClient:
    """One worker process and the jobs given to it.

    Parameters
    ----------
    command : sequence of str, or callable that gives one, optional
        The command that starts the process; None: this Python on this machine. A callable is called at each start.
    paths : PathMap, or callable that gives one, optional
        The names of paths on the worker's machine; None: the same names.
    """

    def __init__(
        self,
        command: Sequence[str] | Callable[[], Sequence[str]] | None = None,
        paths: PathMap | Callable[[], PathMap] | None = None,
    ) -> None:
        self._paths: Callable[[], PathMap] = paths if callable(paths) else lambda: paths or PathMap()
        self._command: Callable[[], Sequence[str]]
        if command is None:
            self._command = default_worker
        elif callable(command):
            self._command = command
        else:
            words = tuple(command)
            self._command = lambda: words
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._closed = False

    def __enter__(self) -> WorkerClient:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the process runs, or is being started."""
        link = self._link
        return link is not None and link.alive

    @property
    def warm(self) -> bool:
        """Whether the process has loaded torch."""
        link = self._link
        return link is not None and link.alive and link.warm

    @property
    def pid(self) -> int | None:
        """Id of the process that was started; None while there is none."""
        link = self._link
        return None if link is None else link.pid

    @property
    def jobs(self) -> int:
        """How many jobs and inspections have not ended."""
        link = self._link
        return 0 if link is None else link.jobs

    def start(self) -> None:
        """Start the process, if none runs; returns at once, while the process loads torch."""
        with self._lock:
            link = self._usable()
            if not link.begun:
                link.begin()

    def _usable(self) -> Link:
        """The link to the process, or a new one that has not begun."""
        if self._closed:
            raise RuntimeError("This WorkerClient was closed; make another one.")
        if self._link is None or not self._link.alive:
            self._link = Link(self._command, self._paths)
        return self._link

    def submit(
        self,
        job: Job,
        on_event: Callable[[Event], None] | None = None,
        on_end: Callable[[Outcome, str | None, str | None], None] | None = None,
        on_start: Callable[[], None] | None = None,
        priority: bool = False,
    ) -> WorkerRequest:
        """Give a job to the worker, starting one if none runs.

        Parameters
        ----------
        job : a job of `napari_msunet.config`
        on_event : callable, optional
            Called with each event.
        on_end : callable, optional
            Called once with the outcome ("done", "cancelled", "error", or "lost" when the process ended or could not
            be started), one sentence or None, and details for developers or None.
        on_start : callable, optional
            Called when the worker begins the job.
        priority : bool
            Whether the job goes before all jobs that wait.

        Returns
        -------
        WorkerRequest
            All callbacks come from a thread of the client, and may come before this returns.
        """
        request = {"run": job, **({"priority": True} if priority else {})}
        return self._give(request, WorkerRequest(next(self._numbers), job, on_event, on_end, on_start))

    def inspect(
        self,
        asked: dict[str, Any],
        on_event: Callable[[Event], None] | None = None,
        on_end: Callable[[Outcome, str | None, str | None], None] | None = None,
    ) -> WorkerRequest:
        """Ask what a file is (``{"path": ...}``) or what the worker's machine has (``{"machine": True}``).

        The request waits for no job. The answer is the `values` of a `Result`.
        """
        return self._give({"inspect": asked}, WorkerRequest(next(self._numbers), asked, on_event, on_end, None))

    def answer(
        self,
        asked: AnswerRequest | None,
        on_event: Callable[[Event], None] | None = None,
        on_end: Callable[[Outcome, str | None, str | None], None] | None = None,
    ) -> WorkerRequest:
        """Ask for the labels of what is in view while a person paints; the worker forgets its features where it is
        None.

        The request waits for no job, and the worker stops the one before. Its events are `Answered`.
        """
        return self._give({"answer": asked}, WorkerRequest(next(self._numbers), asked, on_event, on_end, None))

    def live(
        self,
        asked: LiveRequest,
        on_event: Callable[[Event], None] | None = None,
        on_end: Callable[[Outcome, str | None, str | None], None] | None = None,
    ) -> WorkerRequest:
        """Ask for the labels of what is in view by a model file that a training may be writing.

        The request waits for no job, and the worker stops the one before. Its events are `Answered`.
        """
        return self._give({"live": asked}, WorkerRequest(next(self._numbers), asked, on_event, on_end, None))

    def _give(self, request: dict[str, Any], handle: WorkerRequest) -> WorkerRequest:
        request = {"id": handle.id, **request}
        with self._lock:
            link = handle._link = self._usable()
            if not link.add(handle, request):  # the process has ended just now
                link = handle._link = self._usable()
                link.add(handle, request)
            # begun after the job was added: a command that cannot be started fails at once, and this job gets the error
            if not link.begun:
                link.begin()
        return handle

    def kill(self) -> None:
        """End the process at once; its jobs end as "lost", and the next one starts another process."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.stop("The worker was stopped; what was finished is kept.", 0.0)

    def renew(self) -> None:
        """Let the next job start a new process; returns at once. Jobs of the present process end as "lost"."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            reason = "The worker was stopped; what was finished is kept."
            threading.Thread(target=link.stop, args=(reason, CLOSE_SECONDS), name="msunet-renew", daemon=True).start()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """End the process and all threads; unfinished jobs end as "lost". It can be called more than once.

        Parameters
        ----------
        seconds : float
            How long the process may take to put its files in order before it is killed.
        """
        with self._lock:
            self._closed = True
            link, self._link = self._link, None
        if link is not None:
            link.stop("The worker was closed.", seconds)
