"""What the dock knows, without a window: slides, sources, the model, the options and the results so far.

Intent and data together make a frozen request: `train_job()`, `predict_job()` and so on give a job that can be run,
copied as Python or sent to the worker. What is missing for one is said in words by `missing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from psygnal import Signal
from pydantic import ValidationError

from napari_msunet.config import (
    AnyModel,
    AutoModel,
    EvaluateJob,
    ExportJob,
    ImageSet,
    MeasureJob,
    ModelConfig,
    PredictJob,
    Role,
    SlideSource,
    Source,
    TrainJob,
    explain,
)
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region
from napari_msunet.labels import LabelStore
from napari_msunet.project import Project, default_folder
from napari_msunet.slide.units import PIXELS
from napari_msunet.widgets.dock import words
from napari_msunet.widgets.dock.options import PredictOptions, TrainOptions
from napari_msunet.widgets.dock.presets import one_scale
from napari_msunet.widgets.dock.slide_record import SlideRecord

USUAL_MPP = 0.5
"""Of a model, where no slide says anything."""

__all__ = ["BACKGROUND", "OPTIONAL", "STEPS", "SlideRecord", "State", "StepName"]

StepName = Literal["slide", "annotate", "model", "train", "predict", "correct", "review", "export"]
STEPS: tuple[StepName, ...] = get_args(StepName)
OPTIONAL: tuple[StepName, ...] = ("review",)
"""Steps that come next only while they are under way."""

CONFLICTS: dict[StepName, tuple[StepName, ...]] = {
    "train": ("train",),
    "predict": ("predict", "export"),
    "export": ("export", "predict"),
}
"""For the jobs of each step, those of which steps they wait for: labels are written by one, and not read meanwhile."""

TIME_LIMIT = 600.0
"""Seconds that a training takes unless the person says otherwise."""

BACKGROUND = 255
"""The value of annotated background in an annotation."""


class State:
    """Everything the dock decides and has found out. Changing it through its methods emits `changed`.

    Attributes
    ----------
    changed : Signal(str)
        What changed: "slides", "classes", "counts", "sources", "model", "train", "predict", "results", "review",
        "project".
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
        Models that predict together with it.
    train_options, predict_options : TrainOptions, PredictOptions
        Fields of the jobs.
    to_review : (Path, int), optional
        Labels with a queue of places, and how many of these are open.
    running : set of str
        The steps whose jobs run now.
    """

    changed = Signal(str)

    def __init__(self) -> None:
        self.project: Project | None = None
        self.slides: list[SlideRecord] = []
        self.active: SlideRecord | None = None
        self.classes: tuple[str, ...] = ("class 1",)
        self.sets: list[ImageSet] = []
        self.model_path: Path | None = None
        self.ensemble: tuple[Path, ...] = ()
        self.model_chosen = False
        self.train_options = TrainOptions(time_limit=TIME_LIMIT)
        self.predict_options: PredictOptions = PredictOptions()
        self.running: set[StepName] = set()
        self.predicted: set[Path] = set()
        self.corrected = False
        self.reviewed = False
        self.to_review: tuple[Path, int] | None = None
        self.exported: list[Path] = []
        self._model = one_scale(("class 1",), USUAL_MPP)

    def emit(self, what: str) -> None:
        """Tell that something changed."""
        self.changed.emit(what)

    # --------------------------------------------------------------------------------------------------------- slides

    def add_slide(self, record: SlideRecord) -> SlideRecord:
        """Take a slide in and make it the active one; the record that is there already, if its file is."""
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
            fitting = words.suggested_mpp(record.mpp[0]) if record.mpp else None if record.in_pixels else usual
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
        """Other class names."""
        if names != self.classes:
            self.classes = names
            self.emit("classes")

    def set_counts(self, record: SlideRecord, counts: dict[int, int], marked: int) -> None:
        """What is annotated on a slide now."""
        if (record.counts, record.marked, record.counted) != (counts, marked, True):
            record.counts, record.marked, record.counted = dict(counts), marked, True
            self.emit("counts")

    def take_counts(self, record: SlideRecord, store: LabelStore, found: dict[int, int]) -> None:
        """Take in what was counted in an annotation, in the order of the dock's classes; those it lacks are added."""
        names = store.classes
        unknown = [name for value, name in enumerate(names, 1) if found.get(value) and name not in self.classes]
        if unknown:
            fresh = self.classes == ("class 1",) and not any(r.counts for r in self.slides)
            kept = tuple(n for n in self.classes if n in names or not fresh)
            self.set_classes((*kept, *unknown))
        by_name = {name: found.get(value, 0) for value, name in enumerate(names, 1)}
        ordered = {value: by_name[n] for value, n in enumerate(self.classes, 1) if by_name.get(n)}
        if found.get(BACKGROUND):
            ordered[BACKGROUND] = found[BACKGROUND]
        self.set_counts(record, ordered, len(store.fully_annotated))

    def count_annotations(self) -> None:
        """Count now what was not counted yet, so that a request does not depend on what somebody has looked at.

        Raises
        ------
        MsunetError
            If an annotation cannot be opened: nothing is trained without it unseen.
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
        return self._model.model_copy(update={"classes": self.classes or ("class 1",)})

    def set_model(self, config: ModelConfig) -> None:
        """Choose the model to train; `ValueError` if its fields do not fit together (a copy is made unchecked)."""
        self._model = ModelConfig.model_validate(config.model_dump())
        self.model_chosen = True
        self.emit("model")

    def leave_model_open(self) -> None:
        """Have the model chosen from the images when a training begins."""
        self.model_chosen = False
        self.emit("model")

    @property
    def wanted_model(self) -> AnyModel:
        """What is known of the model to train before the images are looked at."""
        if self.model_chosen:
            return self.model
        in_pixels = any(r.in_pixels for r in self.slides) or any(s.mpp == PIXELS for s in self.sets)
        return AutoModel(classes=self.model.classes, mpp=PIXELS if in_pixels else None)

    def use_model(self, path: Path | None) -> None:
        """Choose the model file that predicts."""
        self.model_path = path
        self.emit("results")

    def set_ensemble(self, paths: tuple[Path, ...]) -> None:
        """Choose the models that predict together with the one that was chosen."""
        self.ensemble = paths
        self.emit("predict")

    def set_train_options(self, options: TrainOptions) -> None:
        """Choose how to train."""
        self.train_options = options
        self.emit("train")

    def set_predict_options(self, options: PredictOptions) -> None:
        """Choose how to predict."""
        self.predict_options = options
        self.emit("predict")

    def set_sets(self, sets: Sequence[ImageSet]) -> None:
        """Choose the labelled images from elsewhere."""
        self.sets = list(sets)
        self.emit("sources")

    def set_role(self, record: SlideRecord, role: Role) -> None:
        """Say what a slide's annotation is for."""
        record.role = role
        self.emit("sources")

    def set_to_review(self, labels: Path | None, places: int) -> None:
        """Say how many places of these labels' review are open."""
        left = None if labels is None or not places else (labels.resolve(), places)
        if left != self.to_review:
            self.to_review = left
            self.emit("review")

    # ------------------------------------------------------------------------------------------------------- requests

    def sources(self) -> tuple[Source, ...]:
        """Where truth comes from: annotated slides, corrected labels, labelled images from elsewhere."""
        found: list[Source] = []
        for record in self.slides:
            common: dict[str, Any] = {"slide": record.path, "mpp": record.job_mpp, "role": record.role}
            common |= record.job_numbers
            if record.annotated and record.annotation:
                found.append(SlideSource(labels=record.annotation, within=record.within or "all", **common))
            if record.corrections and record.labels:
                found.append(SlideSource(labels=record.labels, edited_only=True, **common))
        return (*found, *self.sets)

    def train_job(self, out: Path | None = None, resume: bool = False) -> TrainJob:
        """The training that the Train button starts; `MsunetError` saying what is missing."""
        self.count_annotations()
        self._needs("train")
        values = {"model": self.wanted_model, "sources": self.sources(), "out": out or self.make_project().new_run()}
        return _made(TrainJob, "The training", **values, resume=resume, **dict(self.train_options))

    def predict_job(
        self, record: SlideRecord | None = None, region: Region | None = None, draft: bool = False, **chosen: Any
    ) -> PredictJob:
        """The prediction of a slide, or a region of it; `MsunetError` saying what is missing.

        Parameters
        ----------
        draft : bool
            It will not be run as it is: no project is made for it.
        **chosen
            Options in place of those in `predict_options`, such as `where`.
        """
        self._needs("predict")
        record = record or self.active
        assert record is not None
        free = self.project_folder() / "predictions" if draft else None
        out = record.labels or free or self.make_project().labels_path(record.name)
        model = (self.model_path, *self.ensemble) if self.ensemble else self.model_path
        values = {"slide": record.path, "slide_mpp": record.job_mpp, "model": model, "out": out, "region": _box(region)}
        values |= record.job_numbers
        options = {**dict(self.predict_options), **chosen}
        if options["where"] == "tissue":
            options["where"] = record.within or "tissue"
        return _made(PredictJob, "The prediction", **values, **options)

    def evaluate_job(self, roles: tuple[Role, ...] | None = ("test",), out: Path | None = None) -> EvaluateJob:
        """Scores of the model on the sources of these roles; `MsunetError` saying what is missing."""
        if self.model_path is None:
            raise MsunetError(words.NO_MODEL)
        self.count_annotations()
        sources = [s for s in self.sources() if roles is None or s.role in roles]
        if not sources:
            raise MsunetError("No source has the role test: give it to a slide or a folder in the Annotate step.")
        values = {"model": self.model_path, "sources": tuple(sources), "roles": roles, "out": out}
        return _made(EvaluateJob, "The evaluation", **values, device=self.train_options.device)

    def export_job(self, out: Path, record: SlideRecord | None = None, region: Region | None = None) -> ExportJob:
        """The labels of a slide in another format; `MsunetError` saying what is missing."""
        return _made(ExportJob, "The export", labels=self._labels(record), out=out, region=_box(region))

    def measure_job(self, out: Path, record: SlideRecord | None = None, region: Region | None = None) -> MeasureJob:
        """The measures of a slide's labels; `MsunetError` saying what is missing."""
        return _made(MeasureJob, "The measurement", labels=self._labels(record), out=out, region=_box(region))

    def _labels(self, record: SlideRecord | None) -> Path:
        self._needs("export")
        record = record or self.active
        assert record is not None
        assert record.labels is not None
        return record.labels

    def _needs(self, step: StepName) -> None:
        if (sentence := self.missing(step)) is not None:
            raise MsunetError(sentence)

    def make_project(self) -> Project:
        """The project; it is made where `project_folder` says if there is none yet."""
        if self.project is None:
            self.project = Project.create(self.project_folder())
            self.emit("project")
        return self.project

    def set_running(self, step: StepName, running: bool) -> None:
        """Say that a step's job begins or has ended."""
        (self.running.add if running else self.running.discard)(step)
        self.emit("running")

    def blocked_by(self, step: StepName) -> StepName | None:
        """The step whose job a job of this step must wait for; None where it can begin."""
        return next((other for other in CONFLICTS[step] if other in self.running), None)

    # --------------------------------------------------------------------------------------------------- what is next

    def missing(self, step: StepName) -> str | None:
        """What is missing before a step can be done, as one sentence; None when it can be done."""
        return words.missing(self, step)

    def done(self, step: StepName) -> bool:
        """Whether a step was done, so that the next one can come."""
        return words.done(self, step)

    def next_step(self) -> StepName:
        """The step to do now: the first that is not done and not optional, or a review that was begun."""
        first = next((step for step in STEPS if step not in OPTIONAL and not self.done(step)), "export")
        return "review" if first != "slide" and words.left_to_review(self) else first

    def advice(self) -> str:
        """What to do next, in words."""
        return words.advice(self)


def _box(region: Region | None) -> tuple[float, float, float, float] | None:
    return None if region is None else (region.y, region.x, region.height, region.width)


def _made(kind: Any, what: str, **values: Any) -> Any:
    try:
        return kind(**values)
    except ValidationError as error:
        raise explain(error, what) from error
