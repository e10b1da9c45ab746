"""The verbs of training: train, evaluate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from napari_msunet.cli.options import RunOptions
from napari_msunet.cli.running import app, run_or_print
from napari_msunet.cli.train_options import ModelOptions, SourceOptions, TrainOptions, parse_scales
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
    config = model.config(classes)
    run_or_print(lambda: training.job(config, found, out), options)


@app.command
def evaluate(
    *,
    model: Path,
    out: Path | None = None,
    roles: str | None = None,
    instances: Literal["none", "connected", "parted"] = "none",
    test_scales: str | None = None,
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
    instances : str
        Score instances too: the prediction's connected pieces, or these parted where they touch.
    test_scales : str
        Also show the images at these scales of the model's resolution, with commas, such as 0.25,0.5,1,2.
    device : str
        auto, cpu, cuda, cuda:1 or mps.
    """
    wanted: Any = None if roles is None else tuple(roles.split(","))
    made = partial(EvaluateJob, model=model, roles=wanted, out=out, instances=instances, device=device)
    run_or_print(
        lambda: made(sources=sources.sources(), test_scales=() if test_scales is None else parse_scales(test_scales)),
        options,
    )
