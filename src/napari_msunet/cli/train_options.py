"""The options of `train` and `evaluate` that belong together, and the jobs' parts they make."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter
from pydantic import ValidationError

from napari_msunet.cli.learning_options import LearningOptions
from napari_msunet.cli.options import PixelSizeOption
from napari_msunet.cli.source_options import SourceOptions as SourceOptions  # beside the others
from napari_msunet.config import (
    AutoModel,
    Fusion,
    TrainJob,
    UNetConfig,
    explain,
)
from napari_msunet.errors import MsunetError

# Defaults are those of the jobs, so that the help always says what happens.
_UNET, _TRAIN = UNetConfig.model_fields, TrainJob.model_fields

_SAME_NAMES = (
    "size",
    "border",
    "batch_size",
    "epochs",
    "steps",
    "time_limit",
    "clock",
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
    """The model. What is not given is chosen from the images; the reasons are said.

    Attributes
    ----------
    model_mpp : float
        µm per pixel at which the model works and labels are made; px: it works in pixels of the images, for images
        without a size in µm.
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

    model_mpp: PixelSizeOption | None = None
    scales: str | None = None
    fusion: Fusion | None = None
    depth: str | None = None
    width: str | None = None
    dropout: float | None = None
    shared: bool | None = None
    field: Literal["same", "concentric"] | None = None
    upscale: Literal[1, 2] | None = None
    finest_scale: str | None = None
    channels: int | None = None

    def config(self, classes: str) -> AutoModel:
        """What is given of the model; `MsunetError` where something cannot be used."""
        scales = None if self.scales is None else tuple(float(s) for s in parse_scales(self.scales))
        try:
            return AutoModel(
                classes=tuple(name.strip() for name in classes.split(",")),
                mpp=self.model_mpp,
                scales=scales,
                branch=self._branch(len(scales or (1.0,))),
                finest_scale=None if self.finest_scale is None else float(parse_scales(self.finest_scale)[0]),
                **{name: getattr(self, name) for name in ("fusion", "channels", "shared", "field", "upscale")},
            )
        except ValidationError as error:
            raise explain(error, "The model") from error

    def _branch(self, count: int) -> UNetConfig | tuple[UNetConfig, ...] | None:
        """The networks, where anything is said of them."""
        if self.depth is None and self.width is None and self.dropout is None:
            return None
        depths = _one_or_each("--depth", self.depth or str(_UNET["depth"].default), count)
        widths = _one_or_each("--width", self.width or str(_UNET["width"].default), count)
        branches = tuple(
            UNetConfig(depth=d, width=w, dropout=self.dropout or 0.0) for d, w in zip(depths, widths, strict=True)
        )
        return branches[0] if len(set(branches)) == 1 else branches


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions(LearningOptions):
    """How to train.

    Attributes
    ----------
    size : int
        Side of a training window in pixels of the model's resolution; chosen to fit the images without it.
    border : int
        Pixels at the edge of a training window that carry no loss.
    batch_size : int
        Windows per step; 8 without it.
    epochs : int
        Most epochs; without it, until --time-limit is up, or 100.
    steps : int
        Steps per epoch; without it, about one look at each image.
    time_limit : float
        Seconds after which training ends.
    clock : str
        What --time-limit counts: seconds that pass (wall), or what this process takes of all processors (processor).
    validation : float
        Share (0..1) of the groups that validates. Without it: none where there is a --time-limit (everything trains,
        an average of the last weights is kept), else 0.2 (the best epoch is kept).
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

    size: int | None = None
    border: int = _TRAIN["border"].default
    batch_size: int | None = None
    epochs: int | None = None
    steps: int | None = None
    time_limit: float | None = None
    clock: Literal["wall", "processor"] = "wall"
    validation: float | None = None
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

    def job(self, model: AutoModel, sources: tuple[Any, ...], out: Path) -> TrainJob:
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
