"""The verbs demo, doctor, info, pyramid, run and worker."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from napari_msunet.cli.options import DamageOptions, PyramidOptions, RunOptions
from napari_msunet.cli.running import app, run_or_print, show
from napari_msunet.config import Kind, PyramidJob
from napari_msunet.errors import MsunetError

_RUN, _DAMAGE, _PYRAMID = RunOptions(), DamageOptions(), PyramidOptions()


@app.command
def demo(
    *,
    out: Path = Path("demo-output"),
    seconds: float | None = None,
    window: Annotated[bool | None, Parameter(negative="--no-window")] = None,
    close: bool = False,
    json: bool = False,
) -> None:
    """Show what napari-msunet does: train on nuclei, predict a slide, correct it, predict again, export.

    Parameters
    ----------
    out : Path
        Folder for the results; a former demonstration there is replaced.
    seconds : float
        Seconds to train; without it, the demonstration takes a few minutes in all.
    window : bool
        Run it in napari, with screenshots; without this option, it does so where napari and a screen are there.
    close : bool
        Close the window at the end instead of leaving it open.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.app.demo import SECONDS_OF_TRAINING, Stage, demo_events

    stages: list[Any] = []

    def stage(folder: Path) -> Stage:
        # Imported by name, because the command must work where napari is not installed.
        made: Stage = import_module("napari_msunet.widgets.demonstration").WindowStage(folder)
        stages.append(made)
        return made

    in_window = _has_screen() if window is None else window
    events = demo_events(out, seconds or SECONDS_OF_TRAINING, stage if in_window else None)
    show(events, json, lambda: f"What was finished is in {out}.")
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
    from napari_msunet.app.doctor import as_text, examine

    found = examine()
    print(jsonlib.dumps(found, indent=1, ensure_ascii=False) if json else as_text(found))  # noqa: T201


@app.command
def info(
    path: Path,
    *,
    image_kind: Kind | None = None,
    value_range: tuple[float, float] | None = None,
    json: bool = False,
    options: DamageOptions = _DAMAGE,
) -> None:
    """Say what a file or folder is: a slide, a label store or a model.

    Parameters
    ----------
    path : Path
        The file or folder.
    image_kind : "brightfield" or "fluorescence"
        The kind of a slide, where the file does not give it.
    value_range : float float
        The values that are black and white, such as 0 4095, where the file does not give them.
    json : bool
        Print it as JSON.
    """
    from napari_msunet.app.describe import describe
    from napari_msunet.app.doctor import as_text

    found = describe(path, image_kind, value_range)
    if json:
        print(jsonlib.dumps(found, indent=1, ensure_ascii=False))  # noqa: T201
    else:
        flat = {k: [str(v) for v in value] if isinstance(value, list) else value for k, value in found.items()}
        print(as_text(flat))  # noqa: T201
    if found.get("damaged") and options.damaged == "refuse":
        raise MsunetError(" ".join(found["damaged"]))


@app.command
def pyramid(image: Path, *, out: Path, meaning: PyramidOptions = _PYRAMID, options: RunOptions = _RUN) -> None:
    """Write an image as an OME-Zarr 0.5 pyramid, in bounded memory.

    Parameters
    ----------
    image : Path
        A slide, or any image that can be read.
    out : Path
        Folder to make, such as image.ome.zarr.
    """
    run_or_print(lambda: PyramidJob(image=image, out=out, **meaning.values()), options)


@app.command
def run(job: Path, *, options: RunOptions = _RUN) -> None:
    """Run a job from a JSON file, such as the other verbs print with --print-job.

    Parameters
    ----------
    job : Path
        The JSON file.
    """
    from napari_msunet.jobs.run import job_from_json

    run_or_print(lambda: job_from_json(job), options)


@app.command
def worker() -> None:
    """Run jobs for the dock: requests and answers are lines of JSON on the standard input and output.

    The dock starts the worker by itself. To train on another machine, set the command with which the dock starts it,
    such as NAPARI_MSUNET_WORKER="ssh gpu-box napari-msunet worker".
    """
    from napari_msunet.app.worker import main as serve

    serve()
