"""What a running job shows on a terminal: a bar with the time left, numbers per epoch, sentences, and its result."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from napari_msunet.events import Event, Message, Metric, Result
from napari_msunet.events import Progress as Step
from napari_msunet.wording import in_flags

PLAIN_SECONDS = 10.0
"""Seconds between two lines of progress where there is no terminal."""

SHOWN_SCORES = ("dice", "iou", "precision", "recall", "f1", "accuracy")


def follow(events: Iterator[Event]) -> Result | None:
    """Show the events of a job on the standard error stream and give its result.

    Whatever ends this ends the job: its iterator is closed, and the job has cleaned up.
    """
    console = Console(stderr=True, highlight=False)
    screen = _Terminal(console) if console.is_terminal else _Lines(console)
    result = None
    try:
        with screen:
            for event in events:
                if isinstance(event, Result):
                    result = event
                else:
                    screen.show(event)
            screen.finish()
    finally:
        with suppress(AttributeError):
            events.close()  # type: ignore[attr-defined]
    return result


class _Lines:
    """Plain lines: for files, pipes and clusters."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._epoch: list[Metric] = []
        self._last = time.monotonic()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def show(self, event: Event) -> None:
        if isinstance(event, Metric):
            if self._epoch and self._epoch[0].epoch != event.epoch:
                self.finish()
            self._epoch.append(event)
            return
        self.finish()
        if isinstance(event, Message):
            text = in_flags(event.text)
            self.say(text if event.level == "info" else f"{event.level.capitalize()}: {text}")
        elif isinstance(event, Step):
            self.step(event)

    def step(self, event: Step) -> None:
        if time.monotonic() - self._last >= PLAIN_SECONDS or event.done == event.total:
            self._last = time.monotonic()
            left = None if event.done == event.total else event.seconds_left
            self.say(f"{progress_text(event)}{left_text(left)}")

    def finish(self) -> None:
        """Say the epoch that is complete now."""
        if self._epoch:
            self.say(epoch_text(self._epoch))
            self._epoch = []


class _Left(ProgressColumn):
    """The time left that the job itself estimates."""

    def render(self, task: Task) -> Text:
        return Text(left_text(task.fields.get("left")).removeprefix(", "))


class _Terminal(_Lines):
    """A bar below the lines."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), _Left(), console=console, transient=True)
        self._task: Any = None

    def __enter__(self) -> _Terminal:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, event: Step) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", left=None)
        self._bar.update(
            self._task,
            description=progress_text(event),
            completed=event.done,
            total=event.total,
            left=event.seconds_left,
        )


def progress_text(event: Step) -> str:
    """How far, as words: ``"12 of 40 tiles"``."""
    total = "" if event.total is None else f" of {event.total:g}"
    return f"{event.done:g}{total} {event.unit}".rstrip()


def left_text(seconds: float | None) -> str:
    """The time left, as words."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f", {clock} left"


def epoch_text(metrics: list[Metric]) -> str:
    """The numbers of an epoch on one line: train and validation, fused, then each scale."""
    parts = [f"epoch {metrics[0].epoch}"]
    for split in ("train", "validation"):
        outputs: dict[str, list[str]] = {}
        for metric in metrics:
            if metric.split == split and metric.name in ("loss", "iou", "dice"):
                outputs.setdefault(metric.output, []).append(f"{metric.name} {metric.value:.3f}")
        if outputs:
            scores = "; ".join(" ".join([*([] if o == "fused" else [o]), *numbers]) for o, numbers in outputs.items())
            parts.append(f"{split}: {scores}")
    rate = [m.value for m in metrics if m.name == "learning_rate"]
    return "  |  ".join([*parts, *(f"learning rate {value:.2g}" for value in rate[:1])])


def error_text(error: BaseException) -> str:
    """What went wrong, on one line."""
    if isinstance(error, MemoryError):
        return "There is not enough memory; give a smaller --tile, --size or --batch-size."
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which must not be imported for this
        return "The device has not enough memory; give a smaller --tile, --size or --batch-size, or --device cpu."
    if isinstance(error, OSError):
        where = f"{error.filename} cannot be used: " if error.filename else ""
        return f"{where}{error.strerror or error}."
    return in_flags(_UNREAD.sub(_not_read, " ".join(str(error).split())))


_UNREAD = re.compile(r'unable to convert ("[^"]*") into ([^\s.]+)\.')
_TYPES = {"float": "a number such as 0.25", "int": "a whole number such as 8", "None": ""}


def _not_read(found: re.Match[str]) -> str:
    """What cyclopts says of a word that is not of an option's types, in words."""
    wanted = (_TYPES.get(kind, kind.removeprefix("Literal[").rstrip("]")) for kind in found[2].split("|"))
    return f"{found[1]} cannot be read; give {' or '.join(filter(None, wanted))}."


def show_result(result: Result, as_json: bool) -> None:
    """Print a result on the standard output: tables to read, or JSON for machines."""
    if as_json:
        print(json.dumps({"values": result.values, "files": result.files}, indent=1, ensure_ascii=False))  # noqa: T201
        return
    console = Console(highlight=False)
    values = dict(result.values)
    if isinstance(values.get("pooled"), dict):
        _show_scores(console, values.pop("pooled"))
        values = {}
    if _is_table(values.get("classes")):
        _show_rows(console, values.pop("classes"))
    for name, value in values.items():
        _show_value(console, name, value)
    for name, path in result.files.items():
        console.print(f"wrote {path} ({name})", markup=False, soft_wrap=True)


def _show_scores(console: Console, pooled: dict[str, dict[str, Any]]) -> None:
    """One row per output (fused, each scale): the mean over classes, and each class where there are several."""
    rows = []
    for output, scores in pooled.items():
        classes = scores.get("classes", {})
        rows.append({"output": output, "class": "mean" if len(classes) != 1 else next(iter(classes)), **_only(scores)})
        if len(classes) > 1:
            rows += [{"output": "", "class": name, **_only(own)} for name, own in classes.items()]
    _show_rows(console, rows)


def _only(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: scores.get(name) for name in SHOWN_SCORES}


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _show_rows(console: Console, rows: Iterable[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    rows = list(rows)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_plain(value)) for value in row.values()))
    console.print(table)


def _show_value(console: Console, name: str, value: Any) -> None:
    """A number or a word on a line, a small table of numbers on one line; lists and deeper things are in the files."""
    if isinstance(value, dict):
        inner = {k: v for k, v in value.items() if isinstance(v, int | float | str)}
        if inner and len(inner) == len(value):
            text = ", ".join(f"{k} {_plain(v)}" for k, v in inner.items())
            console.print(f"{name}: {text}", markup=False, soft_wrap=True)
        else:
            for key, own in value.items():
                if isinstance(own, dict):
                    _show_value(console, f"{name} {key}", own)
    elif not isinstance(value, list) and value is not None:
        console.print(f"{name}: {_plain(value)}", markup=False, soft_wrap=True)


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)
