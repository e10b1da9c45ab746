"""What a running job says: events, each one line of JSON, the same for the dock, the command line and Python."""

from __future__ import annotations

import time
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from napari_msunet.geometry import Window
from napari_msunet.names import AnyNames, loaded_again
from napari_msunet.stopping import Stop, current

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class _Event(AnyNames):
    model_config = ConfigDict(frozen=True)


class Progress(_Event):
    """How far a job is.

    Attributes
    ----------
    done, total : float
        In `unit`; `total` is None while it is not known.
    unit : str
        What is counted: ``"tiles"``, ``"steps"``, ``"images"``.
    seconds_left : float, optional
        Estimate; None while nothing can be said.
    rate : float, optional
        Of a prediction: finished target pixels per second.
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
        ``"loss"``, ``"iou"``, ``"dice"``, ``"learning_rate"``; of one class ``"iou gland"``.
    split : str
        ``"train"`` or ``"validation"``.
    output : str
        ``"fused"``, or a scale as ``"scale 1/2"``.
    """

    event: Literal["metric"] = "metric"
    epoch: int
    name: str
    split: Literal["train", "validation"]
    output: str = "fused"
    value: float


class RegionDone(_Event):
    """A part of a prediction is finished: `y, x, height, width` in pixels of the run's own level 0."""

    event: Literal["region_done"] = "region_done"
    run: str
    y: int
    x: int
    height: int
    width: int


class FirstLook(_Event):
    """What the coarsest scale alone says of a part in view, told before its tiles are computed; nothing keeps it.

    Attributes
    ----------
    run : str
    y, x, height, width : int
        The part, in pixels of the run's level 0.
    rows, columns : int
        Of the labels, which lie evenly over the part.
    labels : str
        They, uint8 row by row, compressed (zlib) and in base64; `array` gives them.
    """

    event: Literal["first_look"] = "first_look"
    run: str
    y: int
    x: int
    height: int
    width: int
    rows: int
    columns: int
    labels: str

    @classmethod
    def of(cls, run: str, window: Window, labels: npt.NDArray[np.uint8]) -> FirstLook:
        """The event for labels `(rows, columns)` over a window."""
        place = {"y": window.y, "x": window.x, "height": window.height, "width": window.width}
        import numpy as np  # here: the command's help does without it

        text = b64encode(zlib.compress(np.ascontiguousarray(labels).tobytes(), 1)).decode()
        return cls(run=run, **place, rows=labels.shape[0], columns=labels.shape[1], labels=text)

    def array(self) -> npt.NDArray[np.uint8]:
        """The labels `(rows, columns)`."""
        import numpy as np

        values = np.frombuffer(zlib.decompress(b64decode(self.labels)), np.uint8)
        return values.reshape(self.rows, self.columns)


class Message(_Event):
    """A sentence for the user."""

    event: Literal["message"] = "message"
    level: Literal["info", "warning", "error"] = "info"
    text: str


class Result(_Event):
    """The last event of a job that came to its end: its numbers (plain JSON values) and the files it wrote."""

    event: Literal["result"] = "result"
    values: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)


Event = Annotated[Progress | Metric | RegionDone | FirstLook | Message | Result, Field(discriminator="event")]
"""Any event."""

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
    """A `Progress` whose time left follows from the pace since `started` (`time.monotonic()`)."""
    left = (time.monotonic() - started) / done * (total - done) if done else None
    return Progress(done=done, total=total, unit=unit, seconds_left=left)


Value = TypeVar("Value")


def reported(work: Callable[[Callable[[int, int], None]], Value], unit: str) -> Generator[Progress, None, Value]:
    """Turn a function that reports through a callback into an iterator of events.

    Parameters
    ----------
    work : callable
        Takes a function `(done, total)` to report with. It runs in a thread of its own; when the iterator is closed,
        its next report raises inside it, and closing waits until it has cleaned up.
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
