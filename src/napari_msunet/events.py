"""What a running job says: events, each one line of JSON, the same for the dock, the command line and Python."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Event(BaseModel):
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
    """

    event: Literal["progress"] = "progress"
    done: float
    total: float | None = None
    unit: str = ""
    seconds_left: float | None = None


class Metric(_Event):
    """One number of one epoch.

    Attributes
    ----------
    name : str
        ``"loss"``, ``"iou"``, ``"dice"``, ``"learning_rate"``.
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


Event = Annotated[Progress | Metric | RegionDone | Message | Result, Field(discriminator="event")]
"""Any event."""

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(line: str | bytes) -> Event:
    """The event in one line of JSON."""
    return _ADAPTER.validate_json(line)
