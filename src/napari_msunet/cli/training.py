"""The verbs of training: train, evaluate, crossval, experiment, preview."""

from __future__ import annotations

from pathlib import Path

from napari_msunet.cli.options import (
    CrossValidateOptions,
    EvaluateOptions,
    ModelOptions,
    NetworkOptions,
    PreviewOptions,
    RunOptions,
    SourceOptions,
    TrainOptions,
    training_of,
)
from napari_msunet.cli.running import app, run_or_print
from napari_msunet.config import CrossValidateJob, EvaluateJob, ExperimentJob, PreviewAugmentationJob
from napari_msunet.errors import MsunetError

_SOURCES, _MODEL, _NETWORKS, _TRAINING, _RUN = (
    *(SourceOptions(), ModelOptions(), NetworkOptions(), TrainOptions(), RunOptions()),
)
_FOLDS, _PREVIEW, _SCORING = CrossValidateOptions(), PreviewOptions(), EvaluateOptions()


@app.command
def train(
    *,
    classes: str,
    out: Path,
    sources: SourceOptions = _SOURCES,
    model: ModelOptions = _MODEL,
    networks: NetworkOptions = _NETWORKS,
    training: TrainOptions = _TRAINING,
    options: RunOptions = _RUN,
) -> None:
    """Train a model on folders of images and masks, on slides with painted labels, or on both.

    What is not given of the model is chosen from the images and the time; the reasons are said.

    Parameters
    ----------
    classes : str
        Names of classes 1, 2, ... with commas; background is not one.
    out : Path
        Folder of the run: the best model (model.safetensors), metrics.csv, curves.png, and what is needed to go on.
    """
    run_or_print(lambda: training_of(classes, out, sources, model, networks, training), options)


@app.command
def evaluate(
    *,
    model: Path,
    out: Path | None = None,
    scoring: EvaluateOptions = _SCORING,
    sources: SourceOptions = _SOURCES,
    options: RunOptions = _RUN,
) -> None:
    """Score a model against masks, fused and each scale alone, at the masks' own resolution.

    Parameters
    ----------
    model : Path
        The model.safetensors file.
    out : Path
        Folder for report.json and images.csv.
    """
    run_or_print(lambda: EvaluateJob(model=model, out=out, sources=sources.sources(), **scoring.values()), options)


@app.command
def crossval(
    *,
    classes: str,
    out: Path,
    folds: CrossValidateOptions = _FOLDS,
    sources: SourceOptions = _SOURCES,
    model: ModelOptions = _MODEL,
    networks: NetworkOptions = _NETWORKS,
    training: TrainOptions = _TRAINING,
    options: RunOptions = _RUN,
) -> None:
    """Train and score a model once for each fold: each group of images validates once.

    Parameters
    ----------
    classes : str
        Names of classes 1, 2, ... with commas; background is not one.
    out : Path
        Folder: a training run for each fold, folds.csv and report.json. With --resume, finished folds are kept.
    """

    def build() -> CrossValidateJob:
        job = training_of(classes, out, sources, model, networks, training)
        own = job.model_copy(update={"resume": False})
        return CrossValidateJob(training=own, out=out, resume=job.resume, **folds.values())

    run_or_print(build, options)


@app.command
def experiment(file: Path, *, out: Path | None = None, resume: bool = False, options: RunOptions = _RUN) -> None:
    """Compare variants of a training on the same folds and seeds, in equal processor time.

    Parameters
    ----------
    file : Path
        A JSON file: the training (as `train --print-job` prints it), the variants, folds, seeds and seconds.
    out : Path
        Folder for trials, table.csv, report.json and report.md; without it, the file's.
    resume : bool
        Go on with the experiment in the folder where it stopped.
    """
    from napari_msunet.jobs import job_from_json

    def build() -> ExperimentJob:
        job = job_from_json(file)
        if not isinstance(job, ExperimentJob):
            raise MsunetError(f"{file} is a job of another kind ({job.job}); give one whose job is experiment.")
        changes = {"resume": resume or job.resume} | ({} if out is None else {"out": out})
        return job.model_copy(update=changes)

    run_or_print(build, options)


@app.command
def preview(
    *,
    classes: str,
    out: Path,
    shown: PreviewOptions = _PREVIEW,
    sources: SourceOptions = _SOURCES,
    model: ModelOptions = _MODEL,
    networks: NetworkOptions = _NETWORKS,
    training: TrainOptions = _TRAINING,
    options: RunOptions = _RUN,
) -> None:
    """Show what each scale will see of some training windows, unchanged and after their random changes.

    Parameters
    ----------
    classes : str
        Names of classes 1, 2, ... with commas; background is not one.
    out : Path
        Folder for preview.png and preview.npz.
    """

    def build() -> PreviewAugmentationJob:
        job = training_of(classes, out, sources, model, networks, training)
        return PreviewAugmentationJob(training=job, out=out, **shown.values())

    run_or_print(build, options)
