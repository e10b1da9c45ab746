"""The verbs of training: train, evaluate, crossval, experiment, context, tune, preview, estimate, retrain, compare,
agree."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from napari_msunet.app.retraining import REPLAY, corrections, retraining_job
from napari_msunet.cli.options import (
    ContextOptions,
    CrossValidateOptions,
    DamageOptions,
    EvaluateOptions,
    ModelOptions,
    NetworkOptions,
    PixelSizeOption,
    PresetOption,
    PreviewOptions,
    RunOptions,
    SourceOptions,
    TrainOptions,
    TuneOptions,
    parse_region,
    parse_space,
    training_of,
)
from napari_msunet.cli.running import app, run_or_print, warn_of
from napari_msunet.config import (
    ContextJob,
    CrossValidateJob,
    EvaluateJob,
    ExperimentJob,
    PreviewAugmentationJob,
    TimeTrainingJob,
    TrainJob,
    TuneJob,
)
from napari_msunet.errors import MsunetError

# ----------------------------------------------------------------------------------------------------------------------
# The verbs of training: train, evaluate, crossval, experiment, context, tune, preview, estimate.

_SOURCES, _MODEL, _NETWORKS, _TRAINING, _RUN = (
    *(SourceOptions(), ModelOptions(), NetworkOptions(), TrainOptions(), RunOptions()),
)
_FOLDS, _PREVIEW, _SCORING = CrossValidateOptions(), PreviewOptions(), EvaluateOptions()
_STUDY, _SEARCH = ContextOptions(), TuneOptions()


@app.command
def train(
    *,
    classes: str,
    out: Path,
    sources: SourceOptions = _SOURCES,
    model: ModelOptions = _MODEL,
    networks: NetworkOptions = _NETWORKS,
    training: TrainOptions = _TRAINING,
    preset: PresetOption = None,
    options: RunOptions = _RUN,
) -> None:
    """Train a model on folders of images and masks, on slides with painted labels, or on both.

    Options of the model that are not given are chosen from the images and the time; messages give the reasons.

    Parameters
    ----------
    classes : str
        Names of classes 1, 2, ... with commas; background is not one.
    out : Path
        Folder of the run: the best model (model.safetensors), metrics.csv, curves.png, and the files to continue from.
    """
    run_or_print(lambda: training_of(classes, out, sources, model, networks, training, preset), options)


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
    preset: PresetOption = None,
    options: RunOptions = _RUN,
) -> None:
    """Train and score a model once for each fold: each group of images validates once.

    Parameters
    ----------
    classes : str
        Names of classes 1, 2, ... with commas; background is not one.
    out : Path
        Folder for a training run of each fold, folds.csv and report.json. With --resume, finished folds are kept.
    """

    def build() -> CrossValidateJob:
        job = training_of(classes, out, sources, model, networks, training, preset)
        own = job.model_copy(update={"resume": False})
        return CrossValidateJob(training=own, out=out, resume=job.resume, **folds.values())

    run_or_print(build, options)


@app.command
def experiment(
    file: Path,
    *,
    data: Path | None = None,
    short: bool = False,
    out: Path | None = None,
    resume: bool = False,
    options: RunOptions = _RUN,
) -> None:
    """Compare variants of a training on the same folds and seeds, in equal processor time.

    Parameters
    ----------
    file : Path
        A JSON file: the training (as `train --print-job` prints it), the variants, folds, seeds and seconds. It may
        also be a search, with the fields of `tune`.
    data : Path
        The folder that DATA stands for at the beginning of paths in the file.
    short : bool
        With the fields under "short" in the file, such as fewer seconds: a first look instead of a result.
    out : Path
        Folder for trials, table.csv, report.json and report.md; without it, the folder that the file names.
    resume : bool
        Continue the experiment in the folder where it stopped.
    """
    from napari_msunet.jobs.experiment_files import read_comparison

    def build() -> ExperimentJob | TuneJob:
        job = read_comparison(file, data, short)
        changes = {"resume": resume or job.resume} | ({} if out is None else {"out": out})
        return job.model_copy(update=changes)

    run_or_print(build, options)


@app.command
def context(
    *,
    classes: str,
    out: Path,
    study: ContextOptions = _STUDY,
    sources: SourceOptions = _SOURCES,
    model: ModelOptions = _MODEL,
    networks: NetworkOptions = _NETWORKS,
    training: TrainOptions = _TRAINING,
    options: RunOptions = _RUN,
) -> None:
    """Ask whether context helps on these images: several scales against one, in equal time, on held-out groups.

    Parameters
    ----------
    classes : str
        Names of classes 1, 2, ... with commas; background is not one.
    out : Path
        Folder for the trainings, answer.md (the answer and the table), and best.json: the training that is advised,
        which `napari-msunet run` runs. With --resume, finished trainings are kept.
    """

    def build() -> ContextJob:
        job = training_of(classes, out, sources, model, networks, training)
        own = job.model_copy(update={"resume": False})
        return ContextJob(training=own, out=out, resume=job.resume, **study.values())

    run_or_print(build, options)


@app.command
def tune(
    *,
    classes: str,
    out: Path,
    space: str | None = None,
    search: TuneOptions = _SEARCH,
    sources: SourceOptions = _SOURCES,
    model: ModelOptions = _MODEL,
    networks: NetworkOptions = _NETWORKS,
    training: TrainOptions = _TRAINING,
    options: RunOptions = _RUN,
) -> None:
    """Search for the options with which a training scores best on groups that it has not seen.

    The time limit is that of each training, in processor time on a processor; 60 s without one.

    Parameters
    ----------
    classes : str
        Names of classes 1, 2, ... with commas; background is not one.
    out : Path
        Folder for trials.csv, best.json (a job to run), and pictures. With --resume, the search in it goes on, and with
        more --trials some are added.
    space : str
        JSON file with what varies: for each field of the training, such as optimiser.learning_rate, {"low": 0.001,
        "high": 0.03, "log": true} or {"choices": [...]}. Without it, scales, fusion, network, loss and rates vary, as
        far as they are not given.
    """

    def build() -> TuneJob:
        job = training_of(classes, out, sources, model, networks, training)
        own = job.model_copy(update={"resume": False})
        varied = None if space is None else parse_space(space)
        return TuneJob(training=own, space=varied, out=out, resume=job.resume, **search.values())

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
    preset: PresetOption = None,
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
        job = training_of(classes, out, sources, model, networks, training, preset)
        return PreviewAugmentationJob(training=job, out=out, **shown.values())

    run_or_print(build, options)


@app.command
def estimate(
    *,
    classes: str,
    sources: SourceOptions = _SOURCES,
    model: ModelOptions = _MODEL,
    networks: NetworkOptions = _NETWORKS,
    training: TrainOptions = _TRAINING,
    preset: PresetOption = None,
    options: RunOptions = _RUN,
) -> None:
    """Say how long a training will take on this machine, measured by a few of its steps; nothing is written.

    Parameters
    ----------
    classes : str
        Names of classes 1, 2, ... with commas; background is not one.
    """

    def build() -> TimeTrainingJob:
        job = training_of(classes, Path("estimate"), sources, model, networks, training, preset)
        return TimeTrainingJob(training=job)

    run_or_print(build, options)


# ----------------------------------------------------------------------------------------------------------------------
# The verb `retrain`: the next model, from an earlier run and the corrections made since.


@app.command
def retrain(
    run: Annotated[Path, Parameter(help="Folder of the earlier training, or the model file in it.")],
    *,
    slide: tuple[Path, ...],
    labels: tuple[Path, ...],
    out: Path,
    mpp: PixelSizeOption | None = None,
    classes: str | None = None,
    fresh: bool = False,
    replay: float = REPLAY,
    epochs: int | None = None,
    time_limit: float | None = None,
    learning_rate: float | None = None,
    options: RunOptions = _RUN,
) -> None:
    """Train the next model on corrections and on all that the earlier one learned from.

    Pixels that were edited or accepted in review count as true, zeros included. Test images of the earlier run are
    never trained on; at the end, the old and the new model are scored on them.

    Parameters
    ----------
    slide : Path
        A slide whose labels were corrected; give it several times, each with its --labels.
    labels : Path
        Label store of the --slide.
    out : Path
        Folder of the new run.
    mpp : float
        µm per pixel of the slides, when the files do not give it; px: the slides are used in their own pixels.
    classes : str
        Names of classes with commas, where they have changed; classes that the model knows keep their weights.
    fresh : bool
        Begin with random weights instead of those of the earlier model.
    replay : float
        Share (0..1) of each batch that does not come from corrections.
    epochs : int
        Largest number of epochs; without it, that of the earlier run.
    time_limit : float
        Seconds after which training ends with the best model so far; without it, the limit of the earlier run.
    learning_rate : float
        Learning rate; without it, that of the earlier run.
    """
    if len(slide) != len(labels):
        raise MsunetError(
            f"--slide was given {len(slide)} times and --labels {len(labels)} times; give one --labels for each."
        )
    corrected = [corrections(s, store, mpp=mpp) for s, store in zip(slide, labels, strict=True)]
    given = {"epochs": epochs, "time_limit": time_limit}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    names = None if classes is None else [name.strip() for name in classes.split(",")]

    def build() -> TrainJob:
        job = retraining_job(run, corrected, out, classes=names, start=not fresh, replay=replay, **changes)
        if learning_rate is None:
            return job
        optimiser = type(job.optimiser).model_validate({**dict(job.optimiser), "learning_rate": learning_rate})
        return job.model_copy(update={"optimiser": optimiser})

    run_or_print(build, options)


# ----------------------------------------------------------------------------------------------------------------------
# The verbs `compare` and `agree`: training runs side by side, and two people's labels.

_DAMAGE = DamageOptions()


@app.command
def compare(runs: tuple[Path, ...], /, *, out: Path | None = None, json: bool = False) -> None:
    """Put trainings, experiments, cross-validations, studies of context and evaluations side by side.

    It shows scores, intervals, differences to the first on the same images, time, and the settings that differ.

    Parameters
    ----------
    runs : tuple of Path
        Their folders.
    out : Path
        Folder for compare.csv, bars.png and compare.png.
    json : bool
        Print the result as JSON.
    """
    from napari_msunet.training.comparison.side_by_side import compare as compared

    rows = compared(runs, out)
    if json:
        print(jsonlib.dumps(rows, indent=1))  # noqa: T201
        return
    names = [str(row["run"]) for row in rows]
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "run"))
    width = max(map(len, keys))
    columns = [max(12, len(name)) for name in names]
    print(" " * width, *(f"{name:>{w}}" for name, w in zip(names, columns, strict=True)))  # noqa: T201
    for key in keys:
        cells = (f"{_short(row.get(key)):>{w}}" for row, w in zip(rows, columns, strict=True))
        print(f"{key:<{width}}", *cells)  # noqa: T201
    if out is not None:
        written = [str(out / name) for name in ("compare.csv", "compare.png", "bars.png") if (out / name).is_file()]
        print(f"wrote {', '.join(written)}")  # noqa: T201


@app.command
def agree(
    one: Path,
    other: Path,
    /,
    *,
    region: str | None = None,
    out: Path | None = None,
    options: DamageOptions = _DAMAGE,
) -> None:
    """Say how well two people's labels of the same slide agree.

    Parameters
    ----------
    one, other : Path
        Two label stores, or annotations.
    region : str
        y,x,height,width in the stores' pixels; without it, the whole stores.
    out : Path
        JSON file for all numbers.
    """
    from napari_msunet.geometry import Region
    from napari_msunet.training.agreement import agreement

    box = parse_region(region)
    found = agreement(one, other, None if box is None else Region(*box), out, options.damaged)
    warn_of(found.get("left_out", ()))
    kappa = "-" if found["kappa"] is None else f"{found['kappa']:.3f}"
    print(f"{found['pixels']} pixels that both labelled, Cohen's kappa {kappa}")  # noqa: T201
    for name, scores in found["classes"].items():
        outline = found.get("outlines", {}).get(name, {})
        numbers = {"Dice": scores["dice"], "IoU": scores["iou"], "Hausdorff 95": outline.get("hausdorff95")}
        print(f"{name}: " + ", ".join(f"{k} {_short(v)}" for k, v in numbers.items()))  # noqa: T201


def _short(value: Any) -> str:
    """A cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and len(value) == 2 and all(isinstance(end, float) for end in value):
        return f"{value[0]:.3f} to {value[1]:.3f}"
    return str(value) if isinstance(value, str | int) else jsonlib.dumps(value)
