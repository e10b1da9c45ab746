"""Prediction as data: what is computed, where, how exactly, and what becomes of the probabilities."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from napari_msunet.config.base import (
    DEVICES,
    Damaged,
    Device,
    Frozen,
    GivenRange,
    Kind,
    Option,
    PixelSize,
    Positive,
    Versioned,
)

# ----------------------------------------------------------------------------------------------------------------------
# The workers of a Dask cluster, which can compute a prediction in place of this process.

_LOCAL = re.compile(r"local:([1-9]\d*)")
_SLURM = re.compile(r"slurm(?::([1-9]\d*))?")
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://\S+:\d+")

_GROUP = "Cluster"


class Cluster(Frozen):
    """The workers of Dask that compute a prediction (extra `cluster`); the result is the same without them."""

    at: Annotated[str, Option(group=_GROUP, flag="--cluster", form=False, example="slurm:20")]
    """Workers of Dask that compute the prediction: local:2 (two processes on this machine); tcp://host:8786 or tls://
    (the scheduler of a cluster that runs already); slurm:20 (20 SLURM jobs, submitted for this prediction)."""
    threads: Annotated[
        Annotated[int, Field(ge=1)] | None, Option(group=_GROUP, flag="--cluster-threads", form=False)
    ] = None
    """CPU threads of each worker's network, part of the plan; without it, 1 on this machine, elsewhere as many as a
    worker has."""
    options: Annotated[
        dict[str, str],
        Option(group=_GROUP, flag="--cluster-option", form=False, example="NAME=VALUE, such as queue=gpu"),
    ] = Field(default_factory=dict)
    """Option of SLURM, such as queue=gpu; can be given several times: queue, account, walltime, cores, memory,
    interface, scheduler_port, directives (more #SBATCH lines, with commas) and setup (shell lines before the worker
    starts, with semicolons). What is not given comes from Dask's own jobqueue.yaml."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"at": value} if isinstance(value, str) else value

    @field_validator("at")
    @classmethod
    def _known(cls, at: str) -> str:
        if not any(pattern.fullmatch(at) for pattern in (_LOCAL, _SLURM, _ADDRESS)):
            raise ValueError(f"{at!r} is no cluster; give local:2, tcp://host:8786, slurm or slurm:20")
        return at

    @model_validator(mode="after")
    def _options_used(self) -> Cluster:
        known = {*("queue", "account", "walltime", "cores", "memory", "interface", "scheduler_port")}
        known |= {"directives", "setup"}
        if self.options and self.kind != "slurm":
            raise ValueError(f"options are for SLURM, not for {self.at}")
        if unknown := sorted(set(self.options) - known):
            raise ValueError(f"SLURM has no option {', '.join(unknown)} here; it has {', '.join(sorted(known))}")
        for name in {"cores", "scheduler_port"} & set(self.options):
            if not self.options[name].isdecimal():
                raise ValueError(f"{name} is a whole number, not {self.options[name]!r}")
        return self

    @property
    def kind(self) -> str:
        """ "local", "slurm" or "address"."""
        return "local" if _LOCAL.fullmatch(self.at) else "slurm" if _SLURM.fullmatch(self.at) else "address"

    @property
    def workers(self) -> int:
        """How many workers are started; 0: none, because they run already."""
        found = _LOCAL.fullmatch(self.at) or _SLURM.fullmatch(self.at)
        return int(found.group(1) or 1) if found else 0


# ----------------------------------------------------------------------------------------------------------------------
# The jobs of prediction, and their options.

Margin: TypeAlias = Literal["exact", "fast"] | Annotated[int, Field(ge=0)]

Output: TypeAlias = Literal["labels", "probabilities", "disagreement", "entropy", "instances"]

ProbabilityType: TypeAlias = Literal["float16", "float32", "uint8"]

_Area: TypeAlias = Annotated[float, Field(ge=0)]

REGION = "y,x,height,width in pixels, such as 0,0,512,512"

_OUTPUT, _HOW, _LABELS, _MACHINE = "What is computed", "How", "From probabilities to labels", "Machine"
_SLIDE = "The slide"
_OUTPUTS = "labels, probabilities, disagreement, entropy and instances, with commas"


class Drawn(Frozen):
    """Only inside polygons."""

    only: Literal["drawn"] = "drawn"
    polygons: tuple[Annotated[tuple[tuple[float, float], ...], Field(min_length=3)], ...] = Field(min_length=1)
    """Each ring is a tuple of `(y, x)` points in level-0 pixels of the slide. Rings outside the slide are left out,
    with a message."""
    left_out: str = ""
    """What else the file of the polygons contained that is not used; a message of the job says so."""


class InClasses(Frozen):
    """Only where another label store of the same slide has some classes, such as a corrected tissue mask."""

    only: Literal["classes"] = "classes"
    labels: Path
    """The label store."""
    classes: tuple[str, ...] | None = None
    """Names of its classes; None: all of them, which is everything but background."""


Where: TypeAlias = Literal["all", "tissue"] | Annotated[Drawn | InClasses, Field(discriminator="only")]
"""The part of a slide that is computed: all of it, the tissue that `tissue_mask` finds, polygons, or classes."""


class Postprocess(Frozen):
    """From probabilities to labels. Everything is done over the whole run, so the tiling has no influence.

    Lengths and areas are in pixels of the image where labels have no size in µm, as those of a model in pixels.
    """

    thresholds: Annotated[
        dict[str, Annotated[float, Field(gt=0, lt=1)]],
        Option(group=_LABELS, flag="--threshold", form=False, example="NAME=VALUE, such as gland=0.6"),
    ] = Field(default_factory=dict)
    """NAME=0.6: a pixel gets this class only where its probability is at least 0.6; can be given for several classes.
    The likeliest class that reaches its threshold wins, or background where none does; a class without a threshold
    competes as usual."""
    smallest: Annotated[_Area, Option("Drop objects under", _LABELS, False, "µm²", 10)] = 0.0
    """Objects under this area (µm², or pixels of a model in pixels) become background; 0 keeps all."""
    holes: Annotated[_Area, Option("Fill holes under", _LABELS, False, "µm²", 10)] = 0.0
    """Holes under this area (µm², or pixels) get the class around them; 0 fills none."""
    smoothing: Annotated[float, Field(ge=0), Option("Smooth by", _LABELS, False, "µm", 0.5)] = 0.0
    """Width (standard deviation in µm, or pixels) of a Gaussian blur over the probabilities before the labels are made;
    0: none."""
    instances: Annotated[
        Literal["distance", "boundary"],
        Option("Part objects by", _LABELS, False, words={"distance": "their shape", "boundary": "a class of edges"}),
    ] = "distance"
    """How objects that touch are separated, where instances are requested: at their necks (watershed on the distance to
    the background), or along a class that was annotated for the edges between them."""
    boundary: Annotated[str | None, Option("Class of edges", _LABELS, False)] = None
    """Name of the class that marks the edges between objects, where they are separated by it."""
    spacing: Annotated[float, Field(ge=0), Option("Centres apart by", _LABELS, False, "µm", 1)] = 0.0
    """Smallest distance (µm, or pixels) between the centres of two objects; 0: chosen from their size."""

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
    """How to predict: the options that hold for any slide and any model."""

    outputs: Annotated[tuple[Output, ...], Option("Also show", _OUTPUT, False, example=_OUTPUTS)] = ("labels",)
    """The outputs to keep, with commas: labels, probabilities, disagreement (between the scales), entropy,
    instances."""
    channels: Annotated[
        tuple[int | str, ...] | None, Option(group=_OUTPUT, form=False, example="names or numbers with commas")
    ] = None
    """Channels of the slide for the channels of the model, by name or number, with commas; without it, channels are
    matched by name, or taken in their order."""
    region: Annotated[tuple[float, float, float, float] | None, Option(group=_OUTPUT, form=False, example=REGION)] = (
        None
    )
    """y,x,height,width in level-0 pixels of the slide; without it, the whole slide."""
    where: Annotated[
        Where, Option(group=_OUTPUT, form=False, example="tissue, a file of outlines, or a label store")
    ] = "all"
    """Only a part; pixels outside become 0: tissue, the areas of a file of outlines (such as .geojson), or the classes
    of a label store: tissue.ome.zarr, or labels.ome.zarr:gland,stroma for some of them."""
    margin: Annotated[Margin, Option(group=_HOW, example="exact, fast, or a number of pixels")] = "exact"
    """How much is read around each tile: exact, so that the result is that of the whole slide in one piece; fast, half
    of that; or a number of pixels of the model. With less than exact the edges of tiles may be visible; a message
    then says how large the error is."""
    tta: Annotated[
        Literal["none", "flips", "dihedral"],
        Option(
            "Averaged copies",
            _HOW,
            words={"none": "none", "flips": "4 mirror images", "dihedral": "8: mirrored and turned"},
        ),
    ] = "none"
    """The mean over mirrored (flips) and also turned (dihedral) copies, test-time augmentation: often a little better,
    4 or 8 times the time."""
    probability_dtype: Annotated[
        ProbabilityType,
        Option(
            "Probabilities as",
            _HOW,
            words={"float16": "half precision", "float32": "full precision", "uint8": "256 steps"},
        ),
    ] = "float16"
    """The type in which probabilities are kept, where they are kept; uint8 takes the least space."""
    device: Annotated[
        Device, Option("Compute on", _MACHINE, words={**DEVICES, "cuda:all": "all graphics cards (CUDA)"})
    ] = "auto"
    """Where it computes: auto, cpu, cuda, cuda:1, mps, or several with commas. auto takes a graphics card if there is
    one."""
    memory: Annotated[Positive, Option(group=_MACHINE, unit="GB", step=0.5)] = 2.0
    """GB that the prediction may use in addition to the program itself. More allows larger tiles, so less work."""
    tile: Annotated[
        Annotated[int, Field(ge=1)] | None, Option(group=_MACHINE, unit="px", step=256, none="automatic")
    ] = None
    """Side of a tile without its margin, in pixels of the model, rounded up to the alignment; without it, the size that
    is fastest, by measured speed, of those that the memory allows."""
    batch_size: Annotated[int, Option("Tiles at once", _MACHINE)] = Field(1, ge=1)
    """Tiles computed together. More than one pays on graphics cards only."""
    precision: Annotated[
        Literal["float32", "fast", "bfloat16", "float16"],
        Option(
            group=_MACHINE,
            words={
                "float32": "full (exact)",
                "fast": "the fastest here",
                "bfloat16": "half (bfloat16)",
                "float16": "half (float16)",
            },
        ),
    ] = "float32"
    """Precision of the network's arithmetic: float32 is exact. fast measures once which precision and engine is the
    fastest on this machine; with it and the half precisions, the run says how many labels differ from float32's."""
    engine: Annotated[
        Literal["torch", "onnx", "openvino"],
        Option(group=_MACHINE, words={"torch": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}),
    ] = "torch"
    """What runs the network. ONNX Runtime and OpenVINO (for processors) are packages of their own (the extras onnx and
    openvino)."""
    compile: Annotated[bool, Option("Compile the network first", _MACHINE)] = False
    """Compile the network first: takes a minute at the beginning and pays on long predictions."""
    postprocess: Annotated[Postprocess, Option(flag=None)] = Postprocess()
    """How probabilities become labels."""
    damaged: Damaged = "refuse"
    """What to do where tiles of the slide cannot be read: end with an error that names them, after all others are done,
    or leave them out."""


class PredictSettings(PredictOptions):
    """How to predict: the options that hold for any slide."""

    model: Path | Annotated[tuple[Path, ...], Field(min_length=1)]
    """The model file. Several files make an ensemble, the mean of their probabilities; their models must have the same
    classes, mpp and channels."""
    cluster: Annotated[Cluster | None, Option(flag=None, form=False)] = None
    """The cluster that computes it: ``"local:2"``, ``"tcp://host:8786"``, ``"slurm:20"``; None: this process."""

    @property
    def models(self) -> tuple[Path, ...]:
        """The model files: one, or those of the ensemble."""
        return self.model if isinstance(self.model, tuple) else (self.model,)


class PredictJob(PredictSettings, Versioned):
    """Predict a slide, or a part of it, into a label store."""

    job: Literal["predict"] = "predict"
    slide: Path
    """The slide."""
    out: Path
    """The label store."""
    slide_mpp: Annotated[
        PixelSize | None, Option(group=_SLIDE, also=("--mpp",), form=False, example="µm per pixel, or px")
    ] = None
    """µm per level-0 pixel of the slide, where its file does not give it; px: the slide is used in its own pixels,
    whatever the file gives."""
    image_kind: Annotated[Kind | None, Option(group=_SLIDE, form=False)] = None
    """Whether the slide is bright-field or fluorescence, where its file does not say so and a guess would be wrong."""
    value_range: Annotated[GivenRange | None, Option(group=_SLIDE, form=False)] = None
    """The values that are black and white, such as 0 4095 for 12 bits in 16, where the file does not give them."""


class PlanJob(Versioned):
    """Plan a prediction without running it: the `Result` has tiles, pixels, memory and estimated seconds."""

    job: Literal["plan"] = "plan"
    prediction: PredictJob


class GivenSlide(Frozen):
    """One of many slides."""

    slide: Path
    out: Path
    """Its label store."""
    mpp: PixelSize | None = None
    """µm per level-0 pixel, when the file does not give it; "px": the slide is used in its own pixels."""
    kind: Kind | None = None
    """The kind of the slide, as for `open_slide`, as is `value_range`."""
    value_range: GivenRange | None = None
    where: Where | None = None
    """The part that is computed; None: what the settings say."""
    group: str | None = None
    """The group of the slide, such as the patient; it is copied into the results table."""


class PredictManyJob(Versioned):
    """Predict many slides, one label store each, with one table of results; a slide that fails stops no other.

    When the job is started again, it continues: what is complete is not computed again.
    """

    job: Literal["predict_many"] = "predict_many"
    slides: tuple[GivenSlide, ...] = Field(min_length=1)
    """The slides, each with its label store."""
    out: Path
    """Folder of ``results.csv``, which is written after each slide."""
    settings: PredictSettings
    """The settings for all slides."""

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

    The result is a run of its own, which is merged into the labels like any prediction: edits stay.
    """

    job: Literal["postprocess"] = "postprocess"
    labels: Path
    """The label store."""
    run: Annotated[str | None, Option(group=_LABELS)] = None
    """Key of a run with probabilities; without it, the newest one."""
    instances: Annotated[bool, Option(group=_LABELS, flag="--part")] = False
    """Make instances too."""
    postprocess: Annotated[Postprocess, Option(flag=None)] = Postprocess()
    """How probabilities become labels."""
    damaged: Damaged = "refuse"
    """Where chunks of the probabilities are damaged: refuse, or leave the labels there as they are."""


class PreviewJob(Versioned):
    """Write what each scale and the fusion see in a region, as maps in a folder; no labels are changed."""

    job: Literal["preview"] = "preview"
    slide: Path
    model: Path
    out: Path
    """A zarr group with float16 arrays "fused" and "scale 1/2" ... `(K+1, h, w)` of probabilities, and "weights" `(k,
    h, w)`: the weight that the fusion gives to each scale at each pixel, where it has such weights. A group that is
    there already is replaced."""
    slide_mpp: PixelSize | None = None
    image_kind: Kind | None = None
    value_range: GivenRange | None = None
    region: tuple[float, float, float, float]
    """`y, x, height, width` in level-0 pixels."""
    device: Device = "auto"
