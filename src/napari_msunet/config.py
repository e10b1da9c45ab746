"""What a person decides, as data: the model and the jobs. Frozen pydantic models, checked when made, saved as JSON."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import as_scale, common_alignment

SCHEMA_VERSION: Literal[1] = 1

Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Mpp: TypeAlias = Positive | tuple[Positive, Positive]
Fusion: TypeAlias = Literal["mean", "weighted", "max", "concat", "attention"]
Margin: TypeAlias = Literal["exact", "fast"] | Annotated[int, Field(ge=0)]
Device: TypeAlias = str

MAX_CLASSES = 254


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Versioned(_Frozen):
    schema_version: int = SCHEMA_VERSION

    @field_validator("schema_version")
    @classmethod
    def _known(cls, version: int) -> int:
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"this was written by a newer napari-msunet (schema {version}; this one knows {SCHEMA_VERSION}): "
                "update it"
            )
        return version


# ---------------------------------------------------------------------------------------------------------- the model


class UNetConfig(_Frozen):
    """A U-Net branch.

    Attributes
    ----------
    depth : int
        Number of poolings; the stride is ``2 ** depth``.
    width : int
        Channels at the branch's finest resolution; they double at each pooling.
    dropout : float
        Share of channels dropped at the bottleneck while training.
    """

    kind: Literal["unet"] = "unet"
    depth: int = Field(4, ge=1, le=6)
    width: int = Field(16, ge=1, le=256)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def stride(self) -> int:
        """Branch pixels after which the network repeats its phase."""
        return int(2**self.depth)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, finest first; `depth + 1` numbers."""
        return tuple(self.width * 2**level for level in range(self.depth + 1))


class Normalisation(_Frozen):
    """The model's first layer: ``(input - mean) / std`` for each channel, inputs in 0..1."""

    mean: tuple[float, ...]
    std: tuple[Positive, ...]


class ModelConfig(_Versioned):
    """A multi-scale U-Net.

    Attributes
    ----------
    classes : tuple of str
        Names of classes 1..K; background (0) is not named.
    mpp : float
        µm per pixel at which the model works: the target grid, and the resolution of scale 1.
    scales : tuple of float
        Resolution of each branch relative to the model's own: 0.5 sees half as many pixels a side. Each is a ratio of
        integers up to 8.
    fusion : str
        How the branches are combined: "mean", "weighted", "max" (of probabilities), "concat", "attention"
        (of features).
    channels : int
        Image channels.
    shared : bool
        One network for all scales instead of one each.
    branch : UNetConfig or tuple of UNetConfig
        One for all scales, or one per scale.
    field : str
        What a branch of a scale below 1 sees in training: "same" (the same field of view) or "concentric" (as many
        pixels as the target, so more context around the same centre).
    normalisation : Normalisation, optional
        None until a training fits it to its images.
    """

    classes: tuple[str, ...]
    mpp: Positive
    scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    fusion: Fusion = "attention"
    channels: int = Field(3, ge=1)
    shared: bool = False
    branch: UNetConfig | tuple[UNetConfig, ...] = UNetConfig()
    field: Literal["same", "concentric"] = "same"
    normalisation: Normalisation | None = None

    @field_validator("classes")
    @classmethod
    def _classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(classes) <= MAX_CLASSES or len(set(classes)) != len(classes) or not all(classes):
            raise ValueError(f"give 1 to {MAX_CLASSES} different class names (background is not one), not {classes}")
        return classes

    @field_validator("scales")
    @classmethod
    def _scales(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        ratios = [as_scale(s) for s in scales]
        if not ratios or len(set(ratios)) != len(ratios):
            raise ValueError(f"give one or more different scales, not {scales}")
        return tuple(float(r) for r in ratios)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.branch, tuple) and len(self.branch) != len(self.scales):
            raise ValueError(
                f"{len(self.branch)} branch configs for {len(self.scales)} scales: give one for all, or one per scale"
            )
        if self.shared and len(set(self.branches)) != 1:
            raise ValueError("branches that share their weights need the same branch config: give one for all scales")
        if self.normalisation and not len(self.normalisation.mean) == len(self.normalisation.std) == self.channels:
            raise ValueError(f"the normalisation needs one mean and one std for each of the {self.channels} channels")
        return self

    @property
    def ratios(self) -> tuple[Fraction, ...]:
        """The scales as exact ratios."""
        return tuple(as_scale(s) for s in self.scales)

    @property
    def branches(self) -> tuple[UNetConfig, ...]:
        """One config per scale."""
        return self.branch if isinstance(self.branch, tuple) else (self.branch,) * len(self.scales)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs in reports: ``"fused"``, then one per scale, such as ``"scale 1/2"``."""
        return ("fused", *(f"scale {r}" for r in self.ratios))

    @property
    def size_multiple(self) -> int:
        """Target window sizes that need no padding are multiples of this; it is also the alignment of tiles."""
        return common_alignment(self.ratios, tuple(b.stride for b in self.branches))


# --------------------------------------------------------------------------------------------- where truth comes from

Role = Literal["auto", "train", "validate", "test"]
MaskValues = Literal["classes", "instances"] | dict[int, str]


class _Source(_Frozen):
    role: Role = "auto"
    mpp: Mpp | None = None


class FolderSource(_Source):
    """Folders of images and masks, paired by the name without its ending.

    Attributes
    ----------
    images, masks : Path
        Two folders (may be the same one with `mask_suffix`).
    mpp : float or pair, optional
        µm per pixel of all images, when neither the files nor `table` give it.
    values : "classes", "instances" or dict
        What mask values mean: class numbers 1..K; instances of the first class (0 background); or ``{value: class}``,
        where "background" is 0. With one class, 0/255 is read as 0/1.
    table : Path, optional
        CSV with a column `name` (or `image`), and if wanted `mpp` and the column named by `group`.
    group : str, optional
        A column of `table`, or a regular expression over the image's name whose first group (or whole match) is the
        group: images of one group never stand on both sides of a split.
    """

    kind: Literal["folder"] = "folder"
    images: Path
    masks: Path
    mask_suffix: str = ""
    values: MaskValues = "classes"
    table: Path | None = None
    group: str | None = None


class SlideSource(_Source):
    """A slide with an annotation store (0 not annotated, 255 background) or a label store (0 is background).

    Attributes
    ----------
    edited_only : bool
        Only pixels that a person changed are true, all others are ignored: for a corrected prediction.
    """

    kind: Literal["slide"] = "slide"
    slide: Path
    labels: Path
    group: str | None = None
    edited_only: bool = False


Source = Annotated[FolderSource | SlideSource, Field(discriminator="kind")]


# ------------------------------------------------------------------------------------------------------------ the jobs


class Augmentation(_Frozen):
    """Random changes of training windows, one transform shared by all scales.

    Attributes
    ----------
    flip : bool
        Mirror images and quarter turns.
    rotate : float
        Largest rotation in degrees.
    scale : float
        Largest change of size: 0.2 draws from 1/1.2 to 1.2.
    brightness, contrast, stain : float
        Largest relative change; `stain` jitters haematoxylin, eosin and residual (RGB only).
    """

    flip: bool = True
    rotate: Annotated[float, Field(ge=0, le=180)] = 180.0
    scale: Annotated[float, Field(ge=0, le=1)] = 0.2
    brightness: Share = 0.1
    contrast: Share = 0.1
    stain: Share = 0.1


class LossConfig(_Frozen):
    """Cross-entropy + Dice on the fused output, and a weight on each branch's own.

    At a weight of 0 a branch's head still learns, on detached features.
    """

    cross_entropy: Annotated[float, Field(ge=0)] = 1.0
    dice: Annotated[float, Field(ge=0)] = 1.0
    branch: Annotated[float, Field(ge=0)] | tuple[Annotated[float, Field(ge=0)], ...] = 0.4

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.cross_entropy + self.dice <= 0:
            raise ValueError("both loss weights are zero: give cross_entropy or dice a weight above zero")
        return self


class Optimiser(_Frozen):
    """AdamW with a schedule, and when to stop early.

    Attributes
    ----------
    schedule : str
        "plateau" (halve the learning rate after `patience` epochs without a better validation loss), "cosine" or
        "constant".
    stop_after : int
        Epochs without a better validation IoU before training stops.
    """

    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    schedule: Literal["plateau", "cosine", "constant"] = "plateau"
    patience: Annotated[int, Field(ge=1)] = 8
    stop_after: Annotated[int, Field(ge=1)] = 25


class TrainJob(_Versioned):
    """Train a model.

    Attributes
    ----------
    model : ModelConfig
    sources : tuple of FolderSource or SlideSource
    out : Path
        Folder of the run: job.json, metrics.csv, curves.png, model.safetensors (the best), last.ckpt.
    size : int
        Side of a training window in target pixels; rounded up to the model's size multiple.
    border : int
        Target pixels at the window's edge that carry no loss.
    epochs, steps : int
        `steps` batches make an epoch; None: about one look at each training image or annotated window.
    time_limit : float, optional
        Seconds after which training ends with the best model so far.
    validation : float
        Share of the groups of sources with role "auto" that validates.
    resume : bool
        Go on from `out`'s last checkpoint.
    """

    job: Literal["train"] = "train"
    model: ModelConfig
    sources: tuple[Source, ...] = Field(min_length=1)
    out: Path
    size: int = Field(256, ge=16)
    border: int = Field(0, ge=0)
    batch_size: int = Field(8, ge=1)
    epochs: int = Field(100, ge=1)
    steps: int | None = Field(None, ge=1)
    time_limit: Positive | None = None
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    augmentation: Augmentation = Augmentation()
    loss: LossConfig = LossConfig()
    optimiser: Optimiser = Optimiser()
    seed: int = 0
    device: Device = "auto"
    resume: bool = False


class PredictJob(_Versioned):
    """Predict a slide, or a region of it, into a label store.

    Attributes
    ----------
    slide, model, out : Path
    slide_mpp : float or pair, optional
        µm per level-0 pixel, when the file does not give it.
    region : tuple of float, optional
        `y, x, height, width` in level-0 pixels; None: the whole slide.
    outputs : tuple of str
        "labels", "probabilities".
    margin : "exact", "fast" or int
        "fast" is half the exact margin; a number is target pixels, rounded up to each branch's alignment.
    tile : int, optional
        Useful side of a tile in target pixels, rounded up to the alignment; None: chosen for the memory allowed.
    probability_dtype : str
        "float16", "float32" or "uint8".
    """

    job: Literal["predict"] = "predict"
    slide: Path
    model: Path
    out: Path
    slide_mpp: Mpp | None = None
    region: tuple[float, float, float, float] | None = None
    outputs: tuple[Literal["labels", "probabilities"], ...] = ("labels",)
    margin: Margin = "exact"
    tile: Annotated[int, Field(ge=1)] | None = None
    batch_size: int = Field(1, ge=1)
    device: Device = "auto"
    probability_dtype: Literal["float16", "float32", "uint8"] = "float16"


class PreviewJob(_Versioned):
    """What each scale and the fusion see in a region, as maps in a folder: nothing is merged into any labels.

    Attributes
    ----------
    out : Path
        A zarr group with float16 arrays "fused" and "scale 1/2" ... `(K+1, h, w)` of probabilities, and "weights"
        `(k, h, w)`: what the fusion gives to each scale at each pixel, where it has such weights. Replaced if there.
    region : tuple of float
        `y, x, height, width` in level-0 pixels.
    """

    job: Literal["preview"] = "preview"
    slide: Path
    model: Path
    out: Path
    slide_mpp: Mpp | None = None
    region: tuple[float, float, float, float]
    device: Device = "auto"


class EvaluateJob(_Versioned):
    """Score a model against masks, each scale alone and fused, at the masks' own resolution.

    Attributes
    ----------
    roles : tuple of str, optional
        Which sources count, such as ("test",); None: all.
    out : Path, optional
        Folder for report.json and images.csv.
    """

    job: Literal["evaluate"] = "evaluate"
    model: Path
    sources: tuple[Source, ...] = Field(min_length=1)
    roles: tuple[Role, ...] | None = None
    out: Path | None = None
    device: Device = "auto"


class MeasureJob(_Versioned):
    """Area of each class, and area, perimeter and place of each object of a label store, as CSV."""

    job: Literal["measure"] = "measure"
    labels: Path
    out: Path
    region: tuple[float, float, float, float] | None = None


class ExportJob(_Versioned):
    """Write labels in another format, told by the ending of `out`.

    Attributes
    ----------
    out : Path
        ``.geojson`` (QuPath, level-0 pixels of the slide), ``.ome.tif`` (tiled pyramid), ``.ome.zarr`` (a plain copy),
        ``.png`` (one region).
    region : tuple of float, optional
        `y, x, height, width` in the store's level-0 pixels.
    """

    job: Literal["export"] = "export"
    labels: Path
    out: Path
    region: tuple[float, float, float, float] | None = None


class PyramidJob(_Versioned):
    """Write an image as an OME-Zarr 0.5 pyramid."""

    job: Literal["pyramid"] = "pyramid"
    image: Path
    out: Path
    mpp: Mpp | None = None


Job = Annotated[
    TrainJob | PredictJob | PreviewJob | EvaluateJob | MeasureJob | ExportJob | PyramidJob, Field(discriminator="job")
]
"""Any job."""


def explain(error: Any, what: str) -> MsunetError:
    """A pydantic `ValidationError` as one sentence about `what`."""
    parts = []
    for item in error.errors():
        # pydantic puts the kinds of a union into the place too ("literal['exact']"): they help nobody
        where = ".".join(str(p) for p in item["loc"] if isinstance(p, int) or p.isidentifier())
        reason = str(item["msg"]).removeprefix("Value error, ").rstrip(".")
        parts.append(f"{where}: {reason}" if where else reason)
    return MsunetError(f"{what} cannot be used: {'; '.join(parts)}.")
