"""What follows from the state of the dock: what each step can do, what is missing for it, and which step comes next.

`resolve` needs no window and changes nothing, so that advice, buttons and jobs cannot contradict each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from napari_msunet.config import (
    AnyModel,
    AutoModel,
    EvaluateJob,
    ExportJob,
    ExportModelJob,
    MeasureJob,
    PredictJob,
    Role,
    SlideSource,
    Source,
    TrainJob,
    explain,
)
from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region
from napari_msunet.slide.pixel_size import PIXELS
from napari_msunet.widgets.state import CONFLICTS, OPTIONAL, STEPS, SlideRecord, State, StepName

NO_SLIDE = "Choose a slide: a file, or an image layer that is open."
NO_MODEL = "Train a model first, or load a model file in the Model step."

PREDICT_AGAIN = "The model has learned from your work: predict again, and see what changed."
SEE_CHANGES = (
    'Predicted anew. Tick "Show what changed since the last prediction" in Predict; then correct on, or export.'
)

_RUNNING = {
    "predict": "Predicting.",
    "export": "Working.",
    "train": "Training. Everything else can be used meanwhile.",
}


Made = TypeVar("Made", bound=BaseModel)


@dataclass(frozen=True)
class Possible:
    """What a step can do now.

    Attributes
    ----------
    missing : str, optional
        What is missing before the step can be done, as one sentence.
    done : bool
        Whether the step was done, so that the next one can come.
    waits_for : str, optional
        The step whose job it has to wait for.
    job : TrainJob or PredictJob, optional
        The job that its main button would begin, with free names for its files; only for Train and Predict, where
        nothing is missing.
    problem : str, optional
        Why there is no such job although nothing is missing, such as options that do not fit together.
    """

    missing: str | None
    done: bool
    waits_for: StepName | None
    job: TrainJob | PredictJob | None = None
    problem: str | None = None

    @property
    def ready(self) -> bool:
        """Whether the step can begin."""
        return self.missing is None and self.waits_for is None and self.problem is None


@dataclass(frozen=True)
class Resolved:
    """What follows from a state: for each step what it can do, and which step to do next."""

    steps: Mapping[StepName, Possible]
    next_step: StepName
    advice: str


def resolve(state: State) -> Resolved:
    """What each step can do now, and what comes next."""
    steps = {step: _possible(state, step) for step in STEPS}
    return Resolved(MappingProxyType(steps), next_step(state), advice(state))


def _possible(state: State, step: StepName) -> Possible:
    lacks = missing(state, step)
    job, problem = None, None
    if lacks is None and step in ("train", "predict"):
        free = state.project_folder()
        try:
            job = train_job(state, free / "runs" / "next") if step == "train" else predict_job(state, draft=True)
        except MsunetError as error:
            problem = str(error)
    return Possible(lacks, done(state, step), blocked_by(state, step), job, problem)


def missing(state: State, step: StepName) -> str | None:
    """What is missing before a step can be done, as one sentence; None when it can be done."""
    if step in ("slide", "model"):
        return None
    if step == "annotate":
        return _no_slide(state)
    if step == "train":
        return _no_truth(state)
    if step == "predict":
        return _no_slide(state) or _gone(state.active) or _no_model(state)
    return _no_labels(state)


def done(state: State, step: StepName) -> bool:
    """Whether a step was done, so that the next one can come."""
    if step == "slide":
        return bool(state.sets) or any(record.sized for record in state.slides)
    if step == "annotate":
        return _no_truth(state) is None or _model_is_there(state)
    if step == "model":
        return True  # the model is chosen from the images unless the person chooses it
    if step == "train":
        return _model_is_there(state)
    if step == "predict":
        return any(record.labels in state.predicted for record in state.slides)
    if step == "correct":
        return state.corrected or any(record.edited for record in state.slides)
    if step == "review":
        return state.reviewed
    if step == "export":
        return bool(state.exported)
    return True  # a step that nothing waits for


def advice(state: State) -> str:
    """What to do next, as a sentence."""
    step = next_step(state)
    for running, sentence in _RUNNING.items():
        if running in state.running:
            return sentence
    if (sentence := interrupted(state)) is not None and step == "train":
        return sentence
    if step == "slide":
        return _unknown_size(state) or NO_SLIDE
    if step == "annotate":
        return missing(state, "annotate") or _no_truth(state) or ""
    if state.retrained and step in ("correct", "export"):
        return missing(state, step) or SEE_CHANGES
    return (
        missing(state, step)
        or {
            "train": "Everything is there: press Train.",
            "predict": PREDICT_AGAIN
            if state.retrained
            else "The model is ready: predict what is in view, or the whole slide.",
            "correct": "Look at the labels, paint over what is wrong, then train again; or go on and export.",
            "review": _go_on_reviewing(left_to_review(state)),
            "export": "Export the labels or measure them."
            if not state.exported
            else "Done. Go on with any step you like.",
        }[step]
    )


def interrupted(state: State) -> str | None:
    """A sentence about the training that was under way when the project was left; None where none was."""
    if state.training is None or "train" in state.running or not (state.training / "last.ckpt").is_file():
        return None
    return "A training was interrupted: press Continue to go on with it, or train anew."


def left_to_review(state: State) -> int:
    """How many places of the active slide's review are open."""
    record, queue = state.active, state.to_review
    if record is None or record.labels is None or queue is None or record.labels.resolve() != queue[0]:
        return 0
    return queue[1]


def kind(name: str) -> str:
    """A kind of slide as people write it."""
    return "bright-field" if name == "brightfield" else name


def pixel_size(record: SlideRecord | None) -> str:
    """A sentence about where the size of a slide's pixels comes from, or how to find it out."""
    if record is None:
        return ""
    if record.in_pixels:
        return "Its own pixels count, not µm: for models that work in pixels. Scales are relative to them."
    if record.mpp is None:
        missing = record.mpp_note or "The file does not say how large a pixel is."
        return (
            f"{missing} Three ways: type it in µm (about 0.25 for a scan at 40×, 0.5 at 20×, 1 at 10×; the scanner's "
            "report has it exactly); measure a known length, such as a scale bar; or choose pixels, for an image that "
            "has no size in µm, such as a photograph or an X-ray."
        )
    if record.mpp_given:
        return "As given here; it is kept in the project."
    return "From the file."


def _go_on_reviewing(left: int) -> str:
    places = "1 place is" if left == 1 else f"{left:,} places are"
    return f"Go on with the review: {places} left. Or export, if you have seen enough."


def _no_slide(state: State) -> str | None:
    return (NO_SLIDE if not state.slides else None) or _unknown_size(state)


def _unknown_size(state: State) -> str | None:
    """What is missing of the active slide's size; another slide without one does not stand in the way of it."""
    record = state.active or next(iter(state.slides), None)
    return None if record is None else _no_size(record)


def _no_size(record: SlideRecord) -> str | None:
    if record.sized:
        return None
    return (
        f"{record.path.name} does not say how many µm a pixel has: give or measure it in the Slide step, or choose "
        "pixels."
    )


def _gone(record: SlideRecord | None) -> str | None:
    if record is None or record.path.exists():
        return None
    return f"{record.path} is no longer there: put it back, or choose where it is now in the Slide step."


def _model_is_there(state: State) -> bool:
    return state.model_path is not None and state.model_path.is_file()


def _no_model(state: State) -> str | None:
    if state.model_path is not None and not state.model_path.is_file():
        return f"The model {state.model_path} is no longer there: load another, or train again."
    return NO_MODEL if state.model_path is None else None


def _no_truth(state: State) -> str | None:
    """What is missing in the training data, as a sentence."""
    unreadable = next((r.unreadable for r in state.slides if r.annotation and r.unreadable), None)
    if unreadable:
        return unreadable
    if any(r.annotation and not r.counted for r in state.slides):
        return "What is annotated is being counted."
    if state.sets:
        return next((text for r in state.slides if r.annotated and (text := _gone(r))), None)
    if not state.slides:
        return "Open a slide and annotate it, or add labelled images under Sources."
    used = [record for record in state.slides if record.annotated or record is state.active]
    if gone := next((text for r in used if (text := _gone(r))), None):
        return gone
    annotated = [record for record in state.slides if record.annotated]
    if unknown := next((text for r in annotated or used if (text := _no_size(r))), None):
        return unknown
    if any(record.corrections and record.labels for record in state.slides):
        return None
    if not any(record.annotation for record in state.slides):
        return "Press Start annotating, then paint a few strokes of each class."
    empty = [name for value, name in enumerate(state.classes, 1) if not state.count(value)]
    if not (state.count(ANNOTATED_BACKGROUND) or any(record.marked for record in state.slides)):
        empty.append("background")
    if not empty:
        return None
    have = "has none yet" if len(empty) == 1 else "have none yet"
    return f"Paint a few strokes of each class and of background: {_and(empty)} {have}."


def _no_labels(state: State) -> str | None:
    if state.active is not None and state.active.labels is not None and state.active.labels.exists():
        return None
    return _no_slide(state) or "Predict first: this slide has no labels yet."


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def next_step(state: State) -> StepName:
    """The step to do now: the first that is not done and not optional, or a review that was begun."""
    left = (step for step in STEPS if step not in OPTIONAL and not done(state, step))
    first: StepName = next(left, "export")
    if first != "slide" and interrupted(state):
        return "train"
    return "review" if first != "slide" and left_to_review(state) else first


def blocked_by(state: State, step: StepName) -> StepName | None:
    """The step whose job a job of this step must wait for; None where it can begin."""
    return next((other for other in CONFLICTS.get(step, ()) if other in state.running), None)


# ---------------------------------------------------------------------------------------------------------------- jobs


def wanted_model(state: State) -> AnyModel:
    """The model to train, as far as it is known before the images are looked at."""
    if state.model_chosen:
        return state.model
    in_pixels = any(r.in_pixels for r in state.slides) or any(s.mpp == PIXELS for s in state.sets)
    return AutoModel(classes=state.model.classes, mpp=PIXELS if in_pixels else None)


def sources(state: State) -> tuple[Source, ...]:
    """The sources of truth: annotated slides, corrected labels, labelled images from elsewhere."""
    found: list[Source] = []
    for record in state.slides:
        if record.role == "none":
            continue
        common: dict[str, Any] = {"slide": record.path, "mpp": record.job_mpp, "role": record.role}
        common |= record.job_numbers
        if record.annotated and record.annotation:
            found.append(SlideSource(labels=record.annotation, within=record.within or "all", **common))
        if record.corrections and record.labels:
            found.append(SlideSource(labels=record.labels, edited_only=True, **common))
    return (*found, *state.sets)


def train_job(state: State, out: Path | None = None, resume: bool = False) -> TrainJob:
    """The training that the Train button starts; `MsunetError` saying what is missing."""
    _needs(state, "train")
    used = sources(state)
    if not used:
        raise MsunetError(
            "All slides are left out of the training: click one with the right button in the Slide step to use it."
        )
    values = {"model": wanted_model(state), "sources": used, "out": out or state.make_project().new_run()}
    return _made(TrainJob, "The training", **values, resume=resume, **dict(state.train_options))


def predict_job(
    state: State, record: SlideRecord | None = None, region: Region | None = None, draft: bool = False, **chosen: object
) -> PredictJob:
    """The prediction of a slide, or a region of it; `MsunetError` saying what is missing.

    Parameters
    ----------
    draft : bool
        Whether the job will not be run as it is, so that no project is made for it.
    **chosen
        Options in place of those in `predict_options`, such as `where`.
    """
    _needs(state, "predict")
    record = record or state.active
    assert record is not None
    free = state.project_folder() / "predictions" if draft else None
    out = record.labels or free or state.make_project().labels_path(record.name)
    model = (state.model_path, *state.ensemble) if state.ensemble else state.model_path
    values = {"slide": record.path, "slide_mpp": record.job_mpp, "model": model, "out": out, "region": _box(region)}
    values |= record.job_numbers
    options = {**dict(state.predict_options), **chosen}
    if options["where"] == "tissue":
        options["where"] = record.within or "tissue"
    return _made(PredictJob, "The prediction", **values, **options)


def evaluate_job(state: State, roles: tuple[Role, ...] | None = ("test",), out: Path | None = None) -> EvaluateJob:
    """Scores of the model on the sources of these roles; `MsunetError` saying what is missing."""
    if state.model_path is None:
        raise MsunetError(NO_MODEL)
    found = [s for s in sources(state) if roles is None or s.role in roles]
    if not found:
        raise MsunetError("No source has the role test: give it to a slide or a folder in the Annotate step.")
    values = {"model": state.model_path, "sources": tuple(found), "roles": roles, "out": out}
    return _made(EvaluateJob, "The evaluation", **values, device=state.train_options.device)


def export_job(state: State, out: Path, record: SlideRecord | None = None, region: Region | None = None) -> ExportJob:
    """The labels of a slide in another format; `MsunetError` saying what is missing."""
    return _made(ExportJob, "The export", labels=_labels(state, record), out=out, region=_box(region))


def export_model_job(state: State, out: Path) -> ExportModelJob:
    """The model for other programs; `MsunetError` where there is none."""
    if state.model_path is None or not state.model_path.is_file():
        raise MsunetError(NO_MODEL)
    return _made(ExportModelJob, "The export", model=state.model_path, out=out)


def measure_job(state: State, out: Path, record: SlideRecord | None = None, region: Region | None = None) -> MeasureJob:
    """The measures of a slide's labels; `MsunetError` saying what is missing."""
    labels = _labels(state, record)
    record = record or state.active
    assert record is not None
    values = {"slide": record.path, "slide_mpp": record.job_mpp, "tissue": record.tissue, **record.job_numbers}
    options = dict(state.measure_options)
    return _made(MeasureJob, "The measurement", labels=labels, out=out, region=_box(region), **values, **options)


def _labels(state: State, record: SlideRecord | None) -> Path:
    _needs(state, "export")
    record = record or state.active
    assert record is not None
    assert record.labels is not None
    return record.labels


def _needs(state: State, step: StepName) -> None:
    if (sentence := missing(state, step)) is not None:
        raise MsunetError(sentence)


def _box(region: Region | None) -> tuple[float, float, float, float] | None:
    return None if region is None else (region.y, region.x, region.height, region.width)


def _made(kind: type[Made], what: str, **values: object) -> Made:
    try:
        return kind(**values)
    except ValidationError as error:
        raise explain(error, what) from error
