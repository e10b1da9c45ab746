"""Prediction as data: what is computed, where, how exactly, and what becomes of the probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from napari_msunet.config.base import Damaged, Device, Frozen, GivenRange, Kind, PixelSize, Positive, Versioned
from napari_msunet.config.cluster import Cluster

Margin: TypeAlias = Literal["exact", "fast"] | Annotated[int, Field(ge=0)]

Output: TypeAlias = Literal["labels", "probabilities", "disagreement", "entropy", "instances"]

ProbabilityType: TypeAlias = Literal["float16", "float32", "uint8"]

_Area: TypeAlias = Annotated[float, Field(ge=0)]


class Drawn(Frozen):
    """Only inside polygons.

    Attributes
    ----------
    polygons : tuple of rings
        Each ring a tuple of `(y, x)` points in level-0 pixels of the slide. Those outside the slide are left out, with
        a message.
    left_out : str
        What else stood in the file that the polygons are from, and is not used; it is said when the job begins.
    """

    only: Literal["drawn"] = "drawn"
    polygons: tuple[Annotated[tuple[tuple[float, float], ...], Field(min_length=3)], ...] = Field(min_length=1)
    left_out: str = ""


class InClasses(Frozen):
    """Only where another label store of the same slide has some classes, such as a corrected tissue mask.

    Attributes
    ----------
    labels : Path
        The label store.
    classes : tuple of str, optional
        Names of its classes; None: all of them, so everything but background.
    """

    only: Literal["classes"] = "classes"
    labels: Path
    classes: tuple[str, ...] | None = None


Where: TypeAlias = Literal["all", "tissue"] | Annotated[Drawn | InClasses, Field(discriminator="only")]
"""The part of a slide that is computed: all of it, the tissue that `tissue_mask` finds, polygons, or classes."""


class Postprocess(Frozen):
    """From probabilities to labels. Everything is done over the whole run, so the tiling has no influence.

    Attributes
    ----------
    thresholds : dict of str to float
        By class name. A class is taken only where its probability reaches its threshold; the likeliest of those wins,
        background where there is none. A class that is not named competes as usual (the likeliest wins).
    smoothing : float
        Standard deviation in µm of a Gaussian over the probabilities; 0: none. This and the other lengths and areas are
        in pixels of the image where labels have no size in µm, as those of a model in pixels.
    smallest : float
        Objects under this area in µm² become background.
    holes : float
        Holes under this area in µm² are filled with the class around them.
    instances : "distance" or "boundary"
        How touching objects are parted when "instances" are asked for: watershed on the distance to the background,
        or on a boundary class.
    boundary : str, optional
        Name of the class that marks boundaries, for "boundary".
    spacing : float
        Least distance in µm between the centres of two instances; 0: chosen from the objects' own size.
    """

    thresholds: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(default_factory=dict)
    smoothing: Annotated[float, Field(ge=0)] = 0.0
    smallest: _Area = 0.0
    holes: _Area = 0.0
    instances: Literal["distance", "boundary"] = "distance"
    boundary: str | None = None
    spacing: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _boundary_named(self) -> Self:
        if self.instances == "boundary" and self.boundary is None:
            raise ValueError("instances='boundary' needs the name of the class that marks boundaries: boundary='edge'")
        return self

    @property
    def pointwise(self) -> bool:
        """Whether each pixel's label depends on its own probabilities only."""
        return not (self.smoothing or self.smallest or self.holes)


class PredictOptions(Frozen):
    """How to predict, whatever the slide and the model.

    Attributes
    ----------
    channels : tuple of str or int, optional
        The slide's channels that become the model's, by name or number; None: matched by name, else in their order.
    region : tuple of float, optional
        `y, x, height, width` in level-0 pixels; None: the whole slide.
    where : "all", "tissue", Drawn or InClasses
        The part that is computed; pixels outside become 0.
    outputs : tuple of str
        "labels", "probabilities", "disagreement" (between the scales), "entropy", "instances".
    margin : "exact", "fast" or int
        "fast" is half the exact margin; a number is target pixels, rounded up to each branch's alignment. Anything but
        exact reports the seam meter.
    tile : int, optional
        Useful side of a tile in target pixels, rounded up to the alignment; None: chosen by measured speed.
    memory : float
        GB that the prediction may take beyond the bare process.
    tta : "none", "flips" or "dihedral"
        Test-time augmentation: the mean over 4 mirror images, or all 8 with quarter turns.
    engine : "torch" or "onnx"
        "onnx" runs the network in ONNX Runtime (extra `onnx`).
    precision : "float32", "bfloat16" or "float16"
        The lower ones are for GPUs.
    compile : bool
        Compile the network first (`torch.compile`): takes a minute, pays on long predictions.
    probability_dtype : "float16", "float32" or "uint8"
    postprocess : Postprocess
    damaged : "refuse" or "skip"
        Where tiles of the slide cannot be read: end with an error that names them, after all others are done, or leave
        them out.
    """

    channels: tuple[str | int, ...] | None = None
    region: tuple[float, float, float, float] | None = None
    where: Where = "all"
    outputs: tuple[Output, ...] = ("labels",)
    margin: Margin = "exact"
    tile: Annotated[int, Field(ge=1)] | None = None
    batch_size: int = Field(1, ge=1)
    memory: Positive = 2.0
    device: Device = "auto"
    tta: Literal["none", "flips", "dihedral"] = "none"
    engine: Literal["torch", "onnx"] = "torch"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    probability_dtype: ProbabilityType = "float16"
    postprocess: Postprocess = Postprocess()
    damaged: Damaged = "refuse"


class PredictSettings(PredictOptions):
    """How to predict, whatever the slide; all that `PredictOptions` says, and:

    Attributes
    ----------
    model : Path or tuple of Path
        Several are an ensemble: the mean of their probabilities. They agree on classes, mpp and channels.
    cluster : Cluster or str, optional
        Who computes it: ``"local:2"``, ``"tcp://host:8786"``, ``"slurm:20"``; None: this process.
    """

    model: Path | Annotated[tuple[Path, ...], Field(min_length=1)]
    cluster: Cluster | None = None

    @property
    def models(self) -> tuple[Path, ...]:
        """The model files: one, or those of the ensemble."""
        return self.model if isinstance(self.model, tuple) else (self.model,)


class PredictJob(PredictSettings, Versioned):
    """Predict a slide, or a part of it, into a label store; all that `PredictSettings` says, and:

    Attributes
    ----------
    slide, out : Path
    slide_mpp : float, pair or "px", optional
        µm per level-0 pixel, when the file does not give it; "px": what it gives does not count.
    image_kind : "brightfield" or "fluorescence", optional
        What the slide is, when the file does not say it and a guess would be wrong.
    value_range : (low, high), optional
        The values that are black and white, such as (0, 4095), likewise.
    """

    job: Literal["predict"] = "predict"
    slide: Path
    out: Path
    slide_mpp: PixelSize | None = None
    image_kind: Kind | None = None
    value_range: GivenRange | None = None


class PlanJob(Versioned):
    """Say what a prediction would do, without doing it: the `Result` has tiles, pixels, memory, estimated seconds."""

    job: Literal["plan"] = "plan"
    prediction: PredictJob


class GivenSlide(Frozen):
    """One of many slides.

    Attributes
    ----------
    slide : Path
    out : Path
        Its label store.
    mpp : float, pair or "px", optional
        µm per level-0 pixel, when the file does not give it; "px": what it gives does not count.
    kind, value_range : optional
        What its numbers mean, as for `open_slide`.
    where : "all", "tissue", Drawn or InClasses, optional
        The part that is computed; None: what the settings say.
    group : str, optional
        Such as the patient: copied into the results table.
    """

    slide: Path
    out: Path
    mpp: PixelSize | None = None
    kind: Kind | None = None
    value_range: GivenRange | None = None
    where: Where | None = None
    group: str | None = None


class PredictManyJob(Versioned):
    """Predict many slides, one label store each, with one table of results; a slide that fails stops no other.

    Started again it goes on: what is complete is not computed again.

    Attributes
    ----------
    slides : tuple of GivenSlide
    out : Path
        Folder of ``results.csv``, which is there after each slide.
    settings : PredictSettings
        Of all slides.
    """

    job: Literal["predict_many"] = "predict_many"
    slides: tuple[GivenSlide, ...] = Field(min_length=1)
    out: Path
    settings: PredictSettings

    @model_validator(mode="after")
    def _own_stores(self) -> Self:
        stores: dict[Path, Path] = {}
        for item in self.slides:
            other = stores.setdefault(item.out, item.slide)
            if other is not item.slide:
                raise ValueError(f"{other} and {item.slide} both go to {item.out}; give each its own label store")
        return self

    def one(self, item: GivenSlide) -> PredictJob:
        """The job of one of the slides."""
        own = {name: getattr(self.settings, name) for name in PredictSettings.model_fields}
        if item.where is not None:
            own["where"] = item.where
        numbers = {"image_kind": item.kind, "value_range": item.value_range}
        return PredictJob(slide=item.slide, out=item.out, slide_mpp=item.mpp, **numbers, **own)


class PostprocessJob(Versioned):
    """Turn the probabilities that a run kept into other labels, without running the network.

    The result is a run of its own, merged into the labels as any prediction: edits stay.

    Attributes
    ----------
    labels : Path
        The label store.
    run : str, optional
        Key of a run with probabilities; None: the newest one.
    instances : bool
        Make instances, too.
    damaged : "refuse" or "skip"
        Where chunks of the probabilities are damaged: refuse, or leave the labels there as they are.
    """

    job: Literal["postprocess"] = "postprocess"
    labels: Path
    run: str | None = None
    instances: bool = False
    postprocess: Postprocess = Postprocess()
    damaged: Damaged = "refuse"


class PreviewJob(Versioned):
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
    slide_mpp: PixelSize | None = None
    image_kind: Kind | None = None
    value_range: GivenRange | None = None
    region: tuple[float, float, float, float]
    device: Device = "auto"
