"""What waits in the worker, and how the end of a job is told in one sentence."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from napari_msunet.config import Job, PredictJob, TrainJob
from napari_msunet.stopping import Keep, Stop, View


@dataclass(eq=False)
class Task:
    """A request that takes time.

    Attributes
    ----------
    id : int
        The asker's number.
    job : a job or None
    inspect : dict
        What to look at, where there is no job.
    stop : Stop
    left : tuple of str
        Names of the main files that a training has left.
    """

    id: int
    job: Job | None
    inspect: dict[str, Any] = field(default_factory=dict)
    stop: Stop = field(default_factory=Stop)
    left: tuple[str, ...] = ()


class TaskQueue:
    """Tasks in their order, one of them under way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._first: deque[Task] = deque()
        self._rest: deque[Task] = deque()
        self._running: Task | None = None
        self.ended = False

    def __contains__(self, number: int) -> bool:
        with self._changed:
            here = [*self._first, *self._rest, *([self._running] if self._running else [])]
            return any(task.id == number for task in here)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._first) + len(self._rest)

    def put(self, task: Task, first: bool = False) -> None:
        """Let a task wait: behind all others, or behind those that go first too."""
        with self._changed:
            (self._first if first else self._rest).append(task)
            self._changed.notify_all()

    def wait(self, seconds: float | None) -> None:
        """Wait until there is a task, or the end, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self.ended, seconds)

    def next(self, seconds: float | None) -> Task | None:
        """The next task, which is under way until `finish`; None where none came in time, or at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self.ended, seconds)
            if self.ended or not self.waiting:
                return None
            self._running = (self._first or self._rest).popleft()
            return self._running

    def finish(self) -> None:
        """The task under way has ended."""
        with self._changed:
            self._running = None

    def cancel(self, number: int, keep: Keep) -> Task | None:
        """Take a task out, and give it; where it is under way, ask it to stop instead."""
        with self._changed:
            if self._running is not None and self._running.id == number:
                self._running.stop.ask(keep)
                return None
            for queue in (self._first, self._rest):
                for task in queue:
                    if task.id == number:
                        queue.remove(task)
                        return task
        return None

    def look(self, number: int, view: View | None) -> None:
        """Tell a task, under way or waiting, where somebody looks; one that has ended needs nothing."""
        with self._changed:
            for task in (*([self._running] if self._running else []), *self._first, *self._rest):
                if task.id == number:
                    task.stop.look(view)

    def end(self) -> None:
        """Give no more tasks, and ask the one under way to stop."""
        with self._changed:
            self.ended = True
            if self._running is not None:
                self._running.stop.ask()
            self._changed.notify_all()


def stopped(task: Task) -> str:
    """What a job that was cancelled has left."""
    job, keep = task.job, task.stop.keep
    if isinstance(job, TrainJob):
        if keep == "none" and not job.resume:
            return f"The training was stopped and what it wrote to {job.out} was removed."
        if "model.safetensors" not in task.left:
            return "The training was stopped before its first epoch ended, so there is no model yet."
        model = job.out / "model.safetensors"
        which = "weights it had reached are" if keep == "last" else "best model so far is"
        also = " (a run that was continued is never thrown away)" if keep == "none" else ""
        return f"The training was stopped; the {which} in {model}{also}."
    if isinstance(job, PredictJob):
        return "The prediction was stopped; its finished tiles are kept, and the same prediction goes on from there."
    return "The job was stopped."
