"""Running the command: the job of a verb is printed or run, its events are shown, and an error is one sentence."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, get_args

from cyclopts import App, CoercionError, CycloptsError, Parameter, Token, convert
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from napari_msunet.cli.options import RunOptions
from napari_msunet.config import (
    ContextJob,
    CrossValidateJob,
    ExperimentJob,
    Job,
    PredictJob,
    PredictManyJob,
    TrainJob,
    TuneJob,
    explain,
    with_damaged,
)
from napari_msunet.errors import MsunetError, failure
from napari_msunet.events import Event, Message, Metric, Result
from napari_msunet.events import Progress as Step
from napari_msunet.own_process import ENDING, settle
from napari_msunet.wording import in_flags

# ----------------------------------------------------------------------------------------------------------------------
# What a running job shows on a terminal: a bar with the time left, scores per epoch, messages, and its result.

PLAIN_SECONDS = 10.0
"""Seconds between two lines of progress where there is no terminal."""

SHOWN_SCORES = ("dice", "iou", "precision", "recall", "f1", "accuracy")


def follow(events: Iterator[Event]) -> Result | None:
    """Show the events of a job on the standard error stream and give its result.

    However this function ends, the iterator of the job is closed, so that the job has cleaned up.
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
    """Progress as plain lines, for files, pipes and clusters."""

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
        """Show the scores of the epoch that has ended."""
        if self._epoch:
            self.say(epoch_text(self._epoch))
            self._epoch = []


class _Left(ProgressColumn):
    """The time left that the job itself estimates."""

    def render(self, task: Task) -> Text:
        return Text(left_text(task.fields.get("left")).removeprefix(", "))


class _Terminal(_Lines):
    """Progress as a bar below the lines, for a terminal."""

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
    """The progress in words: ``"12 of 40 tiles"``."""
    total = "" if event.total is None else f" of {event.total:g}"
    return f"{event.done:g}{total} {event.unit}".rstrip()


def left_text(seconds: float | None) -> str:
    """The time left, in words."""
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
            if metric.split == split and metric.name in ("loss", "iou"):
                outputs.setdefault(metric.output, []).append(f"{metric.name} {metric.value:.3f}")
        if outputs:
            scores = "; ".join(" ".join([*([] if o == "fused" else [o]), *numbers]) for o, numbers in outputs.items())
            parts.append(f"{split}: {scores}")
    rate = [m.value for m in metrics if m.name == "learning_rate"]
    return "  |  ".join([*parts, *(f"learning rate {value:.2g}" for value in rate[:1])])


def error_text(error: BaseException) -> str:
    """An error as one line of text."""
    if isinstance(error, MemoryError):
        return "There is not enough memory; give a smaller --tile, --size or --batch-size."
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which must not be imported for this
        return "The device has not enough memory; give a smaller --tile, --size or --batch-size, or --device cpu."
    if isinstance(error, OSError):
        return failure(error)[0]
    return in_flags(_UNREAD.sub(_not_read, " ".join(str(error).split())))


_UNREAD = re.compile(r'unable to convert ("[^"]*") into ([^\s.]+)\.')
_TYPES = {"float": "a number such as 0.25", "int": "a whole number such as 8", "None": ""}


def _not_read(found: re.Match[str]) -> str:
    """cyclopts' error about a word that is not of an option's types, in plain words."""
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
    """A number or a word on a line, or a small table of numbers on one line. Lists and nested values are in the
    files."""
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


# ----------------------------------------------------------------------------------------------------------------------
# The app, its exit codes, and what all verbs share: a job is built, printed or run, and its result shown.

FAILED = 1
"""Exit code when some of many slides failed."""

BAD_INPUT = 2
"""Exit code when something given cannot be used."""

BAD_INPUT_ERRORS = (MsunetError, CycloptsError, OSError, MemoryError)
"""Errors that are shown as one sentence. Any other error is a bug of napari-msunet and is shown with its traceback."""


def _installed_version() -> str:
    import napari_msunet

    return str(napari_msunet.__version__)


def _read(kind: Any, tokens: Sequence[Token]) -> Any:
    """Read the words of an option as cyclopts does, but refuse 2.5 for a whole number, which cyclopts would round."""
    kinds = {kind, *get_args(kind)}
    for token in tokens if int in kinds and float not in kinds else ():
        if "." in token.value and not token.value.rstrip("0").endswith("."):
            raise CoercionError(token=token, target_type=int)
    return convert(kind, tokens)


app = App(
    name="napari-msunet",
    help="Segment large histology images with multi-scale U-Nets.",
    version=_installed_version,
    default_parameter=Parameter(negative=(), converter=_read),
)


def run_or_print(build: Callable[[], Job], options: RunOptions) -> Result | None:
    """Build a job, then print it or run it, and give its result."""
    try:
        job = build()
        if options.damaged != "refuse":
            job = with_damaged(job, options.damaged)
    except ValidationError as error:
        raise explain(error, "What was given") from error
    if options.print_job:
        print(job.model_dump_json(indent=1))  # noqa: T201
        return None
    from napari_msunet.jobs.run import run as run_job

    return show(run_job(job), options.json, lambda: _kept(job))


def show(events: Iterator[Event], as_json: bool, kept: Callable[[], str]) -> Result | None:
    """Follow a job to its end, and give its result; after Ctrl-C, `kept` says what the job has left."""

    settle()
    ENDING.left = kept
    result = follow(events)
    ENDING.left = lambda: ""
    if result is not None:
        show_result(result, as_json)
    return result


def warn_of(texts: Iterable[str]) -> None:
    """Print warnings in the form of those of a job."""
    for text in texts:
        print(f"Warning: {text}", file=sys.stderr)  # noqa: T201


def _kept(job: Job) -> str:
    """What a stopped job leaves, as a sentence."""
    if isinstance(job, TrainJob):
        best = job.out / "model.safetensors"
        if best.exists():
            return f"The best model so far is {best}; the same command with --resume goes on."
        return "No epoch was finished, so there is no model yet."
    if isinstance(job, ContextJob | ExperimentJob) and job.out.exists():
        return f"The finished trainings are kept in {job.out}; the same command with --resume goes on."
    if isinstance(job, CrossValidateJob) and job.out.exists():
        return f"The finished folds are kept in {job.out}; the same command with --resume goes on."
    if isinstance(job, TuneJob) and job.out.exists():
        return f"The finished trials are kept in {job.out}; the same command with --resume goes on."
    if isinstance(job, PredictJob) and job.out.exists():
        return f"The finished tiles are kept in {job.out}; the same command goes on where it stopped."
    if isinstance(job, PredictManyJob):
        return f"What is finished is in {job.out}; the same command goes on where it stopped."
    return "Nothing was written."


def _in_todays_names(arguments: Sequence[str]) -> list[str]:
    """The arguments, in which options of earlier versions have their present names."""
    words = [word for word in arguments if word not in ("--augment", "--no-augment")]
    if "--no-augment" not in arguments:
        return words
    for number, word in enumerate(words[:-1]):
        if word == "--augmentation":
            words[number + 1] = f"none,{words[number + 1]}"
            return words
    return [*words, "--augmentation", "none"]


def execute(arguments: list[str]) -> int:
    """Run the command with these arguments and give its exit code.

    The code is 0 after success; 1 where some of many slides failed; 2 after one sentence about bad input; 130 and 143
    after Ctrl-C and SIGTERM, once everything is closed.
    """
    code = 0
    try:
        code = app(_in_todays_names(arguments), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has ended, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except BaseException as error:
        if (ended := ENDING.code(error)) is not None:
            ENDING.say()
            return ended
        if not isinstance(error, BAD_INPUT_ERRORS) and type(error).__name__ != "OutOfMemoryError":
            raise

        print(f"Error: {error_text(error)}", file=sys.stderr)  # noqa: T201
        return BAD_INPUT
    return int(code or 0)


def run_command() -> None:
    """Run the command with what was given to this process, and end it."""
    for stream in (sys.stdout, sys.stderr):
        # a file's name need not be UTF-8, and a console may lack the character µ
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # warnings of libraries are for developers; `python -W` shows them again
    sys.exit(execute(sys.argv[1:]))
