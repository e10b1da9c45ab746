"""The jobs: what a person asks for, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from napari_msunet.config.augmentation import Augmentation
from napari_msunet.config.base import Damaged, Device, GivenRange, Kind, PixelSize, Positive, Share, Versioned
from napari_msunet.config.loss import LossConfig
from napari_msunet.config.model import AnyModel, ModelConfig
from napari_msunet.config.optimiser import Optimiser
from napari_msunet.config.prediction import PlanJob, PostprocessJob, PredictJob, PredictManyJob, PreviewJob
from napari_msunet.config.sampling import Sampling
from napari_msunet.config.sources import Role, SlideSource, Source

NormaliseBy: TypeAlias = Literal["z-score", "0-1", "-1-1", "percentile"]


class TrainJob(Versioned):
    """Train a model.

    What is None is chosen when the training begins, from the images and the time; the reasons are said, and kept in the
    run's result.json and in the model.

    Attributes
    ----------
    model : ModelConfig or AutoModel
    sources : tuple of FolderSource or SlideSource
    out : Path
        Folder of the run: job.json, metrics.csv, curves.png, model.safetensors (the best), last.ckpt.
    size : int, optional
        Side of a training window in target pixels; rounded up to the model's size multiple. None: as large as the
        images allow, up to what a step can bear.
    border : int
        Target pixels at the window's edge that carry no loss.
    batch_size : int, optional
        Windows in a step.
    epochs, steps : int, optional
        `steps` batches make an epoch; None: about one look at each training image or annotated window. `epochs` None:
        until the time is up, or 100 without a time limit.
    time_limit : float, optional
        Seconds after which training ends; the schedule of the learning rate ends with them.
    clock : str
        What `time_limit` counts: seconds that pass ("wall"), or what this process takes of all processors together
        ("processor"), so that trainings compare on a busy machine.
    validation, test : float
        Shares of the groups of sources with role "auto" that validate, and that are set aside to test. Each side gets
        about its share of every class. `validation` None: 0 with a time limit, so that everything trains and the last
        weights are kept; without one 0.2, and the best epoch is kept.
    fold : tuple of int, optional
        (number, count): instead of shares, the groups are cut into `count` folds, and this one, from 1, validates.
    split_seed : int, optional
        Seed of the split alone, so that trainings with other seeds hold out the same images. None: `seed`.
    sampling : Sampling
        Where windows are taken.
    normalise : str
        What the model's first layer does with the channels, fitted to the training images: "z-score" (mean 0, standard
        deviation 1), "0-1" and "-1-1" (the range of the file's numbers), "percentile" (the 1st to the 99th become 0
        to 1). Only where the model has no normalisation yet.
    resume : bool
        Go on from `out`'s last checkpoint.
    start : Path, optional
        Model file whose weights training begins with (fine-tuning): one of the same scales, fusion, branches and
        channels. Classes are matched by name, and its normalisation is kept. None: random weights.
    replay : float, optional
        Share of each batch taken from what is no correction, where there are corrections (sources with `edited_only`);
        None: each source as often as its size has it.
    replaces : Path, optional
        Model file of an earlier training that this one is to replace. The test images that were frozen then never
        train here, its validation images validate again, and at the end both models are scored on the test images.
    devices, nodes : int, int
        Devices of each machine, and machines, that train one model together; each takes `batch_size` windows a step.
    strategy : str
        How they do: Lightning's "ddp", or "ddp_find_unused_parameters_true". "auto": "ddp".
    find_batch_size : bool
        Begin with the largest batch, up to 64 windows, that fits into the device's memory instead of `batch_size`.
    find_learning_rate : bool
        Begin with the learning rate at which the loss falls fastest in a short trial instead of the optimiser's.
    track : tuple of str
        Who else is told: "tensorboard" (in the run's folder), "mlflow".
    track_uri : str, optional
        Folder or server of MLflow; None: in the run's folder.
    """

    job: Literal["train"] = "train"
    model: AnyModel
    sources: tuple[Source, ...] = Field(min_length=1)
    out: Path
    size: int | None = Field(None, ge=16)
    border: int = Field(0, ge=0)
    batch_size: int | None = Field(None, ge=1)
    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    time_limit: Positive | None = None
    clock: Literal["wall", "processor"] = "wall"
    validation: Annotated[float, Field(ge=0, lt=1)] | None = None
    test: Annotated[float, Field(ge=0, lt=1)] = 0.0
    fold: tuple[int, int] | None = None
    sampling: Sampling = Sampling()
    normalise: NormaliseBy = "z-score"
    augmentation: Augmentation = Augmentation()
    loss: LossConfig = LossConfig()
    optimiser: Optimiser = Optimiser()
    seed: int = 0
    split_seed: int | None = None
    device: Device = "auto"
    resume: bool = False
    start: Path | None = None
    replay: Share | None = None
    replaces: Path | None = None
    devices: int = Field(1, ge=1)
    nodes: int = Field(1, ge=1)
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    find_batch_size: bool = False
    find_learning_rate: bool = False
    track: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    track_uri: str | None = None

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
    """Train and score a model once for each fold: each group of images validates once.

    Attributes
    ----------
    training : TrainJob
        How each is trained; its `out`, `validation`, `test` and `fold` do not count.
    folds : int
        How many.
    out : Path
        Folder: fold1, fold2, ... (each a training run with its model and scores.json), folds.csv, report.json.
    resume : bool
        Go on: finished folds are kept, one that was stopped goes on.
    """

    job: Literal["crossval"] = "crossval"
    training: TrainJob
    folds: int = Field(5, ge=2, le=50)
    out: Path
    resume: bool = False


class ExperimentJob(Versioned):
    """Compare variants of a training: each on the same folds, with the same seeds, in the same processor time.

    Attributes
    ----------
    training : TrainJob
        What all variants share; its `out`, `validation`, `test`, `fold`, `seed` and time limit do not count.
    variants : dict of str to dict
        For each name the fields of the training that differ, such as ``{"optimiser.learning_rate": 0.005}``; names with
        dots reach inside. The first is what the others are compared with.
    folds : int, optional
        The groups (patients, slides) are cut into so many parts; each is held out once. None: what has the role "test"
        is held out.
    only_folds : tuple of int, optional
        Which of them are run, from 1; None: all.
    seeds : tuple of int
    seconds : float
        Processor time of each training, of all processors together.
    threads : int, optional
        Of each training. None: as many as there are processors.
    scored : tuple of sources, optional
        Where the truth is by which held-out images are scored, matched by name, if not by that of the training (which
        may be strokes only).
    out : Path
        Folder: trials/, table.csv, report.json, report.md.
    resume : bool
        Go on: finished trials are kept, one that was stopped begins anew.
    """

    job: Literal["experiment"] = "experiment"
    training: TrainJob
    variants: dict[str, dict[str, Any]] = Field(min_length=1)
    folds: Annotated[int, Field(ge=2, le=50)] | None = 3
    only_folds: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    seconds: Positive
    threads: int | None = Field(None, ge=1)
    scored: tuple[Source, ...] | None = None
    out: Path
    resume: bool = False

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
    """Show what each scale will see of some training windows, unchanged and after their random changes.

    Attributes
    ----------
    training : TrainJob
        Whose images, windows and augmentation; nothing is trained.
    count : int
        How many windows.
    variants : int
        How many random changes of each.
    out : Path
        Folder: preview.png and preview.npz.
    """

    job: Literal["preview_augmentation"] = "preview_augmentation"
    training: TrainJob
    count: int = Field(4, ge=1, le=64)
    variants: int = Field(3, ge=1, le=16)
    out: Path


class EvaluateJob(Versioned):
    """Score a model against masks, each scale alone and fused, at the masks' own resolution.

    Attributes
    ----------
    roles : tuple of str, optional
        Which sources count, such as ("test",); None: all.
    out : Path, optional
        Folder for report.json, images.csv and pictures.
    instances : str
        Score instances too (AJI, PQ, object Dice, detection F1), the prediction's being its "connected" pieces, or
        these "parted" where they touch.
    test_scales : tuple of float
        Also show the images at these scales relative to the model's own resolution, such as 0.25 to 2.
    """

    job: Literal["evaluate"] = "evaluate"
    model: Path
    sources: tuple[Source, ...] = Field(min_length=1)
    roles: tuple[Role, ...] | None = None
    out: Path | None = None
    instances: Literal["none", "connected", "parted"] = "none"
    test_scales: tuple[Positive, ...] = ()
    device: Device = "auto"


class MeasureJob(Versioned):
    """Area of each class, and area, perimeter and place of each object of a label store, as CSV.

    Attributes
    ----------
    region : tuple of float, optional
        `y, x, height, width` in the store's level-0 pixels.
    instances : str, optional
        Key of a run with instances, or "newest": those are the objects, each with the class that most of it shows.
    damaged : "refuse" or "skip"
        Where chunks of the labels are damaged: refuse, or leave their pixels out of the result.
    """

    job: Literal["measure"] = "measure"
    labels: Path
    out: Path
    region: tuple[float, float, float, float] | None = None
    instances: str | None = None
    damaged: Damaged = "refuse"


class ExportJob(Versioned):
    """Write labels in another format, told by the ending of `out`.

    Attributes
    ----------
    out : Path
        ``.geojson`` (QuPath, level-0 pixels of the slide), ``.ome.tif`` (tiled pyramid), ``.ome.zarr`` (a plain copy),
        ``.png`` (one region).
    region : tuple of float, optional
        `y, x, height, width` in the store's level-0 pixels.
    instances : str, optional
        Key of a run with instances, or "newest": those are exported instead of the classes.
    damaged : "refuse" or "skip"
        Where chunks of the labels are damaged: refuse, or leave their pixels out of the result.
    """

    job: Literal["export"] = "export"
    labels: Path
    out: Path
    region: tuple[float, float, float, float] | None = None
    instances: str | None = None
    damaged: Damaged = "refuse"


class PyramidJob(Versioned):
    """Write an image as an OME-Zarr 0.5 pyramid."""

    job: Literal["pyramid"] = "pyramid"
    image: Path
    out: Path
    mpp: PixelSize | None = None
    image_kind: Kind | None = None
    value_range: GivenRange | None = None


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
    """The same job with what it does where something that it reads is damaged, also in the sources that it has."""
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
