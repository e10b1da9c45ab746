"""The events of a running job, each one line of JSON, and the requests to it: to stop, and what is in view."""

from __future__ import annotations

import queue
import threading
import time
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from napari_msunet.geometry import Grid, Window
from napari_msunet.names import AnyNames, loaded_again

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
# ----------------------------------------------------------------------------------------------------------------------
# Requests to a running job from another thread: to stop, and what is in view.

Keep = Literal["best", "last", "none"]
"""What a stopped training leaves: its best model, the weights it had reached, or nothing."""

View = tuple[float, float, float, float]
"""`y, x, height, width` in level-0 pixels of the slide."""


class Cancelled(Exception):  # noqa: N818 (it is no error)
    """The job was asked to stop."""


class Stop:
    """Asks a job to stop, and tells it what is in view; any thread may use it.

    Parameters
    ----------
    outer : Stop, optional
        The `Stop` of the job of which this job is a part; requests to it are requests to this one too.
    """

    def __init__(self, outer: Stop | None = None) -> None:
        self._event = threading.Event()
        self._outer = outer
        self._keep: Keep = "best"
        self._view: View | None = None

    @property
    def view(self) -> View | None:
        """The part of the slide that is on a screen, which a prediction computes first; None where it is not known."""
        return self._view or (self._outer.view if self._outer is not None else None)

    def look(self, view: View | None) -> None:
        """Set the view."""
        self._view = view

    @property
    def asked(self) -> bool:
        """Whether the job was asked to stop."""
        return self._event.is_set() or (self._outer is not None and self._outer.asked)

    @property
    def keep(self) -> Keep:
        """What a stopped training leaves."""
        return self._outer.keep if self._outer is not None and self._outer.asked else self._keep

    def ask(self, keep: Keep = "best") -> None:
        """Ask the job to stop; the first request decides what is kept."""
        if not self._event.is_set():
            self._keep = keep
        self._event.set()

    def check(self) -> None:
        """Raise `Cancelled` if the job was asked to stop."""
        if self.asked:
            raise Cancelled


_current: ContextVar[Stop | None] = ContextVar("napari_msunet_stop", default=None)


@contextmanager
def stoppable(stop: Stop) -> Iterator[None]:
    """A context in which `stop` ends the job that this thread runs."""
    token = _current.set(stop)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Stop:
    """The `Stop` of the job that this thread runs; a new one where the thread runs no job."""
    return _current.get() or Stop()


def check() -> None:
    """Raise `Cancelled` if the job of this thread was asked to stop; long computations call this often."""
    current().check()


# ----------------------------------------------------------------------------------------------------------------------
# The events of a running job, the same for the dock, the command line and Python.


class _Event(AnyNames):
    model_config = ConfigDict(frozen=True)


class Progress(_Event):
    """The progress of a job.

    Attributes
    ----------
    done, total : float
        Numbers in `unit`; `total` is None while it is not known.
    unit : str
        What is counted: ``"tiles"``, ``"steps"``, ``"images"``.
    seconds_left : float, optional
        An estimate; None while there is none.
    rate : float, optional
        For a prediction: finished target pixels per second.
    """

    event: Literal["progress"] = "progress"
    done: float
    total: float | None = None
    unit: str = ""
    seconds_left: float | None = None
    rate: float | None = None


class Metric(_Event):
    """One number of one epoch.

    Attributes
    ----------
    name : str
        ``"loss"``, ``"iou"``, ``"dice"``, ``"f1"``, ``"precision"``, ``"recall"``, ``"accuracy"``, ``"learning_rate"``,
        ``"memory_mb"``; of one class ``"iou gland"``.
    split : str
        ``"train"`` or ``"validation"``.
    output : str
        ``"fused"``, a scale as ``"scale 1/2"``, or ``"mean of scales"``.
    """

    event: Literal["metric"] = "metric"
    epoch: int
    name: str
    split: Literal["train", "validation"]
    output: str = "fused"
    value: float


class StepMetrics(_Event):
    """One number of the combined output over the training steps of an epoch, for a curve: at most some 100 points.

    Attributes
    ----------
    epoch : int
    name : str
        As in `Metric`.
    values : list of float
        Evenly over the epoch; None where it is not defined.
    """

    event: Literal["step_metrics"] = "step_metrics"
    epoch: int
    name: str
    values: list[float | None]


class RegionDone(_Event):
    """A part of a prediction is finished: `y, x, height, width` in pixels of the run's own level 0."""

    event: Literal["region_done"] = "region_done"
    run: str
    y: int
    x: int
    height: int
    width: int


def packed(values: npt.NDArray[np.generic]) -> str:
    """An array as text: compressed (zlib), in base64; `unpacked` gives it back."""
    import numpy as np  # imported here, because the command's help does not need it

    return b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 1)).decode()


def unpacked(text: str, kind: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """The values in a text that `packed` made, in one dimension.

    Raises
    ------
    ValueError
        If the text is none of that function, or of another type of numbers.
    """
    import numpy as np

    try:
        return np.frombuffer(zlib.decompress(b64decode(text)), kind)
    except zlib.error as error:
        raise ValueError(f"an array cannot be unpacked ({error})") from error


class _Labelled(_Event):
    """A part of a slide with its labels.

    Attributes
    ----------
    y, x, height, width : int
        The part, in pixels of the level 0 of a run, or of a grid.
    rows, columns : int
        Size of the labels, which cover the part evenly.
    labels : str
        The labels, uint8 row by row, as `packed` makes them; `array` decodes them.
    """

    y: int
    x: int
    height: int
    width: int
    rows: int
    columns: int
    labels: str

    def array(self) -> npt.NDArray[np.uint8]:
        """The labels `(rows, columns)`."""
        import numpy as np

        return unpacked(self.labels, np.uint8).reshape(self.rows, self.columns)  # type: ignore[return-value]


def _placed(window: Window, labels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """The fields of labels `(rows, columns)` over a window."""
    place = {"y": window.y, "x": window.x, "height": window.height, "width": window.width}
    return {**place, "rows": labels.shape[0], "columns": labels.shape[1], "labels": packed(labels)}


class FirstLook(_Labelled):
    """The answer of the coarsest scale alone for a part in view, before its tiles are computed; it is not stored.

    The part is in pixels of the level 0 of the run `run`.
    """

    event: Literal["first_look"] = "first_look"
    run: str

    @classmethod
    def of(cls, run: str, window: Window, labels: npt.NDArray[np.uint8]) -> FirstLook:
        """The event for labels `(rows, columns)` over a window."""
        return cls(run=run, **_placed(window, labels))


class Answered(_Labelled):
    """The labels of a tile in view, which are not stored: by a head that was fitted to what is annotated so far, or by
    the model of a training that runs.

    The part is in pixels of a grid over the slide, whose pixels are `pixel` `(y, x)` level-0 pixels large, and of which
    there are `shape` `(height, width)`. Where a training runs, `model` says which of its models gave the labels: they
    take the place of those of the model before.
    """

    event: Literal["answered"] = "answered"
    pixel: tuple[float, float]
    shape: tuple[int, int]
    model: str = ""

    @classmethod
    def of(cls, grid: Grid, window: Window, labels: npt.NDArray[np.uint8], model: str = "") -> Answered:
        """The event for labels `(height, width)` of a window of a grid."""
        return cls(pixel=grid.pixel, shape=grid.shape, model=model, **_placed(window, labels))


class TrialDone(_Event):
    """A trial of a search or of an experiment has ended, here or in another process.

    Attributes
    ----------
    number : int
        Its number: from 0 in a search, from 1 in an experiment.
    row : dict
        Plain values: its row of the table of trials of a search; of an experiment, what is known of its variant by now
        (``"variant"``, ``"trials"``, ``"value"``, ``"interval"``, ``"difference"``, ``"error"``).
    """

    event: Literal["trial_done"] = "trial_done"
    number: int
    row: dict[str, Any] = Field(default_factory=dict)


class Message(_Event):
    """A sentence for the user."""

    event: Literal["message"] = "message"
    level: Literal["info", "warning", "error"] = "info"
    text: str


class Result(_Event):
    """The last event of a finished job: its numbers (plain JSON values) and the files that it wrote."""

    event: Literal["result"] = "result"
    values: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)


Event = Annotated[
    Progress | Metric | StepMetrics | RegionDone | FirstLook | Answered | TrialDone | Message | Result,
    Field(discriminator="event"),
]
"""The type of any event."""

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(line: str | bytes) -> Event:
    """The event in one line of JSON."""
    try:
        return _ADAPTER.validate_json(line)
    except ValidationError as error:
        return _ADAPTER.validate_python(loaded_again(line, error))


def event_of(values: dict[str, Any]) -> Event:
    """The event in an object that was read from JSON."""
    return _ADAPTER.validate_python(values)


def progress(done: float, total: float, unit: str, started: float) -> Progress:
    """A `Progress` with the time left, estimated from the pace since `started` (`time.monotonic()`)."""
    left = (time.monotonic() - started) / done * (total - done) if done else None
    return Progress(done=done, total=total, unit=unit, seconds_left=left)


Value = TypeVar("Value")


def reported(work: Callable[[Callable[[int, int], None]], Value], unit: str) -> Generator[Progress, None, Value]:
    """Turn a function that reports through a callback into an iterator of events.

    Parameters
    ----------
    work : callable
        Takes a function `(done, total)` with which it reports. It runs in a thread; when the iterator is closed, its
        next report raises an error in it, and closing waits until it has cleaned up.
    unit : str
        What is counted.

    Yields
    ------
    Progress

    Returns
    -------
    What `work` returned. What it raised is raised here.
    """
    events: SimpleQueue[Progress | None] = SimpleQueue()
    stop, started = Stop(outer=current()), time.monotonic()
    values: list[Value] = []
    errors: list[BaseException] = []

    def report(done: int, total: int) -> None:
        stop.check()
        events.put(progress(done, total, unit, started))

    def body() -> None:
        try:
            values.append(work(report))
        except BaseException as error:
            errors.append(error)
        finally:
            events.put(None)

    thread = Thread(target=body, name=f"napari-msunet {unit}")
    thread.start()
    try:
        while (event := events.get()) is not None:
            yield event
    finally:
        stop.ask()
        thread.join()
    if errors:
        raise errors[0]
    return values[0]


# ----------------------------------------------------------------------------------------------------------------------
# A function that runs in a thread, as an iterator of events.

Say = Callable[[Event], None]


def in_background(work: Callable[[Say, Stop], None]) -> Iterator[Event]:
    """The events of `work`, as they come.

    Closing the iterator, or an interrupt while it waits, asks the work to stop and waits until it has. An exception of
    the work, such as `Cancelled`, is raised here.

    Parameters
    ----------
    work : callable
        Takes a function to call with each event, and a `Stop` to check often.
    """
    events: queue.Queue[Event | BaseException | None] = queue.Queue()
    stop = Stop(outer=current())

    def body() -> None:
        try:
            work(events.put, stop)
        except BaseException as error:  # the caller raises it again, unless the iterator is closed
            events.put(error)
        finally:
            events.put(None)

    thread = threading.Thread(target=body, name="msunet-training", daemon=True)
    thread.start()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        stop.ask()
        thread.join()
