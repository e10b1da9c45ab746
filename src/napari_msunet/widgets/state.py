"""The state of the dock, without a window: slides, sources, the model, options and results.

`resolve` has what follows from it, such as the jobs that can begin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from psygnal import Signal
from pydantic import BaseModel, ConfigDict, Field, create_model

from napari_msunet.app.project import MapsNote, Project, Ring, SlideNote, SlideRole, View, default_folder, note_recent
from napari_msunet.config import (
    ClassicalConfig,
    ContextJob,
    ExperimentJob,
    ImageSet,
    Kind,
    LossConfig,
    MeasureJob,
    ModelConfig,
    Optimiser,
    Positive,
    PredictJob,
    TrainJob,
    TuneJob,
    UNetConfig,
    ValueRange,
)
from napari_msunet.config.base import Option, option_of
from napari_msunet.config.prediction import InClasses
from napari_msunet.config.presets import PRESETS as JOB_PRESETS
from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import MsunetError
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.area import TISSUE, Mask, StoreClasses
from napari_msunet.slide.numbers import Numbers
from napari_msunet.slide.pixel_size import given_mpp
from napari_msunet.widgets.dock.annotation_counts import Counts

# ----------------------------------------------------------------------------------------------------------------------
# The options of training and prediction that the dock's forms show.


SEARCH_SECONDS = 60.0
"""Seconds that each training of a search takes unless the person sets another time."""


def _taken(name: str, job: type[BaseModel], *more: str) -> type[BaseModel]:
    """A frozen config with the options of a job; their types, limits and defaults are those of the job."""
    options = {field: option_of(info) for field, info in job.model_fields.items()}
    fields = [field for field, option in options.items() if (option and option.form) or field in more]
    parts: Any = {field: (job.model_fields[field].annotation, job.model_fields[field]) for field in fields}
    return create_model(name, __config__=ConfigDict(frozen=True, extra="forbid"), __doc__=job.__doc__, **parts)


if TYPE_CHECKING:
    Options = TypeVar("Options", bound=BaseModel)

    class TrainChoices(TrainJob):
        def __init__(self, **options: object) -> None: ...

    class PredictChoices(PredictJob):
        def __init__(self, **options: object) -> None: ...

    class MeasureChoices(MeasureJob):
        def __init__(self, **options: object) -> None: ...

    class TuneChoices(TuneJob):
        seconds: float

        def __init__(self, **options: object) -> None: ...

    class ExperimentChoices(ExperimentJob):
        def __init__(self, **options: object) -> None: ...

    class ContextChoices(ContextJob):
        def __init__(self, **options: object) -> None: ...

else:
    ContextChoices = _taken("ContextChoices", ContextJob)
    ExperimentChoices = _taken("ExperimentChoices", ExperimentJob)
    TrainChoices = _taken("TrainChoices", TrainJob)
    # two more options, which have rows of their own in the Predict step
    PredictChoices = _taken("PredictChoices", PredictJob, "channels", "where")
    # the thresholds have sliders
    MeasureChoices = _taken("MeasureChoices", MeasureJob, "thresholds")
    TuneChoices = create_model(
        "TuneChoices",
        __base__=_taken("TuneChoices", TuneJob),
        seconds=(
            Annotated[Positive, Option("Time of a training", "Search", False, "s", 10)],
            Field(SEARCH_SECONDS, description="Seconds of each training, in processor time on a processor."),
        ),
    )


def changed(options: Options, **values: object) -> Options:
    """The same options with other values, checked by pydantic (`ValidationError` where they cannot be)."""
    return type(options).model_validate({**dict(options), **values})


# ----------------------------------------------------------------------------------------------------------------------
# Models to start from, for a person who does not leave the choice to the recipe.


def one_scale(classes: tuple[str, ...], mpp: float | None) -> ModelConfig:
    """A model with one scale: the least work per step, which matters most in the first minutes."""
    return ModelConfig(classes=classes, mpp=mpp, scales=(1.0,), fusion="mean", branch=UNetConfig(depth=4, width=16))


def two_scales(classes: tuple[str, ...], mpp: float | None) -> ModelConfig:
    """A model with two scales: one for detail, and a smaller network for the surroundings."""
    fine = UNetConfig(depth=3, width=16)
    return ModelConfig(
        classes=classes,
        mpp=mpp,
        scales=(1.0, 0.5),
        fusion="attention",
        field="concentric",
        branch=(fine, fine.model_copy(update={"depth": 2})),
    )


def three_scales(classes: tuple[str, ...], mpp: float | None) -> ModelConfig:
    """A model with three scales: for objects that are only recognised by their surroundings."""
    return ModelConfig(
        classes=classes, mpp=mpp, scales=(1.0, 0.5, 0.25), fusion="attention", branch=UNetConfig(depth=4, width=16)
    )


def classical(classes: tuple[str, ...], mpp: float | None) -> ModelConfig:
    """No network: a threshold, or for several classes k-means."""
    config = ModelConfig(classes=classes[:1], mpp=mpp, scales=(1.0,), fusion="mean", branch=ClassicalConfig())
    return with_enough_parts(config.model_copy(update={"classes": classes}))


def with_enough_parts(config: ModelConfig) -> ModelConfig:
    """The model; a classical method with too few parts for its classes becomes k-means with enough."""
    branch = config.branch
    if not isinstance(branch, ClassicalConfig) or branch.made > len(config.classes):
        return config
    more = {"method": "kmeans", "parts": max(branch.parts, len(config.classes) + 1)}
    return config.model_copy(update={"branch": branch.model_copy(update=more)})


def published(classes: tuple[str, ...], mpp: float | None) -> ModelConfig:
    """The model of the method as it was written; its loss and optimiser are in `OF_METHOD`."""
    return ModelConfig(classes=classes, mpp=mpp, **JOB_PRESETS["method"]["model"])


OF_METHOD = {
    "loss": LossConfig(**JOB_PRESETS["method"]["loss"]),
    "optimiser": Optimiser(**JOB_PRESETS["method"]["optimiser"]),
}
"""The options of training that go with `published`."""


@dataclass(frozen=True)
class Preset:
    """A model to start from: its `name`, a `sentence` about it, and the function that makes its config.

    `training` has the options of training that are set with it, by their names.
    """

    name: str
    sentence: str
    make: Callable[[tuple[str, ...], float | None], ModelConfig]
    training: Mapping[str, BaseModel] = field(default_factory=dict)

    def trained(self, options: TrainChoices) -> TrainChoices:
        """The options of a training with those of this preset; those of another preset are the usual ones again."""
        others = {
            name: value
            for preset in PRESETS
            for name, value in preset.training.items()
            if getattr(options, name) == value
        }
        usual = {name: type(options).model_fields[name].default for name in others}
        return changed(options, **usual | dict(self.training))

    def fits(self, config: ModelConfig) -> bool:
        """Whether a model is this preset, at any resolution and with any classes."""
        made = self.make(config.classes, config.mpp)
        if made.classical or config.classical:
            return made.classical and config.classical
        free = {"channels": made.channels, "pixel": 1.0, "normalisation": None, "trained_on": None}
        return made == config.model_copy(update=free)


RESOLUTIONS = {"Nuclei": 0.5, "Glands": 2.5, "Regions": 4.0}
"""µm per pixel to start with, by the objects that a person looks for."""

AUTOMATIC = "Automatic"
AUTOMATIC_SENTENCE = "Resolution, network and windows are chosen from your objects and images; the Train step says why."

PRESETS = (
    Preset("One scale", "The least work per step. A first result in minutes without a graphics card.", one_scale),
    Preset("Two scales", "Detail, and more surroundings. Each step costs half as much again.", two_scales),
    Preset("Three scales", "For what only wide surroundings explain. Takes longest.", three_scales),
    Preset("Classical", "No network: a threshold or k-means. A first annotation to correct, at once.", classical),
    Preset(
        "As published",
        "Scales 1/2, 1 and 2, the mean of their probabilities, one loss (binary cross-entropy) on it, Adam at 0.0001: "
        "the method as it was written. Sets the loss and the optimiser of the Train step too.",
        published,
        OF_METHOD,
    ),
)


# ----------------------------------------------------------------------------------------------------------------------
# The state of the dock.

USUAL_MPP = 0.5
"""µm per pixel of a model, where no slide has a known size of pixels."""

FINEST_SUGGESTION = 0.45
"""A model is not suggested a finer resolution than this: nuclei gain little, and everything takes four times as
long."""


def suggested_mpp(slide_mpp: float) -> float:
    """A model resolution for a slide: its own, halved until nuclei still have about ten pixels across."""
    mpp = slide_mpp
    while mpp < FINEST_SUGGESTION:
        mpp *= 2
    return float(f"{mpp:.3g}")


StepName = Literal["slide", "annotate", "model", "train", "predict", "correct", "review", "export"]
STEPS: tuple[StepName, ...] = get_args(StepName)
OPTIONAL: tuple[StepName, ...] = ("review",)
"""Steps that are advised only while they are under way."""

CONFLICTS: dict[StepName, tuple[StepName, ...]] = {
    "train": ("train",),
    "predict": ("predict", "export"),
    "export": ("export", "predict"),
}
"""For each step, the steps whose jobs its jobs wait for: labels are not read while another job writes them."""

TIME_LIMIT = 600.0
"""Seconds that a training takes unless the person sets another time."""


@dataclass(eq=False)
class SlideRecord:
    """A slide that the dock works with.

    Attributes
    ----------
    path : Path
    shape : (height, width)
        In level-0 pixels.
    channels : int
    mpp : (y, x), optional
        µm per pixel, from the file or given.
    mpp_given : bool
        Whether a person gave it, so that jobs must carry it.
    numbers : Numbers, optional
        What its values mean, from the file or a guess.
    kind, value_range : optional
        The kind and range that a person gave instead.
    in_pixels : bool
        Whether a person chose to use the slide in its own pixels: it has no size in µm, or the size does not matter.
    mpp_note : str
        A sentence about the size of a pixel in the file, where that is not believed.
    annotation, labels : Path, optional
        Its annotation store, and its predicted and corrected labels.
    tissue : Path, optional
        The label store of its tissue, with the class "tissue".
    counts : dict of int
        Annotated pixels by value: 1..K, 255 for background.
    marked : int
        How many regions are marked as fully annotated.
    counted : bool
        Whether `counts` and `marked` are known. Until then an annotation may hold anything.
    counter : Counts, optional
        The counter of its annotation.
    unreadable : str, optional
        Why its annotation cannot be opened, as a sentence.
    corrections : bool
        Whether corrected pixels of `labels` count as truth in training.
    regions : tuple of rings
        The drawn regions in which to predict: corners in level-0 pixels, `(y, x)`.
    view, maps, queue : optional
        What was in view, its maps and its places to review when it was last saved; see `SlideNote`.
    """

    path: Path
    shape: tuple[int, int]
    channels: int = 3
    mpp: tuple[float, float] | None = None
    mpp_given: bool = False
    numbers: Numbers | None = None
    kind: Kind | None = None
    value_range: ValueRange | None = None
    in_pixels: bool = False
    mpp_note: str = ""
    identity: str | None = None
    role: SlideRole = "auto"
    annotation: Path | None = None
    labels: Path | None = None
    tissue: Path | None = None
    counts: dict[int, int] = field(default_factory=dict)
    marked: int = 0
    counted: bool = False
    counter: Counts | None = None
    unreadable: str | None = None
    corrections: bool = False
    edited: int = 0
    regions: tuple[Ring, ...] = ()
    view: View | None = None
    maps: MapsNote | None = None
    queue: tuple[str, int] | None = None

    @property
    def name(self) -> str:
        """The file's name without its endings."""
        return self.path.name.split(".")[0]

    @property
    def job_mpp(self) -> tuple[float, float] | Literal["px"] | None:
        """The `mpp` that a job of this slide needs: None where the file has it."""
        if self.in_pixels:
            return "px"
        return self.mpp if self.mpp_given else None

    @property
    def job_numbers(self) -> dict[str, Any]:
        """The fields of a job that say what the values of this slide mean."""
        return {"image_kind": self.kind, "value_range": self.value_range}

    @property
    def open_options(self) -> dict[str, Any]:
        """The options with which `open_slide` opens this slide."""
        told = {"mpp": self.job_mpp, "kind": self.kind, "value_range": self.value_range}
        return {name: value for name, value in told.items() if value is not None}

    @property
    def sized(self) -> bool:
        """Whether the size of its pixels is known, in µm or as "px"."""
        return self.in_pixels or self.mpp is not None

    def give_size(self, mpp: float | tuple[float, float] | str) -> None:
        """Set the size of a pixel that a person gives: µm, or "px"."""
        size = given_mpp(mpp)
        self.in_pixels = isinstance(size, str)
        self.mpp = None if isinstance(size, str) else size
        self.mpp_given = not self.in_pixels

    @property
    def within(self) -> InClasses | None:
        """The `within` of a job that keeps to the tissue of this slide."""
        return None if self.tissue is None else InClasses(labels=self.tissue, classes=(TISSUE,))

    @property
    def tissue_mask(self) -> Mask | None:
        """The mask of its tissue as it is corrected now; read when it is first used."""
        return None if self.within is None else StoreClasses(open_labels(self.within.labels), self.within)

    @property
    def annotated(self) -> bool:
        """Whether anything is annotated on it, or may be, because it was not counted yet."""
        return bool(self.annotation) and (not self.counted or any(self.counts.values()) or self.marked > 0)

    def annotation_counter(self) -> Counts | None:
        """The counter of its present annotation; None where there is no annotation.

        Raises
        ------
        MsunetError
            If the annotation cannot be opened; the sentence names it.
        """
        if self.annotation is None:
            return None
        try:
            store = open_labels(self.annotation)
        except MsunetError as error:
            self.counted, self.counter = False, None
            self.unreadable = f"The annotation of {self.path.name} cannot be opened: {error}"
            raise MsunetError(self.unreadable) from error
        if self.counter is None:  # a new annotation comes with its counter, which is kept
            self.counter = Counts(store)
        elif self.counter.store is not store:
            self.counted, self.counter = False, Counts(store)
        self.unreadable = None
        return self.counter


class State:
    """Everything the dock decides and has found out. Changing it through its methods emits `changed`.

    Parameters
    ----------
    exclusive : bool
        Whether its project is kept from other windows, as a dock does.

    Attributes
    ----------
    changed : Signal(str)
        The part that changed: "slides", "classes", "counts", "sources", "model", "train", "predict", "results",
        "review", "project", "annotations" (a slide has another one), "running".
    wanted : Signal(str)
        A step that is to be opened.
    painted : Signal(Path, Region)
        The path of an annotation, and the region of it that a stroke touched.
    slides : list of SlideRecord
    active : SlideRecord, optional
        The slide that buttons act on.
    classes : tuple of str
        Names of classes 1..K, the same for all annotations.
    sets : list of ImageSet
        Labelled images from elsewhere.
    model_path : Path, optional
        The model that predicts: the last one trained, or one that was loaded.
    ensemble : tuple of Path
        Models that predict together with `model_path`.
    train_options, predict_options, measure_options : TrainChoices, PredictChoices, MeasureChoices
        Fields of the jobs.
    go_on : bool, optional
        Whether the next training begins with the weights of the model that predicts; None: where corrections count.
    to_review : (Path, int), optional
        Labels with a queue of places, and how many of these are open.
    predicted : set of Path
        Labels that the present model has predicted.
    retrained : bool
        Whether they were predicted by an earlier model before, and nobody has looked at what changed since.
    running : set of str
        The steps whose jobs run now.
    step : str
        The step that is open; empty: none.
    training : Path, optional
        The folder of the training that is under way, or was when the project was left.
    lost : list of SlideNote
        The slides of the project that are not where they were; they stay in the project until they are found.
    model_names : dict
        The names that a person gave to models, by their files.
    """

    changed = Signal(str)
    wanted = Signal(str)
    painted = Signal(object, object)

    def __init__(self, exclusive: bool = False) -> None:
        self.exclusive = exclusive
        self.project: Project | None = None
        self.slides: list[SlideRecord] = []
        self.active: SlideRecord | None = None
        self.classes: tuple[str, ...] = ("class 1",)
        self.sets: list[ImageSet] = []
        self.model_path: Path | None = None
        self.ensemble: tuple[Path, ...] = ()
        self.model_chosen = False
        self.go_on: bool | None = None
        self.train_options = TrainChoices(time_limit=TIME_LIMIT)
        self.predict_options: PredictChoices = PredictChoices()
        self.measure_options: MeasureChoices = MeasureChoices()
        self.running: set[StepName] = set()
        self.predicted: set[Path] = set()
        self.retrained = False
        self.corrected = False
        self.reviewed = False
        self.to_review: tuple[Path, int] | None = None
        self.exported: list[Path] = []
        self.step = ""
        self.training: Path | None = None
        self.lost: list[SlideNote] = []
        self.model_names: dict[Path, str] = {}
        self._model = one_scale(("class 1",), USUAL_MPP)

    def emit(self, what: str) -> None:
        """Emit `changed`."""
        self.changed.emit(what)

    # --------------------------------------------------------------------------------------------------------- slides

    def add_slide(self, record: SlideRecord) -> SlideRecord:
        """Add a slide and make it the active one; gives its record, or the record of the same file if there is one."""
        known = self.slide_at(record.path)
        if known is None:
            self.slides.append(record)
            known = record
        self.activate(known)
        return known

    def remove_slide(self, record: SlideRecord) -> None:
        """Forget a slide; its files stay."""
        if record in self.slides:
            self.slides.remove(record)
        if self.active is record:
            self.active = self.slides[-1] if self.slides else None
        self.emit("slides")

    def activate(self, record: SlideRecord | None) -> None:
        """Make a slide the one that buttons act on; a first slide suggests the resolution of an untouched model."""
        self.active = record
        if record is not None and not self.model_chosen:
            usual = self._model.mpp or USUAL_MPP
            fitting = suggested_mpp(record.mpp[0]) if record.mpp else None if record.in_pixels else usual
            self._model = self._model.model_copy(update={"mpp": fitting, "pixel": 1.0, "channels": record.channels})
        self.emit("slides")

    def slide_at(self, path: Path | None) -> SlideRecord | None:
        """The record of a file."""
        return next((r for r in self.slides if path is not None and r.path == Path(path)), None)

    def project_folder(self) -> Path:
        """Where the project is, or would be made."""
        if self.project is not None:
            return self.project.folder
        return default_folder(self.slides[0].path if self.slides else None)

    # --------------------------------------------------------------------------------------------- classes and counts

    def set_classes(self, names: tuple[str, ...]) -> None:
        """Set the class names."""
        if names != self.classes:
            self.classes = names
            self.emit("classes")

    def set_counts(self, record: SlideRecord, counts: dict[int, int], marked: int) -> None:
        """Set how much is annotated on a slide."""
        if (record.counts, record.marked, record.counted) != (counts, marked, True):
            record.counts, record.marked, record.counted = dict(counts), marked, True
            self.emit("counts")

    def take_counts(self, record: SlideRecord, store: LabelStore, found: dict[int, int]) -> None:
        """Set the counts of an annotation, in the order of the dock's classes; classes that the dock lacks are
        added."""
        names = store.classes
        unknown = [name for value, name in enumerate(names, 1) if found.get(value) and name not in self.classes]
        if unknown:
            fresh = self.classes == ("class 1",) and not any(r.counts for r in self.slides)
            kept = tuple(n for n in self.classes if n in names or not fresh)
            self.set_classes((*kept, *unknown))
        by_name = {name: found.get(value, 0) for value, name in enumerate(names, 1)}
        ordered = {value: by_name[n] for value, n in enumerate(self.classes, 1) if by_name.get(n)}
        if found.get(ANNOTATED_BACKGROUND):
            ordered[ANNOTATED_BACKGROUND] = found[ANNOTATED_BACKGROUND]
        self.set_counts(record, ordered, len(store.fully_annotated))

    def count_annotations(self) -> None:
        """Count the annotations that were not counted yet, so that a job does not depend on which steps were opened.

        Raises
        ------
        MsunetError
            If an annotation cannot be opened, so that nothing is trained without it unnoticed.
        """
        for record in self.slides:
            if record.counted and record.counter is None:
                continue
            counter = record.annotation_counter()
            if counter is not None and (not record.counted or counter.outdated):
                self.take_counts(record, counter.store, counter.scan())

    def count(self, value: int) -> int:
        """Annotated pixels of a value on all slides."""
        return sum(record.counts.get(value, 0) for record in self.slides)

    # ---------------------------------------------------------------------------------------------- model and options

    @property
    def model(self) -> ModelConfig:
        """The model to train, with the classes as they are now."""
        return with_enough_parts(self._model.model_copy(update={"classes": self.classes or ("class 1",)}))

    def set_model(self, config: ModelConfig) -> None:
        """Choose the model to train; `ValueError` if its fields do not fit together (pydantic does not check
        copies)."""
        self._model = ModelConfig.model_validate(config.model_dump())
        self.model_chosen = True
        self.emit("model")

    def leave_model_open(self) -> None:
        """Let the model be chosen from the images when a training begins."""
        self.model_chosen = False
        self.emit("model")

    def use_model(self, path: Path | None) -> None:
        """Choose the model file that predicts."""
        self.model_path = path
        self.emit("results")

    def take_trained(self, path: Path) -> None:
        """Choose the model of a training that has ended; what an earlier model predicted is to be predicted again."""
        if path != self.model_path and self.predicted:
            self.predicted.clear()
            self.retrained = True
        self.use_model(path)

    def start_from_model(self) -> None:
        """Let the next training begin with the weights of the model that predicts, and open its step."""
        self.go_on, self.model_chosen = True, False
        self.emit("model")
        self.wanted.emit("train")

    def name_model(self, path: Path, name: str) -> None:
        """Give a model a name; empty: its own again."""
        self.model_names = {**self.model_names, path: name}
        if not name:
            del self.model_names[path]
        self.emit("model")

    def set_ensemble(self, paths: tuple[Path, ...]) -> None:
        """Choose the models that predict together with the one that was chosen."""
        self.ensemble = paths
        self.emit("predict")

    def set_train_options(self, options: TrainChoices) -> None:
        """Choose how to train."""
        self.train_options = options
        self.emit("train")

    def set_predict_options(self, options: PredictChoices) -> None:
        """Choose how to predict."""
        self.predict_options = options
        self.emit("predict")

    def set_measure_options(self, options: MeasureChoices) -> None:
        """Choose what is measured."""
        self.measure_options = options
        self.emit("export")

    def set_sets(self, sets: Sequence[ImageSet]) -> None:
        """Choose the labelled images from elsewhere."""
        self.sets = list(sets)
        self.emit("sources")

    def set_role(self, record: SlideRecord, role: SlideRole) -> None:
        """Set what a slide's annotation is for."""
        record.role = role
        self.emit("sources")

    def set_to_review(self, labels: Path | None, places: int) -> None:
        """Set how many places of the review of these labels are open."""
        left = None if labels is None or not places else (labels.resolve(), places)
        if left != self.to_review:
            self.to_review = left
            self.emit("review")

    def make_project(self) -> Project:
        """The project; it is made where `project_folder` says if there is none yet."""
        if self.project is None:
            self.take_project(Project.create(self.project_folder()))
            self.emit("project")
        assert self.project is not None
        return self.project

    def take_project(self, project: Project) -> None:
        """Work in this project from now on; `ProjectError` if another window has it open."""
        if self.project is not project:
            self.leave_project()
        if self.exclusive:
            project.hold()
            note_recent(project.folder)
        self.project = project

    def leave_project(self) -> None:
        """Let other windows open the project."""
        if self.project is not None and self.exclusive:
            self.project.release()
        self.project = None

    def clear(self) -> None:
        """Forget slides, sources, model and options, as in a new dock; the files stay."""
        self.leave_project()
        fresh = State(self.exclusive)
        for name, value in vars(fresh).items():
            setattr(self, name, value)
        for what in ("slides", "classes", "counts", "sources", "model", "train", "predict", "results", "project"):
            self.emit(what)

    def set_running(self, step: StepName, running: bool) -> None:
        """Note that a step's job begins or has ended."""
        (self.running.add if running else self.running.discard)(step)
        self.emit("running")

    def blocked_by(self, step: StepName) -> StepName | None:
        """The step whose job a job of this step must wait for; None where it can begin."""
        return next((other for other in CONFLICTS[step] if other in self.running), None)
