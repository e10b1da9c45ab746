"""The worker: a process that runs jobs for the dock, one after another, and keeps torch, models and slides loaded.

It reads requests, one JSON object per line, and answers with events, one JSON object per line; see `Worker`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, get_args

from napari_msunet.config import AnswerRequest, Job, LiveRequest, PredictJob, TrainJob
from napari_msunet.errors import MsunetError, failure
from napari_msunet.events import Cancelled, Event, Keep, Result, Stop, View, stoppable
from napari_msunet.jobs.paths import missing_here
from napari_msunet.jobs.run import function_of, parse_job, run
from napari_msunet.own_process import settle

if TYPE_CHECKING:
    from napari_msunet.inference.instant import Answers
    from napari_msunet.inference.live import LiveLabels
# ----------------------------------------------------------------------------------------------------------------------
# The queue of the worker, and the sentence about a job that was stopped.


@dataclass(eq=False)
class Task:
    """A request that takes time.

    Attributes
    ----------
    id : int
        The number of the request, chosen by the client.
    job : a job or None
    inspect : dict
        What to inspect, where there is no job.
    answer : AnswerRequest or LiveRequest, optional
        What to label while a person paints, or while a training runs.
    stop : Stop
    left : tuple of str
        Names of the main files that a training has left.
    """

    id: int
    job: Job | None
    inspect: dict[str, Any] = field(default_factory=dict)
    answer: AnswerRequest | LiveRequest | None = None
    stop: Stop = field(default_factory=Stop)
    left: tuple[str, ...] = ()


class TaskQueue:
    """Tasks in their order, of which one is under way."""

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
        """How many tasks wait."""
        return len(self._first) + len(self._rest)

    def put(self, task: Task, first: bool = False) -> None:
        """Add a task behind all others, or with `first` only behind those that were added with `first` too."""
        with self._changed:
            (self._first if first else self._rest).append(task)
            self._changed.notify_all()

    @property
    def busy(self) -> bool:
        """Whether a task is under way."""
        return self._running is not None

    def replace(self, task: Task) -> list[Task]:
        """Add a task in place of all others: those that wait are given back, and the one under way is asked to stop."""
        with self._changed:
            dropped = [*self._first, *self._rest]
            self._first.clear()
            self._rest.clear()
            if self._running is not None:
                self._running.stop.ask()
            self._rest.append(task)
            self._changed.notify_all()
        return dropped

    def wait(self, seconds: float | None) -> None:
        """Wait until there is a task, the queue has ended, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self.ended, seconds)

    def next(self, seconds: float | None) -> Task | None:
        """The next task, which is under way until `finish`; None where none came in time, or the queue has ended."""
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
        """Remove a waiting task and give it; a task that is under way is asked to stop instead."""
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
        """Set the view of a task, under way or waiting; for a task that has ended nothing is done."""
        with self._changed:
            for task in (*([self._running] if self._running else []), *self._first, *self._rest):
                if task.id == number:
                    task.stop.look(view)

    def end(self) -> None:
        """End the queue: give no more tasks, and ask the one under way to stop."""
        with self._changed:
            self.ended = True
            if self._running is not None:
                self._running.stop.ask()
            self._changed.notify_all()


def stopped(task: Task) -> str:
    """A sentence about what a cancelled job has left."""
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


# ----------------------------------------------------------------------------------------------------------------------
# The worker: its requests, the jobs it runs and its answers.

MODELS, SLIDES = 2, 3
"""How many models and slides stay loaded between jobs."""

IDLE_SECONDS = 1.0
"""After this time without a job, the worker loads what the next job will need, or frees memory."""

EXIT_SECONDS = 2.0
"""How long a job under way may take to put its files in order when the worker ends."""

NICE = 10


class Worker:
    """Answers requests until there are no more.

    Requests: ``{"id": n, "run": job}`` (with ``"priority": true`` before those that wait); ``{"id": n, "cancel":
    true}`` (with ``"keep": "best" | "last" | "none"`` for a training); ``{"id": n, "inspect": {"path": ...}}`` or
    ``{"machine": true}``, which waits for no job; ``{"id": n, "look": [y, x, height, width] or null}``, the view of a
    person (level-0 pixels); ``{"id": n, "answer": request}``, an `AnswerRequest`, which waits for no job and replaces
    the one before (null: its features are forgotten); ``{"id": n, "live": request}``, a `LiveRequest`, which waits for
    no job and replaces the one before; and ``{"ping": n}``. With ``"expected": {path: name}`` beside a job, an
    inspection or an answer, each path must exist, and an error gives its name on the client's machine.

    Answers: ``{"ready": {...}}`` once, ``{"warm": true}`` when torch is loaded, ``{"id": n, "started": true}``,
    ``{"id": n, "event": {...}}``, and for each request with an `id` at last ``{"id": n, "end": "done" | "cancelled" |
    "error", "text": sentence or null, "details": traceback or null}``. A line that cannot be understood is answered
    with an error whose `id` may be null.

    Parameters
    ----------
    requests, answers : binary files
    """

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._answers = answers
        self._writing = threading.Lock()
        self._stores = threading.Lock()
        self._tasks = TaskQueue()
        self._inspections = TaskQueue()
        self._painting = TaskQueue()
        self._live = TaskQueue()
        self._instant: Answers | None = None
        self._live_labels: LiveLabels | None = None
        # Python's import of one package from two threads at once can fail
        self._importing = threading.Lock()

    def serve(self) -> None:
        """Answer requests until there are no more, then end what is under way and keep what it has finished."""
        from napari_msunet import __version__

        self.say(ready={"version": __version__, "pid": os.getpid()})
        threads = [
            threading.Thread(target=self._work, name="jobs", daemon=True),
            self._beside("inspections", self._inspections, self._inspection_events),
            self._beside("answers", self._painting, self._answer_events),
            self._beside("live", self._live, self._live_events),
        ]
        for thread in threads:
            thread.start()
        for line in self._requests:
            if line.strip():
                self._take(line)
        self._tasks.end()
        threads[0].join(EXIT_SECONDS)
        with suppress(Exception):
            self._close_stores()

    def say(self, **answer: Any) -> None:
        """Write one answer; where the other end is closed, this process ends."""
        data = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self._send(data)

    def _send(self, data: bytes) -> None:
        with self._writing:
            try:
                self._answers.write(data)
                self._answers.flush()
            except (OSError, ValueError):
                os._exit(0)

    def _event(self, task: Task, event: Event) -> None:
        self._send(b'{"id":%d,"event":%s}\n' % (task.id, event.model_dump_json().encode()))

    def _end(self, number: int | None, end: str, text: str | None = None, details: str | None = None) -> None:
        self.say(id=number, end=end, text=text, details=details)

    # ------------------------------------------------------------------------------------------------------- requests

    def _take(self, line: bytes) -> None:
        """Handle one request; a bad one is answered with an error, and the worker continues."""
        number: int | None = None
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("it is no JSON object")
            if "ping" in request:
                self.say(pong=request["ping"])
                return
            if type(request.get("id")) is not int:
                raise ValueError("it has no whole number as its id")
            if not {"cancel", "look"} & set(request) and any(
                request["id"] in queue for queue in (self._tasks, self._inspections, self._painting, self._live)
            ):
                raise ValueError(f"there is a job {request['id']} already")
            number = request["id"]
            self._request(request["id"], request)
        except MsunetError as error:
            self._end(number, "error", str(error))
        except (ValueError, RecursionError) as error:
            self._end(number, "error", f"The worker did not understand a request: {error}.")

    def _request(self, number: int, request: dict[str, Any]) -> None:
        if request.get("cancel"):
            keep = request.get("keep", "best")
            if keep not in get_args(Keep):
                raise ValueError(f'keep is {keep!r}, not "best", "last" or "none"')
            self._cancel(number, keep)
        elif "look" in request:
            self._tasks.look(number, _view(request["look"]))
        elif isinstance(expected := request.get("expected", {}), dict) and (absent := missing_here(expected)):
            raise MsunetError(absent)
        elif "run" in request:
            job = parse_job(json.dumps(request["run"]))
            self._tasks.put(Task(number, job), first=bool(request.get("priority")))
        elif isinstance(request.get("inspect"), dict):
            self._inspections.put(Task(number, None, request["inspect"]))
        elif "answer" in request:
            asked = request["answer"]
            task = Task(number, None, answer=None if asked is None else AnswerRequest.model_validate(asked))
            self._replace(self._painting, task)
        elif "live" in request:
            self._replace(self._live, Task(number, None, answer=LiveRequest.model_validate(request["live"])))
        else:
            raise ValueError('it has neither "run" nor "cancel" nor "look" nor "inspect" nor "answer" nor "live"')

    def _replace(self, tasks: TaskQueue, task: Task) -> None:
        """Let a task take the place of those before it."""
        for older in tasks.replace(task):
            self._end(older.id, "cancelled")

    def _cancel(self, number: int, keep: Keep) -> None:
        """Stop a job that runs, or remove one that waits; for a job that has ended nothing is done."""
        queues = (self._tasks, self._painting, self._live)
        waiting = next((task for queue in queues if (task := queue.cancel(number, keep)) is not None), None)
        if waiting is not None:
            self._end(number, "cancelled", "The job was cancelled before it began.")

    # ----------------------------------------------------------------------------------------------------------- jobs

    def _work(self) -> None:
        """Run the jobs in their order; the body of a thread."""
        chores = self._chores()
        while not self._tasks.ended:
            task = self._tasks.next(0.0 if chores else None)
            if task is not None:
                self._run(task, self._job_events)
                self._tasks.finish()
                chores = [*chores, self._tidy] if self._tidy not in chores else chores
            elif chores:
                try:
                    chores.pop(0)()
                except Exception:  # the job that needs this import will raise a clearer error
                    traceback.print_exc()

    def _chores(self) -> list[Callable[[], None]]:
        """What the worker does while it has no job: the heavy imports, one after another."""
        return [self._warm, self._pause, self._warm_training]

    def _warm(self) -> None:
        with self._importing:
            from napari_msunet import inference
            from napari_msunet.inference.model_cache import MODEL_CACHE

        del inference
        MODEL_CACHE.models, MODEL_CACHE.slides = MODELS, SLIDES
        self.say(warm=True)

    def _warm_training(self) -> None:
        with self._importing:
            from napari_msunet.training import callbacks

        del callbacks

    def _pause(self) -> None:
        """Wait a moment, or until a job comes."""
        self._tasks.wait(IDLE_SECONDS)

    def _tidy(self) -> None:
        """Free the memory that the last jobs needed."""
        self._pause()
        if not self._tasks.waiting:
            give_memory_back()

    def _run(self, task: Task, events: Callable[[Task], Iterator[Event]]) -> None:
        """Run one job from its start to its end, whatever it raises."""
        self.say(id=task.id, started=True)
        outcome: tuple[str, str | None, str | None] = ("done", None, None)
        try:
            with stoppable(task.stop):
                for event in events(task):
                    self._event(task, event)
                    if not isinstance(event, Result):
                        task.stop.check()
        except Cancelled:
            outcome = ("cancelled", stopped(task), None)
        except BaseException as error:  # also SystemExit, which a library may raise: the worker continues
            outcome = ("error", *failure(error))
        self._end(task.id, *outcome)

    def _job_events(self, task: Task) -> Iterator[Event]:
        """The events of a job; its stores are closed before its end is sent, since the window may want to write to
        them."""
        job = task.job
        assert job is not None  # for the type checker
        with self._importing:
            function_of(job)
        events = run(job)
        try:
            yield from events
        finally:
            events.close()  # type: ignore[attr-defined]  # an iterator has no `close`, but this is a generator
            self._close_stores()
            if isinstance(job, TrainJob):
                task.left = tuple(name for name in ("model.safetensors", "last.ckpt") if (job.out / name).exists())

    def _close_stores(self) -> None:
        stores = sys.modules.get("napari_msunet.labels.store")
        if stores is not None:
            with self._stores:
                stores.close_all()

    # --------------------------------------------------------------------------------------- inspections and answers

    def _beside(self, name: str, tasks: TaskQueue, events: Callable[[Task], Iterator[Event]]) -> threading.Thread:
        """A thread that answers inspections, or a person who paints: beside the jobs, because they are quick."""

        def body() -> None:
            while not tasks.ended:
                task = tasks.next(None)
                if task is not None:
                    self._run(task, events)
                    tasks.finish()

        return threading.Thread(target=body, name=name, daemon=True)

    def _answer_events(self, task: Task) -> Iterator[Event]:
        assert not isinstance(task.answer, LiveRequest)  # for the type checker
        if task.answer is None:
            self._instant = None
            give_memory_back()
            yield Result()
            return
        with self._importing:
            import sklearn.linear_model  # takes a second, and is needed once there are two classes

            from napari_msunet.inference.instant import Answers

        del sklearn
        if self._instant is None:
            self._instant = Answers(lambda: self._tasks.busy)
        yield from self._instant.answer(task.answer)

    def _live_events(self, task: Task) -> Iterator[Event]:
        with self._importing:
            from napari_msunet.inference.live import LiveLabels

        assert isinstance(task.answer, LiveRequest)  # for the type checker
        if self._live_labels is None:
            self._live_labels = LiveLabels()
        yield from self._live_labels.label(task.answer)

    def _inspection_events(self, task: Task) -> Iterator[Event]:
        asked = task.inspect
        if isinstance(asked.get("path"), str):
            from napari_msunet.app.describe import describe

            with self._stores:
                values = describe(Path(asked["path"]))
        elif asked.get("machine"):
            from napari_msunet.app.doctor import examine

            values = examine()
        else:
            raise MsunetError('An inspection needs {"path": "..."} or {"machine": true}.')
        yield Result(values=json.loads(json.dumps(values, default=str)))


def _view(value: Any) -> View | None:
    """The view in a request."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(n, int | float) for n in value):
        raise ValueError(f"look is {value!r}, not y, x, height and width")
    y, x, height, width = map(float, value)
    return y, x, height, width


def give_memory_back() -> None:
    """Free the memory of finished jobs, in this process and on the graphics card."""
    import ctypes
    import gc

    from napari_msunet.own_process import applies

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if applies():
        ctypes.CDLL(None).malloc_trim(0)


def _lower_priority() -> None:
    """Lower the priority of this process, so that the window and other programs of the person stay quick."""
    with suppress(OSError, AttributeError):
        if hasattr(os, "nice"):
            os.nice(NICE)
        else:
            import psutil

            psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)


def _follow_parent(seconds: float = 0.5) -> None:
    """End when the process that started this one has ended.

    The end of the input would show this too, but not where a process forked by the parent still holds the other end of
    the pipe.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(0)

    if os.name != "nt":
        threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> None:
    """Run the worker on the standard input and output of this process.

    Nothing else in the process can use these two: the prints of libraries go to the standard error.
    """
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in napari's terminal is meant for napari
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    _lower_priority()
    settle()
    _follow_parent()
    Worker(requests, answers).serve()
    sys.stderr.flush()
    os._exit(0)  # no thread of a library may keep this process alive
