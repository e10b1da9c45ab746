"""The command `napari-msunet`. Each verb builds a job, runs it and shows its events; nothing more happens here."""

from __future__ import annotations

import json as jsonlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from napari_msunet.cli_options import (
    ModelOptions,
    RunOptions,
    SourceOptions,
    TrainOptions,
    parse_margin,
    parse_region,
)
from napari_msunet.config import (
    EvaluateJob,
    ExportJob,
    Job,
    MeasureJob,
    PredictJob,
    PyramidJob,
    TrainJob,
    explain,
)
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event

BAD_INPUT = 2
"""Exit code when something given cannot be used."""


def _installed_version() -> str:
    import napari_msunet

    return str(napari_msunet.__version__)


_SOURCES, _MODEL, _TRAINING, _RUN = SourceOptions(), ModelOptions(), TrainOptions(), RunOptions()

app = App(
    name="napari-msunet",
    help="Segment large histology images with multi-scale U-Nets.",
    version=_installed_version,
    default_parameter=Parameter(negative=()),
)


@app.command
def demo(
    *,
    out: Path = Path("demo-output"),
    seconds: float | None = None,
    window: Annotated[bool | None, Parameter(negative="--no-window")] = None,
    close: bool = False,
    json: bool = False,
) -> None:
    """Show what this does: train on nuclei, predict a slide, correct it, predict again, export.

    Parameters
    ----------
    out : Path
        Folder for what it leaves; a former demonstration there is replaced.
    seconds : float
        How long to train; a few minutes in all without it.
    window : bool
        Do it in napari, with screenshots; without this, where napari and a screen are there.
    close : bool
        Close the window at the end instead of leaving it open.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.demo import SECONDS_OF_TRAINING, Stage, demo_events

    stages: list[Any] = []

    def stage(folder: Path) -> Stage:
        # By name: the command must work where napari is not installed.
        made: Stage = import_module("napari_msunet.widgets.demonstration").WindowStage(folder)
        stages.append(made)
        return made

    in_window = _has_screen() if window is None else window
    events = demo_events(out, seconds or SECONDS_OF_TRAINING, stage if in_window else None)
    _show(events, json, lambda: f"What was finished is in {out}.")
    for made in stages:
        made.leave(stay=not close)


def _has_screen() -> bool:
    """Whether napari is installed and a window could be seen."""
    screen = sys.platform != "linux" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return screen and find_spec("napari") is not None and find_spec("qtpy") is not None


@app.command
def doctor(*, json: bool = False) -> None:
    """Say what is installed, what this machine has and whether a GPU is used: text to paste into a report.

    Parameters
    ----------
    json : bool
        Print it as JSON.
    """
    from napari_msunet.doctor import as_text, examine

    found = examine()
    print(jsonlib.dumps(found, indent=1, ensure_ascii=False) if json else as_text(found))  # noqa: T201


@app.command
def info(path: Path, *, json: bool = False) -> None:
    """Say what a file or folder is: a slide, a label store or a model.

    Parameters
    ----------
    path : Path
        The file or folder.
    json : bool
        Print it as JSON.
    """
    from napari_msunet.describe import describe
    from napari_msunet.doctor import as_text

    found = describe(path)
    if json:
        print(jsonlib.dumps(found, indent=1, ensure_ascii=False))  # noqa: T201
    else:
        flat = {k: [str(v) for v in value] if isinstance(value, list) else value for k, value in found.items()}
        print(as_text(flat))  # noqa: T201


@app.command
def pyramid(image: Path, *, out: Path, mpp: float | None = None, options: RunOptions = _RUN) -> None:
    """Write an image as an OME-Zarr 0.5 pyramid, in bounded memory.

    Parameters
    ----------
    image : Path
        A slide, or any image that can be read.
    out : Path
        Folder to make, such as image.ome.zarr.
    mpp : float
        µm per pixel, where the file does not say it.
    """
    _execute(lambda: PyramidJob(image=image, out=out, mpp=mpp), options)


@app.command
def train(
    *,
    classes: str,
    out: Path,
    sources: SourceOptions = _SOURCES,
    model: ModelOptions = _MODEL,
    training: TrainOptions = _TRAINING,
    options: RunOptions = _RUN,
) -> None:
    """Train a model on folders of images and masks, on slides with painted labels, or on both.

    Parameters
    ----------
    classes : str
        Names of classes 1, 2, ... with commas; background is not one.
    out : Path
        Folder of the run: the best model (model.safetensors), metrics.csv, curves.png, and what is needed to go on.
    """
    found = sources.sources()
    config = model.config(classes, sources.mpp)
    _execute(lambda: training.job(config, found, out), options)


@app.command
def evaluate(
    *,
    model: Path,
    out: Path | None = None,
    roles: str | None = None,
    device: str = "auto",
    sources: SourceOptions = _SOURCES,
    options: RunOptions = _RUN,
) -> None:
    """Score a model against masks, fused and each scale alone, at the masks' own resolution.

    Parameters
    ----------
    model : Path
        The model.safetensors file.
    out : Path
        Folder for report.json and images.csv.
    roles : str
        Which sources count, with commas, such as test; all without it.
    device : str
        auto, cpu, cuda, cuda:1 or mps.
    """
    wanted: Any = None if roles is None else tuple(roles.split(","))
    _execute(lambda: EvaluateJob(model=model, sources=sources.sources(), roles=wanted, out=out, device=device), options)


@app.command
def predict(
    slide: Path,
    *,
    model: Path,
    out: Path,
    region: str | None = None,
    margin: str = "exact",
    tile: int | None = None,
    batch_size: int = 1,
    probabilities: bool = False,
    probability_dtype: Literal["float16", "float32", "uint8"] = "float16",
    slide_mpp: float | None = None,
    device: str = "auto",
    options: RunOptions = _RUN,
) -> None:
    """Predict a slide, or a region of it, into a label store; what was edited there stays.

    A prediction that was stopped goes on where it stopped when the same command is given again.

    Parameters
    ----------
    slide : Path
        The slide.
    model : Path
        The model.safetensors file.
    out : Path
        Label store, such as labels.ome.zarr; made when it is not there.
    region : str
        y,x,height,width in level-0 pixels of the slide; the whole slide without it.
    margin : str
        exact; fast (half of it, small differences at tile borders); or a number of pixels of the model's resolution.
    tile : int
        Useful side of a tile in pixels of the model's resolution; chosen for the memory there is without it.
    batch_size : int
        Tiles computed at once.
    probabilities : bool
        Keep the probabilities of all classes too.
    probability_dtype : str
        How probabilities are stored.
    slide_mpp : float
        µm per level-0 pixel of the slide, where its file does not say it.
    device : str
        auto, cpu, cuda, cuda:1 or mps.
    """
    _execute(
        lambda: PredictJob(
            slide=slide,
            model=model,
            out=out,
            slide_mpp=slide_mpp,
            region=parse_region(region),
            outputs=("labels", "probabilities") if probabilities else ("labels",),
            margin=parse_margin(margin),
            tile=tile,
            batch_size=batch_size,
            device=device,
            probability_dtype=probability_dtype,
        ),
        options,
    )


@app.command
def measure(labels: Path, *, out: Path, region: str | None = None, options: RunOptions = _RUN) -> None:
    """Measure a label store: area of each class; area, perimeter and place of each object.

    Parameters
    ----------
    labels : Path
        The label store.
    out : Path
        CSV of the objects, such as objects.csv; objects.classes.csv is written beside it.
    region : str
        y,x,height,width in pixels of the label store; all of it without it.
    """
    _execute(lambda: MeasureJob(labels=labels, out=out, region=parse_region(region)), options)


@app.command
def export(labels: Path, *, out: Path, region: str | None = None, options: RunOptions = _RUN) -> None:
    """Write labels in another format, told by the ending of --out.

    Parameters
    ----------
    labels : Path
        The label store.
    out : Path
        A name ending in .geojson (QuPath), .ome.tif (tiled pyramid), .ome.zarr (plain copy) or .png (best of a region).
    region : str
        y,x,height,width in pixels of the label store; all of it without it.
    """
    _execute(lambda: ExportJob(labels=labels, out=out, region=parse_region(region)), options)


@app.command
def run(job: Path, *, options: RunOptions = _RUN) -> None:
    """Run a job from a JSON file, as --print-job of the other verbs prints it.

    Parameters
    ----------
    job : Path
        The JSON file.
    """
    from napari_msunet.jobs import job_from_json

    _execute(lambda: job_from_json(job), options)


@app.command
def worker() -> None:
    """Run jobs for the dock: requests and answers are lines of JSON on the standard input and output.

    The dock starts it by itself. To train on another machine, set the command it starts, such as
    NAPARI_MSUNET_WORKER="ssh gpu-box napari-msunet worker".
    """
    from napari_msunet.worker.process import main as serve

    serve()


def _execute(build: Callable[[], Job], options: RunOptions) -> None:
    """Build a job, then print it or run it."""
    try:
        job = build()
    except ValidationError as error:
        raise explain(error, "What was given") from error
    if options.print_job:
        print(job.model_dump_json(indent=1))  # noqa: T201
        return
    from napari_msunet.jobs import run as run_job

    _show(run_job(job), options.json, lambda: _kept(job))


def _show(events: Iterator[Event], as_json: bool, kept: Callable[[], str]) -> None:
    """Follow a job to its end; after Ctrl-C say what it left."""
    from napari_msunet.allocator import keep_freed_memory
    from napari_msunet.console import Interrupted, follow, show_result

    keep_freed_memory()
    try:
        result = follow(events)
    except (Interrupted, KeyboardInterrupt) as stopped:
        print(f"Stopped. {kept()}", file=sys.stderr)  # noqa: T201
        raise SystemExit(128 + getattr(stopped, "number", signal.SIGINT)) from None
    if result is not None:
        show_result(result, as_json)


def _kept(job: Job) -> str:
    """What a stopped job leaves."""
    if isinstance(job, TrainJob):
        best = job.out / "model.safetensors"
        if best.exists():
            return f"The best model so far is {best}; the same command with --resume goes on."
        return "No epoch was finished, so there is no model yet."
    if isinstance(job, PredictJob) and job.out.exists():
        return f"The finished tiles are kept in {job.out}; the same command goes on where it stopped."
    return "Nothing was written."


def execute(arguments: list[str]) -> int:
    """Run the command with these arguments and give its exit code: 0, or 2 after one sentence about what was given."""
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (MsunetError, CycloptsError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error).__name__ != "OutOfMemoryError":
            raise
        from napari_msunet.console import error_text

        print(f"Error: {error_text(error)}", file=sys.stderr)  # noqa: T201
        return BAD_INPUT
    return 0


def main() -> None:
    """Entry point of the command `napari-msunet`."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries tell developers; `python -W` brings it back
    sys.exit(execute(sys.argv[1:]))


if __name__ == "__main__":
    main()
