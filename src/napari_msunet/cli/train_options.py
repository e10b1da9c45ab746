"""The options of `train` and `evaluate` that belong together, and the jobs' parts they make."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import TypeAdapter, ValidationError

from napari_msunet.config import (
    Augmentation,
    FolderSource,
    Fusion,
    LossConfig,
    ModelConfig,
    Optimiser,
    Role,
    SlideSource,
    Source,
    TrainJob,
    UNetConfig,
    explain,
)
from napari_msunet.errors import MsunetError

_SOURCE: TypeAdapter[Any] = TypeAdapter(Source)


_EMPTY = Parameter(show_default=False, negative=())

# Defaults are those of the jobs, so that the help always says what happens.
_MODEL, _UNET, _TRAIN = ModelConfig.model_fields, UNetConfig.model_fields, TrainJob.model_fields
_OPTIMISER, _LOSS = Optimiser.model_fields, LossConfig.model_fields

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
    "start",
    "replay",
    "replaces",
)
"""Options that are fields of a `TrainJob` as they are."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where images and their truth come from.

    Attributes
    ----------
    images : path
        Folder of images; give it several times for several folders, each with its --masks.
    masks : path
        Folder of masks, paired with the images by name.
    mask_suffix : str
        What a mask's name has after the image's name, such as _mask.
    mpp : float
        µm per pixel of the images, when neither the files nor --table say it.
    values : str
        What mask values mean: classes (numbers 1..K), instances (objects of the first class), or pairs such as
        1=gland,2=stroma,0=background.
    table : path
        CSV with a column name (or image), and if wanted mpp and the --group column.
    group : str
        Column of --table, or a regular expression over the image's name, that says which images (of a patient, a slide)
        must stay on one side of the split.
    role : str
        What the images are for: auto lets --validation split them by group.
    slide : path
        A slide with painted labels; give it several times, each with its --labels.
    labels : path
        Label store of the --slide: an annotation (0 not annotated, 255 background) or labels.
    source : str
        A source as JSON, or the path of a JSON file that holds one or a list of them; for folders that differ in mpp,
        values or role. Can be given several times.
    """

    images: Annotated[tuple[Path, ...], _EMPTY] = ()
    masks: Annotated[tuple[Path, ...], _EMPTY] = ()
    mask_suffix: Annotated[str, _EMPTY] = ""
    mpp: float | None = None
    values: str = "classes"
    table: Path | None = None
    group: str | None = None
    role: Role = "auto"
    slide: Annotated[tuple[Path, ...], _EMPTY] = ()
    labels: Annotated[tuple[Path, ...], _EMPTY] = ()
    source: Annotated[tuple[str, ...], _EMPTY] = ()

    def sources(self) -> tuple[Any, ...]:
        """The sources, folders first.

        Raises
        ------
        MsunetError
            If nothing is given, or folders and masks, slides and labels do not pair up.
        """
        _pair("--images", self.images, "--masks", self.masks)
        _pair("--slide", self.slide, "--labels", self.labels)
        common: dict[str, Any] = {"mpp": self.mpp, "group": self.group, "role": self.role}
        try:
            folders = [
                FolderSource(
                    images=images,
                    masks=masks,
                    mask_suffix=self.mask_suffix,
                    values=parse_values(self.values),
                    table=self.table,
                    **common,
                )
                for images, masks in zip(self.images, self.masks, strict=True)
            ]
            slides = [
                SlideSource(slide=slide, labels=labels, **common)
                for slide, labels in zip(self.slide, self.labels, strict=True)
            ]
        except ValidationError as error:
            raise explain(error, "What says where the images are") from error
        found = (*folders, *slides, *(s for text in self.source for s in parse_source(text)))
        if not found:
            raise MsunetError(
                "No images are given; say --images FOLDER --masks FOLDER, or --slide FILE --labels STORE, or --source."
            )
        return found


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
class TrainOptions:
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
    learning_rate : float
        Of AdamW.
    weight_decay : float
        Of AdamW.
    schedule : str
        Plateau halves the learning rate after --patience epochs without a better validation loss.
    patience : int
        Epochs.
    stop_after : int
        Epochs without a better validation IoU after which training stops.
    branch_loss : float
        Weight of each branch's own loss beside the fused one's.
    augment : bool
        Change training windows at random (flips, rotation, scale, brightness, contrast, stain).
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
    """

    size: int = _TRAIN["size"].default
    border: int = _TRAIN["border"].default
    batch_size: int = _TRAIN["batch_size"].default
    epochs: int = _TRAIN["epochs"].default
    steps: int | None = None
    time_limit: float | None = None
    validation: float = _TRAIN["validation"].default
    learning_rate: float = _OPTIMISER["learning_rate"].default
    weight_decay: float = _OPTIMISER["weight_decay"].default
    schedule: Literal["plateau", "cosine", "constant"] = "plateau"
    patience: int = _OPTIMISER["patience"].default
    stop_after: int = _OPTIMISER["stop_after"].default
    branch_loss: float = _LOSS["branch"].default
    augment: Annotated[bool, Parameter(negative="--no-augment")] = True
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    start: Path | None = None
    replay: float | None = None
    replaces: Path | None = None

    def job(self, model: ModelConfig, sources: tuple[Any, ...], out: Path) -> TrainJob:
        """The training job; `MsunetError` where something cannot be used."""
        still = Augmentation(flip=False, rotate=0, scale=0, brightness=0, contrast=0, stain=0)
        try:
            return TrainJob(
                model=model,
                sources=sources,
                out=out,
                augmentation=Augmentation() if self.augment else still,
                loss=LossConfig(branch=self.branch_loss),
                optimiser=Optimiser(
                    learning_rate=self.learning_rate,
                    weight_decay=self.weight_decay,
                    schedule=self.schedule,
                    patience=self.patience,
                    stop_after=self.stop_after,
                ),
                **{name: getattr(self, name) for name in _SAME_NAMES},
            )
        except ValidationError as error:
            raise explain(error, "The training") from error


def parse_scales(text: str) -> tuple[Fraction, ...]:
    """Scales from ``"1,1/2,0.25"``; whether they can be used, `ModelConfig` says."""
    try:
        return tuple(Fraction(part.strip()) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise MsunetError(f"The scales {text!r} are no numbers; give ratios with commas, such as 1,1/2,1/4.") from None


def parse_values(text: str) -> Any:
    """What mask values mean, from ``"classes"``, ``"instances"`` or ``"1=gland,2=stroma"``."""
    if text in ("classes", "instances"):
        return text
    try:
        pairs = [part.split("=", 1) for part in text.split(",")]
        return {int(value): name.strip() for value, name in pairs}
    except ValueError:
        raise MsunetError(
            f"--values {text!r} cannot be read; give classes, instances, or pairs such as 1=gland,2=stroma."
        ) from None


def parse_source(text: str) -> list[Any]:
    """The sources in a piece of JSON, or in a JSON file."""
    given = text.lstrip()
    if not given.startswith(("{", "[")):
        try:
            given = Path(text).read_text(encoding="utf8")
        except (OSError, UnicodeDecodeError) as error:
            raise MsunetError(f"The source file {text} cannot be read ({error}); give JSON or a JSON file.") from error
    try:
        found = json.loads(given)
        return [_SOURCE.validate_python(source) for source in (found if isinstance(found, list) else [found])]
    except json.JSONDecodeError as error:
        raise MsunetError(
            f"--source {text!r} is no JSON ({error}); give an object with a kind, folder or slide."
        ) from None
    except ValidationError as error:
        raise explain(error, f"--source {text!r}") from error


def _pair(one: str, first: tuple[Path, ...], other: str, second: tuple[Path, ...]) -> None:
    if len(first) != len(second):
        raise MsunetError(
            f"{one} was given {len(first)} times and {other} {len(second)} times; give one {other} for each."
        )


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
