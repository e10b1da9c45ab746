"""Running a job in this process, with the same function for the command line, Python and the dock's worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from napari_msunet._io import input_error
from napari_msunet.config import (
    ContextJob,
    CrossValidateJob,
    EvaluateJob,
    ExperimentJob,
    ExportJob,
    ExportModelJob,
    FitHeadJob,
    Job,
    MeasureJob,
    PlanJob,
    PostprocessJob,
    PredictJob,
    PredictManyJob,
    PreviewAugmentationJob,
    PreviewJob,
    PyramidJob,
    RecalibrateJob,
    TimeTrainingJob,
    TrainJob,
    TuneJob,
    explain,
)
from napari_msunet.errors import MsunetError, as_path
from napari_msunet.events import Event, Message, Result, reported
from napari_msunet.names import loaded_again

_JOBS: TypeAdapter[Any] = TypeAdapter(Job)

Listener = Callable[[Event], None]

_EVENTS_OF: dict[type, str] = {
    TrainJob: "napari_msunet.training.fit:train_events",
    EvaluateJob: "napari_msunet.training.evaluate:evaluate_events",
    CrossValidateJob: "napari_msunet.training.cross_validation:crossval_events",
    ContextJob: "napari_msunet.training.search.context_study:context_events",
    ExperimentJob: "napari_msunet.training.experiments:experiment_events",
    TuneJob: "napari_msunet.training.search.search:tune_events",
    PreviewAugmentationJob: "napari_msunet.training.augmentation_preview:augmentation_preview_events",
    TimeTrainingJob: "napari_msunet.training.estimate:time_training_events",
    PredictJob: "napari_msunet.inference.many_slides:one_events",
    PredictManyJob: "napari_msunet.inference.many_slides:predict_many_events",
    PlanJob: "napari_msunet.inference.predict:plan_events",
    PostprocessJob: "napari_msunet.inference.postprocess:postprocess_events",
    PreviewJob: "napari_msunet.inference.image:preview_events",
    MeasureJob: "napari_msunet.annotation:measure_events",
    ExportJob: "napari_msunet.annotation:export_events",
    ExportModelJob: "napari_msunet.models.export_model:export_model_events",
    FitHeadJob: "napari_msunet.inference.instant:fit_head_events",
    RecalibrateJob: "napari_msunet.inference.recalibration:recalibrate_events",
    PyramidJob: "napari_msunet.jobs.run:pyramid_events",
}
"""The module and the function that run a job; loaded when one is run, since measuring must not wait for
torch."""


def run(job: Job) -> Iterator[Event]:
    """Run a job.

    Parameters
    ----------
    job : TrainJob, PredictJob, PredictManyJob, or another job of `napari_msunet.config`

    Yields
    ------
    Event
        What the job reports; the last event of a job that was not stopped is a `Result`. Closing the iterator stops the
        job, which keeps what its documentation promises (the best model so far, the finished tiles) and leaves no file
        half-written.

    Raises
    ------
    MsunetError
        When something in the job cannot be used; the error is one sentence.
    """
    yield from function_of(job)(job)


def function_of(job: Job) -> Callable[[Any], Iterator[Event]]:
    """The function that runs a job; its module is imported. `MsunetError` where it is no job."""
    found = next((_EVENTS_OF[kind] for kind in type(job).__mro__ if kind in _EVENTS_OF), None)
    if found is None:
        raise MsunetError(f"{job!r} is no job; give a TrainJob, PredictJob or another job of napari_msunet.config.")
    module, name = found.split(":")
    function: Callable[[Any], Iterator[Event]] = getattr(import_module(module), name)
    return function


def pyramid_events(job: PyramidJob) -> Iterator[Event]:
    """Write a pyramid; the events of a `PyramidJob`."""
    from napari_msunet.slide import build_pyramid, open_slide

    with open_slide(job.image, job.mpp, job.image_kind, job.value_range) as slide:
        if slide.mpp_note:
            yield Message(level="warning", text=f"{job.image.name}: {slide.mpp_note} The pyramid has no size in µm.")

        def work(report: Callable[[int, int], None]) -> Path:
            return build_pyramid(slide, job.out, progress=report)

        path = yield from reported(work, "blocks")
    yield Result(files={"pyramid": str(path)})


def parse_job(text: str | bytes, what: str = "The job") -> Job:
    """The job in a piece of JSON.

    Parameters
    ----------
    text : str or bytes
        The text that `job.model_dump_json()` writes.
    what : str
        The name of the job in errors.

    Raises
    ------
    MsunetError
        If the text is no job; the sentence names each field that cannot be used.
    """
    try:
        try:
            job: Job = _JOBS.validate_json(text)
        except ValidationError as error:
            job = _JOBS.validate_python(loaded_again(text, error))
    except ValidationError as error:
        raise explain(error, what) from error
    return job


def job_from_json(path: str | Path) -> Job:
    """The job in a JSON file; `MsunetError` where there is none."""
    try:
        text = as_path(path, "a job file").read_bytes()
    except OSError as error:
        raise input_error(f"The job file {path}", error, "give a JSON file of a job", MsunetError) from error
    return parse_job(text, f"The job file {path}")


def _finish(job: Job, on_event: Listener | None) -> Result:
    """Run a job to its end and give its result."""
    result = None
    for event in run(job):
        if on_event is not None:
            on_event(event)
        if isinstance(event, Result):
            result = event
    if result is None:
        raise MsunetError(f"The {job.job} job ended without a result; read its messages for the reason.")
    return result


@dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    Attributes
    ----------
    folder : Path
        The folder of the run.
    model_path : Path
        The best model; `load_model` reads it.
    metrics : dict
        Numbers of the best epoch and of the training, as plain values.
    files : dict of str to Path
        All files that it wrote, by their kind.
    """

    folder: Path
    model_path: Path
    metrics: dict[str, Any]
    files: dict[str, Path]

    @property
    def chosen_path(self) -> Path:
        """The model to use: the new one, unless it was to replace another and did worse on the frozen test images."""
        guard = self.metrics.get("guard") or {}
        return Path(guard["old_model"]) if guard.get("keep") == "old" else self.model_path


@dataclass(frozen=True)
class EvaluateResult:
    """The result of an evaluation: `scores` as plain values (pooled, per image, per output and class) and the
    `files`."""

    scores: dict[str, Any]
    files: dict[str, Path]


@dataclass(frozen=True)
class CrossValidateResult:
    """The result of a cross-validation: `scores` as plain values (each fold, mean and std), `models` and the
    `files`."""

    scores: dict[str, Any]
    models: tuple[Path, ...]
    files: dict[str, Path]


@dataclass(frozen=True)
class ExperimentResult:
    """The result of an experiment: `report` as plain values (variants, differences, trials), and the `files`."""

    report: dict[str, Any]
    files: dict[str, Path]


@dataclass(frozen=True)
class ContextResult:
    """The answer of a study of context.

    Attributes
    ----------
    answer : str
        "yes" (several scales are better), "no" (they gain nothing worth their time) or "unclear".
    sentence : str
        The answer with its numbers, and what to do.
    best : TrainJob
        The training that is advised.
    report : dict
        All that was found, as plain values.
    files : dict of str to Path
        The files that it wrote, by their kind.
    """

    answer: str
    sentence: str
    best: TrainJob
    report: dict[str, Any]
    files: dict[str, Path]


@dataclass(frozen=True)
class TuneResult:
    """The result of a search.

    Attributes
    ----------
    best : TrainJob
        The training that scored best, to be run on all images.
    dice : float
        Its Dice on groups that it had not seen, mean over the folds.
    report : dict
        All trials and what was found, as plain values.
    files : dict of str to Path
        The files that it wrote, by their kind.
    """

    best: TrainJob
    dice: float
    report: dict[str, Any]
    files: dict[str, Path]


@dataclass(frozen=True)
class MeasureResult:
    """The result of a measurement: one row of `classes` per class (area in µm²), and the CSV `files` that it wrote."""

    classes: list[dict[str, Any]]
    files: dict[str, Path]


@dataclass(frozen=True)
class ExportResult:
    """The result of an export: the `path` that it wrote."""

    path: Path


def _paths(result: Result) -> dict[str, Path]:
    return {name: Path(path) for name, path in result.files.items()}


def train(job: TrainJob, on_event: Listener | None = None) -> TrainResult:
    """Train a model and wait for it.

    Parameters
    ----------
    job : TrainJob
    on_event : callable, optional
        Called with each event.
    """
    result = _finish(job, on_event)
    files = _paths(result)
    return TrainResult(job.out, files.get("model", job.out / "model.safetensors"), result.values, files)


def evaluate(job: EvaluateJob, on_event: Listener | None = None) -> EvaluateResult:
    """Score a model against masks, and wait for it; `on_event` is called with each event."""
    result = _finish(job, on_event)
    return EvaluateResult(result.values, _paths(result))


def cross_validate(job: CrossValidateJob, on_event: Listener | None = None) -> CrossValidateResult:
    """Train and score a model once for each fold, and wait for it; `on_event` is called with each event."""
    result = _finish(job, on_event)
    files = _paths(result)
    models = tuple(files[f"model{n}"] for n in range(1, job.folds + 1))
    return CrossValidateResult(result.values, models, files)


def experiment(job: ExperimentJob, on_event: Listener | None = None) -> ExperimentResult:
    """Compare variants of a training, and wait for it; `on_event` is called with each event."""
    result = _finish(job, on_event)
    return ExperimentResult(result.values, _paths(result))


def context_study(job: ContextJob, on_event: Listener | None = None) -> ContextResult:
    """Ask whether context helps, and wait for the answer; `on_event` is called with each event."""
    result = _finish(job, on_event)
    files = _paths(result)
    best = job_from_json(files["best"])
    assert isinstance(best, TrainJob)  # for the type checker
    return ContextResult(result.values["answer"], result.values["sentence"], best, result.values, files)


def tune(job: TuneJob, on_event: Listener | None = None) -> TuneResult:
    """Search for the best options of a training, and wait for it; `on_event` is called with each event."""
    result = _finish(job, on_event)
    files = _paths(result)
    best = job_from_json(files["best"])
    assert isinstance(best, TrainJob)  # for the type checker
    return TuneResult(best, result.values["best"]["dice"], result.values, files)


def measure(job: MeasureJob, on_event: Listener | None = None) -> MeasureResult:
    """Measure the classes and objects of a label store, and wait for it; `on_event` is called with each event."""
    result = _finish(job, on_event)
    return MeasureResult(result.values["classes"], _paths(result))


def export(job: ExportJob, on_event: Listener | None = None) -> ExportResult:
    """Write labels in another format, and wait for it; `on_event` is called with each event."""
    _finish(job, on_event)
    return ExportResult(job.out)
