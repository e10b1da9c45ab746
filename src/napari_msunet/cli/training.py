"""The verbs of training: train, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_msunet.cli.options import RunOptions
from napari_msunet.cli.running import app, run_or_print
from napari_msunet.cli.train_options import ModelOptions, SourceOptions, TrainOptions
from napari_msunet.config import EvaluateJob

_SOURCES, _MODEL, _TRAINING, _RUN = SourceOptions(), ModelOptions(), TrainOptions(), RunOptions()


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
    run_or_print(lambda: training.job(config, found, out), options)


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
    run_or_print(
        lambda: EvaluateJob(model=model, sources=sources.sources(), roles=wanted, out=out, device=device), options
    )
