"""Trainings, experiments, cross-validations, studies of context and evaluations side by side, from their folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from napari_msunet._io import make_folder, read_json, table_text, write_text
from napari_msunet.config import ExperimentJob
from napari_msunet.config.jobs import file_word
from napari_msunet.constants import OUTPUT_COLOURS
from napari_msunet.errors import OutputError
from napari_msunet.training.comparison.training_runs import TrainingRun, draw_runs, read_run
from napari_msunet.training.record import column, flat_settings
from napari_msunet.training.scoring import pooled_interval
from napari_msunet.training.scoring.metrics import mean_score
from napari_msunet.training.scoring.panels import figure_of, save

_OWN = {"out", "resume", "schema_version", "job", "device"}
"""Fields of a job that have no influence on what it learns."""

_BY_FOLD = frozenset(("fold", "seed", "epochs", "split_seed", "time_limit", "clock", "validation", "test"))
"""Fields that an experiment and a cross-validation set themselves."""


class ImageScore(NamedTuple):
    """The Dice of the fused output on one image, and the group of the image."""

    group: str
    dice: float


@dataclass(frozen=True)
class Compared:
    """One row of a comparison.

    Attributes
    ----------
    name : str
        The end of its name; empty for all that its folder holds.
    kind : str
        "training", "experiment", "cross-validation" or "evaluation".
    numbers : dict
        Its scores and cost by name.
    settings : dict
        The settings of its training, by dotted names; empty where they are not known.
    images : dict of str to ImageScore
        The scores of images that it did not train on, by their names.
    run : TrainingRun, optional
        The curves of a training run.
    """

    name: str
    kind: str
    numbers: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    images: dict[str, ImageScore] = field(default_factory=dict)
    run: TrainingRun | None = None


def compare(folders: Sequence[str | Path], out: str | Path | None = None) -> list[dict[str, Any]]:
    """Put training runs, experiments, cross-validations, studies of context and evaluations side by side.

    Parameters
    ----------
    folders : sequence of path
        Their folders; one still under way may be among them. An experiment gives a row for each variant.
    out : path, optional
        Folder for compare.csv, bars.png (Dice with intervals) and compare.png (the curves of training runs).

    Returns
    -------
    list of dict
        For each row "run", "kind", and where they are known "dice", "iou", the "interval" of the Dice, and
        "difference": the mean Dice of images minus that of the first row, over the images that both have scored and not
        trained on, with its "difference_interval" (95 %, drawn by group) and "images". Of a training run the
        numbers of the kept epoch, by the columns of metrics.csv, and its cost. Then each setting in which the rows
        differ, such as "model.fusion".

    Raises
    ------
    OutputError
        If a folder holds none of these, or `out` cannot be written.
    """
    places = [Path(folder) for folder in folders]
    if not places:
        raise OutputError("There is nothing to compare; give folders of trainings, experiments or evaluations.")
    found: list[tuple[str, Compared]] = []
    for name, place in zip(_told_apart(places), places, strict=True):
        found += [(f"{name}: {one.name}" if one.name else name, one) for one in read_results(place)]
    settings = [one.settings for _, one in found if one.settings]
    keys = list(dict.fromkeys(key for setting in settings for key in setting))
    different = [key for key in keys if len({json.dumps(s.get(key)) for s in settings}) > 1]
    first = found[0][1] if found else None
    rows = [
        {"run": name, "kind": one.kind}
        | {key: one.numbers[key] for key in ("dice", "iou", "interval") if key in one.numbers}
        | (_difference(first, one) if first is not None and one is not first else {})
        | one.numbers
        | {key: one.settings.get(key) for key in different}
        for name, one in found
    ]
    if out is not None:
        folder = Path(out)
        make_folder(folder)
        write_text(folder / "compare.csv", _csv(rows))
        if runs := [(name, one.run) for name, one in found if one.run is not None]:
            draw_runs(folder / "compare.png", [run for _, run in runs], [name for name, _ in runs])
        if any(row.get("dice") is not None for row in rows):
            draw_dice(folder / "bars.png", rows)
    return rows


# ----------------------------------------------------------------------------------------------------------------------
# What a folder holds.


def read_results(folder: Path) -> list[Compared]:
    """What a folder holds, in the order of its table.

    Raises
    ------
    OutputError
        If it holds nothing that can be compared, or it cannot be read.
    """
    readers: dict[str, Callable[[Path], list[Compared]]] = {
        "context.json": lambda place: _experiment(place / "experiment"),
        "experiment.json": _experiment,
        "crossval.json": _cross_validation,
        "job.json": _training,
        "report.json": _evaluation,
    }
    for file, read in readers.items():
        if (folder / file).is_file():
            report = folder / ("experiment/report.json" if file == "context.json" else "report.json")
            if file != "job.json" and not report.is_file():
                raise OutputError(f"{folder} has no result yet that can be compared; let it go on, or leave it out.")
            try:
                return read(folder)
            except OutputError:
                raise
            except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise OutputError(
                    f"{folder} cannot be read ({type(error).__name__}: {error}); give another one, or make it again."
                ) from error
    raise OutputError(
        f"{folder} is no training run, experiment, cross-validation or evaluation that can be read; give their "
        "folders, with job.json and metrics.csv, or with report.json."
    )


def _training(folder: Path) -> list[Compared]:
    run = read_run(folder)
    numbers = {key: value for key, value in run.summary.items() if key != "run"}
    scores = {name: numbers.get(column("validation", name, "fused")) for name in ("dice", "iou")}
    known = {name: value for name, value in scores.items() if value is not None}
    return [Compared("", "training", known | numbers, _settings(run.job), run=run)]


def _experiment(folder: Path) -> list[Compared]:
    job = ExperimentJob.model_validate(read_json(folder / "experiment.json"))
    report = read_json(folder / "report.json")
    trials = [read_json(file) for file in sorted(folder.glob("trials/*/trial.json"))]
    found = []
    for name, own in report["variants"].items():
        numbers: dict[str, Any] = {"trials": own["trials"], "error": own.get("error")}
        if own["trials"]:
            numbers |= {score: own["held_out"][score] for score in ("dice", "iou")}
            numbers |= {"interval": own["interval"]} if report["metric"] == "dice" else {}
            numbers |= {"steps": own["steps"], "seconds": own["processor_seconds"]}
        settings = {}
        if name in job.variants:
            given = job.variant(name).model_dump(mode="json")
            settings = _settings(_chosen(folder / "trials", f"{file_word(name)}-fold*", given), _BY_FOLD)
        images = _images_of_trials([row for row in trials if row["variant"] == name])
        kept = {key: value for key, value in numbers.items() if value is not None}
        found.append(Compared(name, "experiment", kept, settings, images))
    return found


def _images_of_trials(rows: Sequence[Mapping[str, Any]]) -> dict[str, ImageScore]:
    """The Dice of each image, mean over seeds."""
    each: dict[str, list[float]] = {}
    groups: dict[str, str] = {}
    for row in rows:
        for name, image in row.get("images", {}).items():
            each.setdefault(name, []).append(mean_score("dice", np.asarray(image["fused"])))
            groups[name] = image["group"]
    return {name: ImageScore(groups[name], float(np.mean(values))) for name, values in each.items()}


def _cross_validation(folder: Path) -> list[Compared]:
    job, report = read_json(folder / "crossval.json"), read_json(folder / "report.json")
    mean, spread = report["mean"]["fused"], report["std"]["fused"]
    numbers = {"dice": mean["dice"], "iou": mean["iou"], "deviation": spread["dice"], "folds": len(report["folds"])}
    images = {name: score for fold in report["folds"] for name, score in _images(fold["images"]).items()}
    settings = _settings(_chosen(folder, "fold*", job["training"]), _BY_FOLD)
    return [Compared("", "cross-validation", numbers, settings, images)]


def _evaluation(folder: Path) -> list[Compared]:
    report = read_json(folder / "report.json")
    pooled, images = report["pooled"]["fused"], _images(report["images"])
    numbers = {"dice": pooled["dice"], "iou": pooled["iou"], "interval": report["intervals"]["dice"]["pooled"]}
    numbers |= {"scored": len(report["images"]), "parameters": report["model"]["parameters"]}
    return [Compared("", "evaluation", numbers | {"model": report["model"]["path"]}, {}, images)]


def _images(reports: Sequence[Mapping[str, Any]]) -> dict[str, ImageScore]:
    return {
        image["name"]: ImageScore(image.get("group") or image["name"], image["fused"]["dice"])
        for image in reports
        if image["fused"]["dice"] is not None
    }


def _chosen(folder: Path, runs: str, given: dict[str, Any]) -> dict[str, Any]:
    """The job of the first of some runs, in which no choice is open any more; where there is none, what was given."""
    found = sorted(folder.glob(f"{runs}/job.json"))
    job: dict[str, Any] = read_json(found[0]) if found else given
    return job


def _settings(job: Mapping[str, Any], left_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    return flat_settings({key: value for key, value in job.items() if key not in _OWN | left_out})


def _difference(first: Compared, other: Compared) -> dict[str, Any]:
    """The mean Dice of the images that both scored, minus that of the first, with its interval over groups."""
    shared = sorted(
        name
        for name in first.images.keys() & other.images.keys()
        if np.isfinite([first.images[name].dice, other.images[name].dice]).all()
    )
    if not shared:
        return {}
    by_group: dict[str, list[float]] = {}
    for name in shared:
        change = other.images[name].dice - first.images[name].dice
        by_group.setdefault(first.images[name].group, []).append(change)
    sums = np.array([[sum(changes), len(changes)] for changes in by_group.values()])
    interval = pooled_interval(sums, lambda total: float(total[0] / total[1]))
    mean = float(sums[:, 0].sum() / sums[:, 1].sum())
    return {"difference": mean, "difference_interval": interval, "images": len(shared)}


# ----------------------------------------------------------------------------------------------------------------------
# The table and the bars.


def draw_dice(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw a bar for the Dice of each row, with its interval where it has one."""
    shown = [row for row in rows if row.get("dice") is not None]
    figure = figure_of(7.5, 0.9 + 0.42 * len(shown))
    axes = figure.subplots()
    for place, row in enumerate(shown):
        axes.barh(place, row["dice"], color=OUTPUT_COLOURS[1], alpha=0.75)
        if row.get("interval"):
            axes.plot(row["interval"], [place, place], color="black", linewidth=1.4)
    axes.set_yticks(range(len(shown)), [row["run"] for row in shown])
    axes.invert_yaxis()
    axes.set(xlabel="Dice, with 95 % intervals where they are known", xlim=(0, 1))
    save(figure, path)


def _told_apart(folders: Sequence[Path]) -> list[str]:
    """Short names for folders, with as many parents as are needed to distinguish them."""
    for depth in range(1, max(len(f.parts) for f in folders) + 1):
        names = ["/".join(f.absolute().parts[-depth:]) for f in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{f.name} ({n})" for n, f in enumerate(folders, start=1)]


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    plain = ({k: v if isinstance(v, str | int | float | None) else json.dumps(v) for k, v in r.items()} for r in rows)
    return table_text(plain, columns)
