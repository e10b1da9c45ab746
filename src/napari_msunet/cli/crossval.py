"""The verbs `crossval`, `experiment` and `preview`: trainings compared, and a look at what a training will see."""

from __future__ import annotations

from pathlib import Path

from napari_msunet.cli.options import RunOptions
from napari_msunet.cli.running import app, run_or_print
from napari_msunet.cli.source_options import SourceOptions
from napari_msunet.cli.train_options import ModelOptions, TrainOptions
from napari_msunet.config import CrossValidateJob, ExperimentJob, PreviewAugmentationJob
from napari_msunet.errors import MsunetError

_SOURCES, _MODEL, _TRAINING, _RUN = SourceOptions(), ModelOptions(), TrainOptions(), RunOptions()


@app.command
def crossval(
    *,
    classes: str,
    out: Path,
    folds: int = 5,
    sources: SourceOptions = _SOURCES,
    model: ModelOptions = _MODEL,
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
    folds : int
        How many.
    """
    found = sources.sources()
    config = model.config(classes)

    def build() -> CrossValidateJob:
        job = training.job(config, found, out).model_copy(update={"resume": False})
        return CrossValidateJob(training=job, folds=folds, out=out, resume=training.resume)

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
    count: int = 4,
    variants: int = 3,
    sources: SourceOptions = _SOURCES,
    model: ModelOptions = _MODEL,
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
    count : int
        How many windows.
    variants : int
        How many random changes of each.
    """
    found = sources.sources()
    config = model.config(classes)
    run_or_print(
        lambda: PreviewAugmentationJob(
            training=training.job(config, found, out), count=count, variants=variants, out=out
        ),
        options,
    )
