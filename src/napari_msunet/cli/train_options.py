"""The options of `train` and `evaluate` that belong together, and the jobs' parts they make."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter
from pydantic import ValidationError

from napari_msunet.cli.learning_options import LearningOptions
from napari_msunet.cli.source_options import SourceOptions as SourceOptions  # beside the others
from napari_msunet.config import (
    Fusion,
    ModelConfig,
    TrainJob,
    UNetConfig,
    explain,
)
from napari_msunet.errors import MsunetError

# Defaults are those of the jobs, so that the help always says what happens.
_MODEL, _UNET, _TRAIN = ModelConfig.model_fields, UNetConfig.model_fields, TrainJob.model_fields

_SAME_NAMES = (
    "size",
    "border",
    "batch_size",
    "epochs",
    "steps",
    "time_limit",
    "validation",
    "seed",
    "device",
    "resume",
    "track_uri",
    "start",
    "replay",
    "replaces",
    "devices",
    "nodes",
    "strategy",
    "find_batch_size",
    "find_learning_rate",
)
"""Options that are fields of a `TrainJob` as they are."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model.

    Attributes
    ----------
    model_mpp : float
        µm per pixel at which the model works and labels are made; without it, that of --mpp.
    scales : str
        Resolutions of the branches relative to the model's own, such as 1,1/2,1/4; ratios of whole numbers up to 8.
    fusion : str
        How the branches are combined.
    depth : str
        Poolings of a branch's U-Net: one number, or one for each scale, such as 2,3,4.
    width : str
        Channels at a branch's finest resolution: one number, or one for each scale, such as 8,16,32.
    dropout : float
        Share (0..1) of channels dropped at the bottleneck while training.
    shared : bool
        One network for all scales instead of one each.
    field : str
        What a branch of a scale below 1 sees in training: the same field of view, or (concentric) more context.
    upscale : int
        2: the output is twice as fine as --model-mpp, by a learned sub-pixel head.
    finest_scale : str
        Largest scale that images are read at, such as 1; larger --scales are brought up from it by a learned stem.
    channels : int
        Channels of the images.
    """

    model_mpp: float | None = None
    scales: str = "1,1/2,1/4"
    fusion: Fusion = _MODEL["fusion"].default
    depth: str = str(_UNET["depth"].default)
    width: str = str(_UNET["width"].default)
    dropout: float = _UNET["dropout"].default
    shared: bool = False
    field: Literal["same", "concentric"] = "same"
    upscale: Literal[1, 2] = 1
    finest_scale: str | None = None
    channels: int = 3

    def config(self, classes: str, images_mpp: float | None) -> ModelConfig:
        """The model's config; `MsunetError` where something cannot be used."""
        mpp = self.model_mpp if self.model_mpp is not None else images_mpp
        if mpp is None:
            raise MsunetError("The model's resolution is not given; say --model-mpp with µm per pixel, such as 0.5.")
        scales = parse_scales(self.scales)
        depths = _one_or_each("--depth", self.depth, len(scales))
        widths = _one_or_each("--width", self.width, len(scales))
        try:
            branches = tuple(
                UNetConfig(depth=d, width=w, dropout=self.dropout) for d, w in zip(depths, widths, strict=True)
            )
            return ModelConfig(
                classes=tuple(name.strip() for name in classes.split(",")),
                mpp=mpp,
                scales=tuple(float(s) for s in scales),
                fusion=self.fusion,
                channels=self.channels,
                shared=self.shared,
                branch=branches[0] if len(set(branches)) == 1 else branches,
                field=self.field,
                upscale=self.upscale,
                finest_scale=None if self.finest_scale is None else float(parse_scales(self.finest_scale)[0]),
            )
        except ValidationError as error:
            raise explain(error, "The model") from error


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions(LearningOptions):
    """How to train.

    Attributes
    ----------
    size : int
        Side of a training window in pixels of the model's resolution; rounded up to what the branches need.
    border : int
        Pixels at the edge of a training window that carry no loss.
    batch_size : int
        Windows per step.
    epochs : int
        Most epochs.
    steps : int
        Steps per epoch; without it, about one look at each image.
    time_limit : float
        Seconds after which training ends with the best model so far.
    validation : float
        Share (0..1) of the groups that validates.
    seed : int
        Of everything random.
    device : str
        auto, cpu, cuda, cuda:1 or mps.
    resume : bool
        Go on with the run in --out where it stopped.
    start : Path
        Model file whose weights training begins with (fine-tuning); of the same scales, fusion, branches, channels.
    replay : float
        Share (0..1) of each batch from what is no correction, where there are corrections.
    replaces : Path
        Model file that the new one is to replace: its frozen test images never train, and judge both at the end.
    devices : int
        Devices of each machine that train together, each on --batch-size windows a step.
    nodes : int
        Machines; start the job on each by srun or torchrun.
    strategy : str
        How devices work together: Lightning's ddp.
    find_batch_size : bool
        Take the largest batch that fits instead of --batch-size.
    find_learning_rate : bool
        Take the learning rate at which the loss falls fastest instead of --learning-rate.
    track : str
        Who else is told, with commas: tensorboard (in the run's folder), mlflow.
    track_uri : str
        Folder or server of MLflow; without it, in the run's folder.
    """

    size: int = _TRAIN["size"].default
    border: int = _TRAIN["border"].default
    batch_size: int = _TRAIN["batch_size"].default
    epochs: int = _TRAIN["epochs"].default
    steps: int | None = None
    time_limit: float | None = None
    validation: float = _TRAIN["validation"].default
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    start: Path | None = None
    replay: float | None = None
    replaces: Path | None = None
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    find_batch_size: bool = False
    find_learning_rate: bool = False
    track: str | None = None
    track_uri: str | None = None

    def job(self, model: ModelConfig, sources: tuple[Any, ...], out: Path) -> TrainJob:
        """The training job; `MsunetError` where something cannot be used."""
        try:
            return TrainJob(
                model=model,
                sources=sources,
                out=out,
                **{name: getattr(self, name) for name in _SAME_NAMES},
                track=() if self.track is None else tuple(name.strip() for name in self.track.split(",")),
                **self.fields(),
            )
        except ValidationError as error:
            raise explain(error, "The training") from error


def parse_scales(text: str) -> tuple[Fraction, ...]:
    """Scales from ``"1,1/2,0.25"``; whether they can be used, `ModelConfig` says."""
    try:
        return tuple(Fraction(part.strip()) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise MsunetError(f"The scales {text!r} are no numbers; give ratios with commas, such as 1,1/2,1/4.") from None


def _one_or_each(name: str, text: str, count: int) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, count):
        raise MsunetError(
            f"{name} {text!r} cannot be used; give one whole number, or one for each of the {count} scales."
        )
    return numbers * count if len(numbers) == 1 else numbers
