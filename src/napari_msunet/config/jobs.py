"""The jobs: what a person asks for, as data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, ValidationError, field_validator, model_validator

from napari_msunet.config.base import Damaged, Device, GivenRange, Kind, Option, PixelSize, Positive, Share, Versioned
from napari_msunet.config.instant import FitHeadJob, RecalibrateJob
from napari_msunet.config.measuring import MeasureJob
from napari_msunet.config.model import AnyModel, ModelConfig
from napari_msunet.config.prediction import REGION, PlanJob, PostprocessJob, PredictJob, PredictManyJob, PreviewJob
from napari_msunet.config.search import SearchSpace, check_space, default_space, parse_space, some_points
from napari_msunet.config.sources import Role, SlideSource, Source
from napari_msunet.config.training import Augmentation, LossConfig, MetricName, Optimiser, Sampling

NormaliseBy: TypeAlias = Literal["z-score", "0-1", "-1-1", "percentile", "image-z-score", "image-min-max"]


_TIME, _WINDOWS, _SPLIT, _BEFORE, _MACHINE = "Time", "Windows", "Split", "Earlier models", "Machine"
_STUDY, _COMPARE = "Study of context", "Experiment"

ScoreName: TypeAlias = Literal["dice", "iou", "f1", "precision", "recall", "accuracy"]


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
    deviation 1), 0-1 and -1-1 (the range of the file's numbers), percentile (the 1st to the 99th become 0 to 1).
    image-z-score and image-min-max: each image or slide by its own statistics, taken once of all of it. Only where the
    model has no normalisation yet."""
    statistics_of: Annotated[
        Literal["whole", "tissue"],
        Option("Own statistics of", _WINDOWS, words={"whole": "the whole image", "tissue": "its tissue"}),
    ] = "whole"
    """For image-z-score and image-min-max: the pixels that count, all of them, or those on tissue."""
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
    step_metrics: Annotated[
        tuple[MetricName, ...],
        Option("Keep of each step", _MACHINE, none="nothing", example="metrics with commas, such as loss,iou"),
    ] = ("loss",)
    """Numbers of each training step that are kept too, in steps.csv, for every output: loss, iou, dice, f1, precision,
    recall, accuracy. They cost a step nothing: they are computed at the end of the epoch."""
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
        if isinstance(self.model, ModelConfig) and self.model.further:
            raise ValueError("an ensemble is not trained: give the model of one of its networks")
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
    folds: Annotated[
        Annotated[int, Field(ge=2, le=50)] | None, Option(group=_COMPARE, advanced=False, none="by role")
    ] = 3
    """The groups (patients, slides) are cut into this many parts; each is held out once. None: the sources with the
    role "test" are held out."""
    only_folds: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Which of the folds are run, counted from 1; None: all."""
    seeds: Annotated[tuple[int, ...], Option(group=_COMPARE, example="numbers with commas")] = Field((0,), min_length=1)
    """Each training is repeated with each of these."""
    seconds: Annotated[Positive, Option("Each training", _COMPARE, False, "s", 10)]
    """Processor time of each training, of all processors together."""
    threads: int | None = Field(None, ge=1)
    """Threads of each training. None: as many as there are processors."""
    metric: Annotated[
        ScoreName, Option("Compare by", _COMPARE, False, words={"dice": "Dice", "iou": "IoU", "f1": "F1"})
    ] = "dice"
    """What the variants are compared by, mean over the classes: dice, iou, f1, precision, recall or accuracy."""
    scored: tuple[Source, ...] | None = None
    """Where the truth is by which held-out images are scored, matched by name, if not by that of the training (which
    may be strokes only)."""
    test_scales: tuple[Positive, ...] = ()
    """Also score each variant on the held-out images at these scales of the first variant's resolution, such as 0.25,
    0.5, 1, 2; with variants that differ in resolution, this gives training scale by test scale."""
    out: Path
    """Folder: trials/, table.csv, report.json, report.md, bars.png, curves.png, images.png, scales.png."""
    resume: bool = False
    """Continue where it stopped: finished trials are kept, and a trial that was stopped begins again."""

    @model_validator(mode="after")
    def _trials(self) -> Self:
        if self.only_folds and max(self.only_folds) > (self.folds or 0):
            raise ValueError(f"there is no fold {max(self.only_folds)} of {self.folds or 0}")
        words: dict[str, str] = {}
        for name in self.variants:
            self.variant(name)
            if (other := words.setdefault(file_word(name).lower(), name)) != name:
                raise ValueError(f"the variants {other!r} and {name!r} would share a folder; give one another name")
        return self

    def variant(self, name: str) -> TrainJob:
        """The training of a variant; `ValueError` where its fields do not fit."""
        return with_changes(self.training, self.variants[name], f"the variant {name!r}")


def file_word(name: str) -> str:
    """A name as part of a folder's name: letters, digits, points and hyphens stay."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in name)


def with_changes(training: TrainJob, changes: Mapping[str, Any], what: str) -> TrainJob:
    """A training in which fields have other values.

    Parameters
    ----------
    training : TrainJob
    changes : mapping
        The values by the names of their fields; names with dots reach inside, and into each of several networks.
    what : str
        Who names the fields, in the error.

    Raises
    ------
    ValueError
        If there is no such field, or the values do not fit.
    """
    values = training.model_dump(mode="json")
    for path, value in changes.items():
        *outer, last = path.split(".")
        places: list[Any] = [values]
        for part in outer:
            places = [inner for place in places for inner in _inside(place, part)]
        if not places or not all(isinstance(place, dict) for place in places) or (last not in values and not outer):
            raise ValueError(f"{what} names {path}, which a training does not have")
        for place in places:
            place[last] = value
    return TrainJob.model_validate(values)


def _inside(place: Any, part: str) -> list[Any]:
    """What a part of a path names: one value, or each of several networks."""
    if isinstance(place, list) and part.isdigit():
        return place[int(part) : int(part) + 1]
    found = place.get(part) if isinstance(place, dict) else None
    return found if isinstance(found, list) and found and all(isinstance(f, dict) for f in found) else [found]


_SEARCH = "Search"
_TRIED = 64  # points of a space that are made before the search, to see whether any is a training

Sampler: TypeAlias = Literal["grid", "random", "gp", "tpe"]
SAMPLERS: dict[Sampler, str] = {
    "tpe": "Parzen estimators (TPE)",
    "gp": "Gaussian process",
    "random": "at random",
    "grid": "grid",
}
"""What each way of searching is called."""


class TuneJob(Versioned):
    """Search for the options with which a training scores best on groups that it has not seen."""

    job: Literal["tune"] = "tune"
    training: TrainJob
    """What all trials share. Its time_limit is that of each training (60 s without it), in processor time on a
    processor; its `out`, `validation`, `test` and `fold` do not count."""
    space: SearchSpace | None = None
    """For each field that varies, by its path with dots: {"low", "high", "log", "step"} or {"choices": [...]}. Without
    it: scales, fusion, network, loss, rates and batch, as far as the training leaves them open."""
    sampler: Annotated[Sampler, Option("Search by", _SEARCH, False, words=SAMPLERS)] = "tpe"
    """How the next trial is chosen: grid (all combinations), random, gp (a Gaussian process of all scores so far), tpe
    (Parzen estimators of good and bad trials)."""
    pruner: Annotated[
        Literal["none", "median", "hyperband"],
        Option(
            "End bad trials", _SEARCH, words={"none": "never", "median": "below the median", "hyperband": "Hyperband"}
        ),
    ] = "median"
    """Which trials end after some of their folds: none, those below the median of the others at the same folds, or
    those that Hyperband drops."""
    trials: Annotated[int, Option(group=_SEARCH, advanced=False)] = Field(40, ge=1, le=100_000)
    """How many trials there are in all, those of earlier starts of the same search included. Raise it to add some."""
    folds: Annotated[int, Option(group=_SEARCH, advanced=False)] = Field(3, ge=1, le=50)
    """Each trial trains once for each of so many parts of the groups (patients, slides), and is scored on the part
    that it has not seen, so that the best is not the luckiest. 1: a quarter of the groups is held out."""
    storage: Annotated[str | None, Option(group=_SEARCH, form=False, example="postgresql://user@host/database")] = None
    """Database in which several processes or machines search together, such as postgresql://user@host/database.
    Without it, a file (SQLite) in the folder of the search."""
    study: Annotated[str | None, Option(group=_SEARCH, form=False, example="its name")] = None
    """Name of the search in the storage; without it, that of its folder."""
    workers: Annotated[int, Option(group=_SEARCH)] = Field(1, ge=1, le=256)
    """Processes of this machine that try at the same time, each with its share of the threads."""
    threads: Annotated[int | None, Option(group=_SEARCH, none="automatic")] = Field(None, ge=1)
    """Threads of each of these processes; without it, as many as there are processors, shared among them."""
    out: Path
    """Folder: trials.csv, best.json (the best training as a job), importance.png, history.png, slices.png, trials/."""
    resume: bool = False
    """Go on where it stopped: finished trials are kept, and one that was stopped begins again."""

    @field_validator("space", mode="before")
    @classmethod
    def _space(cls, given: Any) -> Any:
        return parse_space(given)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        space = self.searched
        if not space:
            raise ValueError("the training leaves nothing open that could be searched: give a space")
        check_space(space, TrainJob)
        reason = ""
        for point in some_points(space, TrainJob, _TRIED):
            try:
                with_changes(self.training, _in_the_open(self.training, point), "the space")
                return self
            except ValueError as error:
                reason = reason or reason_of(error)
        raise ValueError(f"no point of the space is a training that can be made: {reason}")

    @property
    def searched(self) -> SearchSpace:
        """The space, where none is given the default one."""
        return default_space(self.training) if self.space is None else self.space


def _in_the_open(training: TrainJob, point: Mapping[str, Any]) -> dict[str, Any]:
    """A point without fields of networks that are only chosen when the training begins."""
    if training.model.branch is not None:
        return dict(point)
    return {name: value for name, value in point.items() if not name.startswith("model.branch.")}


def reason_of(error: ValueError) -> str:
    """The first reason in an error about values."""
    items = error.errors() if isinstance(error, ValidationError) else []
    return str(items[0]["msg"] if items else error).removeprefix("Value error, ").rstrip(".")


class ContextJob(Versioned):
    """Ask whether context helps: one scale at several resolutions against several scales, in the same time."""

    job: Literal["context"] = "context"
    training: TrainJob
    """How each is trained; its scales, fusion, `validation`, `test`, `fold` and time limit do not count."""
    resolutions: Annotated[tuple[Positive, ...], Option(group=_STUDY, example="factors with commas")] = (0.67, 1.0, 1.5)
    """For one scale: factors on the µm per pixel that suit the images, with commas; larger is coarser."""
    scales: tuple[tuple[Positive, ...], ...] = Field(((1.0, 0.5), (1.0, 0.25)), min_length=1)
    """The sets of several scales, each with wider surroundings around the same place."""
    folds: Annotated[int, Option(group=_STUDY)] = Field(3, ge=2, le=50)
    """The groups (patients, slides) are cut into this many parts, and each is held out once; a single slide is cut into
    strips."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Each training is repeated with each of these."""
    seconds: Annotated[Positive, Option("Each training", _STUDY, False, "s")] = 100.0
    """Processor time of each training, of all processors together."""
    threads: int | None = Field(None, ge=1)
    """Threads of each training. None: as many as there are processors."""
    scored: tuple[Source, ...] | None = None
    """As for an experiment."""
    out: Path
    """Folder: experiment/, answer.json, answer.md and best.json (the training that is advised)."""
    resume: bool = False
    """Continue where it stopped: finished trainings are kept."""

    @field_validator("scales")
    @classmethod
    def _several(cls, value: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
        if any(len(scales) < 2 for scales in value):
            raise ValueError("each set of scales has at least two; one scale is compared with them anyway")
        return value


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


class TimeTrainingJob(Versioned):
    """Measure how long a training will take on this machine, by a few steps of it; nothing is kept."""

    job: Literal["time_training"] = "time_training"
    training: TrainJob
    """The training; its folder is not used."""
    steps: int = Field(4, ge=1, le=100)
    """How many steps are timed, after one that is not."""


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


class ExportJob(Versioned):
    """Write labels in another format, chosen by the ending of `out`."""

    job: Literal["export"] = "export"
    labels: Path
    """The label store."""
    out: Path
    """``.geojson`` (QuPath, level-0 pixels of the slide), ``.json`` (COCO), ``.xml`` (ASAP), ``.ome.tif`` (tiled
    pyramid), ``.ome.zarr`` (a plain copy),
    ``.png`` (one region)."""
    region: Annotated[tuple[float, float, float, float] | None, Option(example=REGION)] = None
    """y,x,height,width in the store's level-0 pixels; without it, the whole store."""
    instances: Annotated[str | None, Option()] = None
    """Run with instances to export instead of the classes: its key, or newest."""
    damaged: Damaged = "refuse"
    """Where chunks of the labels are damaged: refuse, or leave their pixels out of the result."""


class ExportModelJob(Versioned):
    """Write a whole model for other programs, in a format chosen by the ending of `out`, and check it on real tiles."""

    job: Literal["export_model"] = "export_model"
    model: Path
    """The model.safetensors file."""
    out: Path
    """A name ending in .onnx, .pt2 (torch.export) or .zip (a bioimage.io package with ONNX weights)."""


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
    | ContextJob
    | ExperimentJob
    | TuneJob
    | PreviewAugmentationJob
    | TimeTrainingJob
    | MeasureJob
    | ExportJob
    | ExportModelJob
    | PyramidJob
    | FitHeadJob
    | RecalibrateJob,
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
    if isinstance(job, CrossValidateJob | ContextJob | TuneJob | PreviewAugmentationJob | TimeTrainingJob):
        changes["training"] = with_damaged(job.training, damaged)
    if isinstance(job, PredictManyJob):
        changes["settings"] = job.settings.model_copy(update={"damaged": damaged})
    return job.model_copy(update=changes) if changes else job
