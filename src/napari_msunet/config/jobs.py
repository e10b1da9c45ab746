"""The jobs: what a person asks for, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from napari_msunet.config.base import Damaged, Device, GivenRange, Kind, Option, PixelSize, Positive, Share, Versioned
from napari_msunet.config.model import AnyModel, ModelConfig
from napari_msunet.config.prediction import REGION, PlanJob, PostprocessJob, PredictJob, PredictManyJob, PreviewJob
from napari_msunet.config.sources import Role, SlideSource, Source
from napari_msunet.config.training import Augmentation, LossConfig, Optimiser, Sampling

NormaliseBy: TypeAlias = Literal["z-score", "0-1", "-1-1", "percentile"]


_TIME, _WINDOWS, _SPLIT, _BEFORE, _MACHINE = "Time", "Windows", "Split", "Earlier models", "Machine"


class TrainJob(Versioned):
    """Train a model.

    What is None is chosen when the training begins, from the images and the time. The reasons are shown as messages and
    kept in the run's result.json and in the model.
    """

    job: Literal["train"] = "train"
    model: AnyModel
    """The model, or those of its settings that are given."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """Where images and their truth come from."""
    out: Path
    """Folder of the run: job.json, metrics.csv, curves.png, model.safetensors (the best), last.ckpt."""
    time_limit: Annotated[Positive | None, Option(group=_TIME, advanced=False, unit="s")] = None
    """Seconds that training takes. With a limit, everything that is annotated trains until the time is up, and the
    learning rate falls to its lowest by then. Without one, a part validates, and training ends when its score gets no
    better."""
    epochs: Annotated[int | None, Option("Most epochs", _TIME, False, none="automatic")] = Field(None, ge=1)
    """Largest number of epochs (passes over the training data); without it, training ends when the time is up, or after
    100."""
    steps: Annotated[int | None, Option("Epoch", _TIME, unit="batches", none="automatic")] = Field(None, ge=1)
    """Batches in an epoch; without it, about as many as show each training image or annotated window once."""
    clock: Annotated[Literal["wall", "processor"], Option(group=_TIME, form=False)] = "wall"
    """What the time limit counts: seconds that pass (wall), or the processor time of this process, all processors
    together (processor), so that trainings can be compared on a busy machine."""
    resume: Annotated[bool, Option(group=_TIME, form=False)] = False
    """Continue the run in --out where it stopped."""
    size: Annotated[int | None, Option("Window", _WINDOWS, unit="px", step=32, none="automatic")] = Field(None, ge=16)
    """Side of a training window in pixels of the model. A larger one shows more surroundings and needs more memory;
    without it, as large as the images allow, up to a limit on the work of a step."""
    batch_size: Annotated[int | None, Option("Batch", _WINDOWS, unit="windows", none="automatic")] = Field(None, ge=1)
    """Windows in each training step; 8 without it. Lower it when memory runs out."""
    border: Annotated[int, Option("Ignored edge", _WINDOWS, unit="px")] = Field(0, ge=0)
    """Pixels of the model at a window's edge that carry no loss, because the network sees nothing beyond. Raise it for
    networks that see far."""
    sampling: Annotated[Sampling, Option(group=_WINDOWS, flag=None)] = Sampling()
    """Where windows are taken."""
    normalise: Annotated[NormaliseBy, Option("Normalise", _WINDOWS)] = "z-score"
    """What the model's first layer does with the channels, fitted to the training images: z-score (mean 0, standard
    deviation 1), 0-1 and -1-1 (the range of the file's numbers), percentile (the 1st to the 99th become 0 to 1). Only
    where the model has no normalisation yet."""
    loss: Annotated[LossConfig, Option(group="Loss", example="a sum such as bce+dice")] = LossConfig()
    """What training minimises: a sum of cross_entropy (ce), bce, dice, jaccard, tversky, focal, boundary and edge with
    weights, such as bce+jaccard+dice or focal+0.5*dice+0.01*boundary."""
    optimiser: Annotated[Optimiser, Option(flag=None)] = Optimiser()
    """How training minimises the loss."""
    augmentation: Annotated[Augmentation, Option(group="Random changes", example="elastic=8,flip=no")] = Augmentation()
    """Random changes that differ from the defaults, as one text, such as elastic=8,jpeg=0.5,rotate=0; none: no
    change."""
    validation: Annotated[
        Annotated[float, Field(ge=0, lt=1)] | None,
        Option(group=_SPLIT, none="automatic", example="a share such as 0.2"),
    ] = None
    """Share (0 to 0.9) of the groups that is not trained on but measures how well the model works. Without it: none
    where there is a time limit (everything trains, the last weights are kept), else 0.2 (the best epoch is kept)."""
    test: Annotated[float, Field(ge=0, lt=1), Option("Test set", _SPLIT)] = 0.0
    """Share (0 to 0.9) of the groups that is set aside to test. Each side gets about its share of every class."""
    fold: Annotated[
        tuple[int, int] | None,
        Option(group=_SPLIT, form=False, example="its number and how many, such as 2/5"),
    ] = None
    """Instead of shares: 2/5 cuts the groups into five folds, of which the second validates."""
    seed: Annotated[int, Option(group=_SPLIT)] = 0
    """Number from which all random choices follow; the same seed repeats them."""
    split_seed: Annotated[int | None, Option(group=_SPLIT, form=False)] = None
    """Seed of the split alone, so that trainings with other seeds hold out the same images; without it, the seed."""
    start: Annotated[Path | None, Option(group=_BEFORE, form=False)] = None
    """Model file whose weights training begins with (fine-tuning): one of the same scales, fusion, branches and
    channels. Classes are matched by name, and its normalisation is kept. Without it: random weights."""
    replay: Annotated[Share | None, Option(group=_BEFORE, form=False)] = None
    """Share (0 to 1) of each batch that is taken from other sources than corrections, where there are corrections;
    without it, each source is drawn in proportion to its size."""
    replaces: Annotated[Path | None, Option(group=_BEFORE, form=False)] = None
    """Model file of an earlier training that this one is to replace. The test images that were frozen then never train
    here, its validation images validate again, and at the end both models are scored on the test images."""
    device: Device = "auto"
    """Where it computes: auto, cpu, cuda, cuda:1 or mps. auto takes a graphics card if there is one."""
    find_batch_size: Annotated[bool, Option("Find the largest batch", _MACHINE)] = False
    """Begin with the largest batch, up to 64 windows, that fits into the device's memory."""
    find_learning_rate: Annotated[bool, Option("Find the learning rate", _MACHINE)] = False
    """Begin with the learning rate at which the loss falls fastest in a short trial."""
    devices: Annotated[int, Option(group=_MACHINE, form=False)] = Field(1, ge=1)
    """Devices of each machine that train one model together, each on a batch of its own."""
    nodes: Annotated[int, Option(group=_MACHINE, form=False)] = Field(1, ge=1)
    """Machines that train one model together; start the job on each by srun or torchrun."""
    strategy: Annotated[
        Literal["auto", "ddp", "ddp_find_unused_parameters_true"], Option(group=_MACHINE, form=False)
    ] = "auto"
    """How devices work together: Lightning's ddp, which auto means too."""
    track: Annotated[
        tuple[Literal["tensorboard", "mlflow"], ...],
        Option("Also tell", _MACHINE, example="tensorboard, mlflow, or both with a comma"),
    ] = ()
    """Other programs that are sent the metrics, with commas: tensorboard (in the run's folder), mlflow."""
    track_uri: Annotated[str | None, Option("MLflow at", _MACHINE)] = None
    """Folder or server of MLflow; without it, in the run's folder."""

    @property
    def classical(self) -> bool:
        """Whether a classical method is fitted, in one pass and without gradients."""
        return isinstance(self.model, ModelConfig) and self.model.classical

    @model_validator(mode="after")
    def _sides(self) -> Self:
        validation = self.validation or 0.0
        if validation + self.test >= 1:
            raise ValueError(f"validation {validation:g} and test {self.test:g} leave nothing to train on")
        if self.fold is not None and not 1 <= self.fold[0] <= self.fold[1] >= 2:
            raise ValueError(f"fold {self.fold} is none: give (number, count), the number from 1 to the count")
        return self


class SettledTrainJob(TrainJob):
    """A training in which no choice is open; see `data.recipe.settle`."""

    model: ModelConfig
    size: int = Field(ge=16)
    batch_size: int = Field(ge=1)
    epochs: int = Field(ge=1)
    validation: Annotated[float, Field(ge=0, lt=1)]


class CrossValidateJob(Versioned):
    """Train and score a model once for each fold: each group of images validates once."""

    job: Literal["crossval"] = "crossval"
    training: TrainJob
    """How each fold is trained; its `out`, `validation`, `test` and `fold` do not count."""
    folds: Annotated[int, Option(group=_SPLIT)] = Field(5, ge=2, le=50)
    """How many folds."""
    out: Path
    """Folder: fold1, fold2, ... (each a training run with its model and scores.json), folds.csv, report.json."""
    resume: bool = False
    """Continue where it stopped: finished folds are kept, and a fold that was stopped continues."""


class ExperimentJob(Versioned):
    """Compare variants of a training: each on the same folds, with the same seeds, in the same processor time."""

    job: Literal["experiment"] = "experiment"
    training: TrainJob
    """What all variants share; its `out`, `validation`, `test`, `fold`, `seed` and time limit do not count."""
    variants: dict[str, dict[str, Any]] = Field(min_length=1)
    """For each name the fields of the training that differ, such as ``{"optimiser.learning_rate": 0.005}``; names with
    dots reach inside. The first is what the others are compared with."""
    folds: Annotated[int, Field(ge=2, le=50)] | None = 3
    """The groups (patients, slides) are cut into this many parts; each is held out once. None: the sources with the
    role "test" are held out."""
    only_folds: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Which of the folds are run, counted from 1; None: all."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    seconds: Positive
    """Processor time of each training, of all processors together."""
    threads: int | None = Field(None, ge=1)
    """Threads of each training. None: as many as there are processors."""
    scored: tuple[Source, ...] | None = None
    """Where the truth is by which held-out images are scored, matched by name, if not by that of the training (which
    may be strokes only)."""
    out: Path
    """Folder: trials/, table.csv, report.json, report.md."""
    resume: bool = False
    """Continue where it stopped: finished trials are kept, and a trial that was stopped begins again."""

    @model_validator(mode="after")
    def _trials(self) -> Self:
        if self.only_folds and max(self.only_folds) > (self.folds or 0):
            raise ValueError(f"there is no fold {max(self.only_folds)} of {self.folds or 0}")
        for name in self.variants:
            self.variant(name)
        return self

    def variant(self, name: str) -> TrainJob:
        """The training of a variant; `ValueError` where its fields do not fit."""
        values = self.training.model_dump(mode="json")
        for path, value in self.variants[name].items():
            *outer, last = path.split(".")
            inner = values
            for part in outer:
                inner = inner.get(part) if isinstance(inner, dict) else None  # type: ignore[assignment]
            if not isinstance(inner, dict) or (last not in inner and not outer):
                raise ValueError(f"the variant {name!r} names {path}, which a training does not have")
            inner[last] = value
        return TrainJob.model_validate(values)


class PreviewAugmentationJob(Versioned):
    """Show what each scale will see of some training windows, unchanged and after their random changes."""

    job: Literal["preview_augmentation"] = "preview_augmentation"
    training: TrainJob
    """The training whose images, windows and augmentation are shown; nothing is trained."""
    count: Annotated[int, Option(group=_WINDOWS)] = Field(4, ge=1, le=64)
    """How many windows."""
    variants: Annotated[int, Option(group=_WINDOWS)] = Field(3, ge=1, le=16)
    """How many random changes of each window."""
    out: Path
    """Folder: preview.png and preview.npz."""


class EvaluateJob(Versioned):
    """Score a model against masks, each scale alone and fused, at the masks' own resolution."""

    job: Literal["evaluate"] = "evaluate"
    model: Path
    """The model.safetensors file."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """Where images and their truth come from."""
    roles: Annotated[tuple[Role, ...] | None, Option(example="roles with commas, such as test")] = None
    """Roles of the sources that count, with commas, such as test; without it, all sources count."""
    out: Path | None = None
    """Folder for report.json, images.csv and pictures."""
    instances: Annotated[Literal["none", "connected", "parted"], Option()] = "none"
    """Score instances too (AJI, PQ, object Dice, detection F1). The prediction's instances are its connected pieces, or
    these pieces split where objects touch."""
    test_scales: Annotated[tuple[Positive, ...], Option(example="ratios with commas, such as 1,1/2,1/4")] = ()
    """Also show the images at these scales of the model's resolution, with commas, such as 0.25,0.5,1,2."""
    device: Device = "auto"
    """Where it computes: auto, cpu, cuda, cuda:1 or mps."""


class MeasureJob(Versioned):
    """Area of each class, and area, perimeter and place of each object of a label store, as CSV."""

    job: Literal["measure"] = "measure"
    labels: Path
    """The label store."""
    out: Path
    """The CSV file."""
    region: Annotated[tuple[float, float, float, float] | None, Option(example=REGION)] = None
    """y,x,height,width in the store's level-0 pixels; without it, the whole store."""
    instances: Annotated[str | None, Option()] = None
    """Run with instances to measure: its key, or newest. The objects are then its instances, each with the class of
    most of its pixels."""
    damaged: Damaged = "refuse"
    """Where chunks of the labels are damaged: refuse, or leave their pixels out of the result."""


class ExportJob(Versioned):
    """Write labels in another format, chosen by the ending of `out`."""

    job: Literal["export"] = "export"
    labels: Path
    """The label store."""
    out: Path
    """``.geojson`` (QuPath, level-0 pixels of the slide), ``.ome.tif`` (tiled pyramid), ``.ome.zarr`` (a plain copy),
    ``.png`` (one region)."""
    region: Annotated[tuple[float, float, float, float] | None, Option(example=REGION)] = None
    """y,x,height,width in the store's level-0 pixels; without it, the whole store."""
    instances: Annotated[str | None, Option()] = None
    """Run with instances to export instead of the classes: its key, or newest."""
    damaged: Damaged = "refuse"
    """Where chunks of the labels are damaged: refuse, or leave their pixels out of the result."""


class PyramidJob(Versioned):
    """Write an image as an OME-Zarr 0.5 pyramid."""

    job: Literal["pyramid"] = "pyramid"
    image: Path
    """The image."""
    out: Path
    """The folder that is made."""
    mpp: Annotated[PixelSize | None, Option(example="µm per pixel, or px")] = None
    """µm per pixel, where the file does not give it; px: no size in µm, whatever the file gives."""
    image_kind: Annotated[Kind | None, Option()] = None
    """What the image is, where the file does not say it; it is kept in the pyramid."""
    value_range: Annotated[GivenRange | None, Option()] = None
    """The values that are black and white, such as 0 4095, where the file does not give them; kept in the pyramid
    too."""


Job = Annotated[
    TrainJob
    | PredictJob
    | PredictManyJob
    | PlanJob
    | PostprocessJob
    | PreviewJob
    | EvaluateJob
    | CrossValidateJob
    | ExperimentJob
    | PreviewAugmentationJob
    | MeasureJob
    | ExportJob
    | PyramidJob,
    Field(discriminator="job"),
]
"""Any job."""


def with_damaged(job: Job, damaged: Damaged) -> Job:
    """The same job with another rule for damaged data, which its sources get too."""
    changes: dict[str, object] = {}
    if "damaged" in type(job).model_fields:
        changes["damaged"] = damaged
    if isinstance(job, TrainJob | EvaluateJob):
        changes["sources"] = tuple(
            source.model_copy(update={"damaged": damaged}) if isinstance(source, SlideSource) else source
            for source in job.sources
        )
    if isinstance(job, CrossValidateJob | PreviewAugmentationJob):
        changes["training"] = with_damaged(job.training, damaged)
    if isinstance(job, PredictManyJob):
        changes["settings"] = job.settings.model_copy(update={"damaged": damaged})
    return job.model_copy(update=changes) if changes else job
