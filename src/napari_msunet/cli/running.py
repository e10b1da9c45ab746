"""How the command runs: the job of a verb printed or run, its events shown, errors in one sentence."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, get_args

from cyclopts import App, CoercionError, CycloptsError, Parameter, Token, convert
from pydantic import ValidationError

from napari_msunet.cli.options import RunOptions
from napari_msunet.config import CrossValidateJob, Job, PredictJob, PredictManyJob, TrainJob, explain, with_damaged
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event, Result
from napari_msunet.own_process import ENDING, settle

FAILED = 1
"""Exit code when some of many slides failed."""

BAD_INPUT = 2
"""Exit code when something given cannot be used."""

BAD_INPUT_ERRORS = (MsunetError, CycloptsError, OSError, MemoryError)
"""What becomes one sentence; any other error is a fault of ours, and shows where it is."""


def _installed_version() -> str:
    import napari_msunet

    return str(napari_msunet.__version__)


def _read(kind: Any, tokens: Sequence[Token]) -> Any:
    """What cyclopts reads of the words of an option; but it rounds 2.5 where a whole number is wanted."""
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
    from napari_msunet.jobs import run as run_job

    return show(run_job(job), options.json, lambda: _kept(job))


def show(events: Iterator[Event], as_json: bool, kept: Callable[[], str]) -> Result | None:
    """Follow a job to its end, and give its result; after Ctrl-C say what it left."""
    from napari_msunet.console import follow, show_result

    settle()
    ENDING.left = kept
    result = follow(events)
    ENDING.left = lambda: ""
    if result is not None:
        show_result(result, as_json)
    return result


def warn_of(texts: Iterable[str]) -> None:
    """Say what was left out, as the warnings of a job are said."""
    for text in texts:
        print(f"Warning: {text}", file=sys.stderr)  # noqa: T201


def _kept(job: Job) -> str:
    """What a stopped job leaves."""
    if isinstance(job, TrainJob):
        best = job.out / "model.safetensors"
        if best.exists():
            return f"The best model so far is {best}; the same command with --resume goes on."
        return "No epoch was finished, so there is no model yet."
    if isinstance(job, CrossValidateJob) and job.out.exists():
        return f"The finished folds are kept in {job.out}; the same command with --resume goes on."
    if isinstance(job, PredictJob) and job.out.exists():
        return f"The finished tiles are kept in {job.out}; the same command goes on where it stopped."
    if isinstance(job, PredictManyJob):
        return f"What is finished is in {job.out}; the same command goes on where it stopped."
    return "Nothing was written."


def _in_todays_names(arguments: Sequence[str]) -> list[str]:
    """The arguments with the options of earlier versions as they are called now."""
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

    0; 1 where some of many slides failed; 2 after one sentence about what was given; 130 and 143 after Ctrl-C and
    SIGTERM, once all is closed.
    """
    code = 0
    try:
        code = app(_in_todays_names(arguments), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except BaseException as error:
        if (ended := ENDING.code(error)) is not None:
            ENDING.say()
            return ended
        if not isinstance(error, BAD_INPUT_ERRORS) and type(error).__name__ != "OutOfMemoryError":
            raise
        from napari_msunet.console import error_text

        print(f"Error: {error_text(error)}", file=sys.stderr)  # noqa: T201
        return BAD_INPUT
    return int(code or 0)


def run_command() -> None:
    """Run the command with what was given to this process, and end it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name need not be UTF-8, nor a console know our µ
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries tell developers; `python -W` brings it back
    sys.exit(execute(sys.argv[1:]))
