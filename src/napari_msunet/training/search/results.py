"""What comes out of a search: the table of trials, its pictures, and the best training as a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_msunet._io import read_json, table_text, write_json, write_text
from napari_msunet.config import TuneJob
from napari_msunet.config.search import SearchChoices, SearchRange
from napari_msunet.constants import OUTPUT_COLOURS
from napari_msunet.errors import MsunetError
from napari_msunet.training.experiments import mean_dice
from napari_msunet.training.scoring import pooled_interval
from napari_msunet.training.scoring.panels import figure_of, save
from napari_msunet.training.search.study import distributions, quiet
from napari_msunet.training.search.trials import TRIAL, Row, SharedWork, training_of_trial

if TYPE_CHECKING:
    import optuna

COLUMNS = (
    *("trial", "outcome", "dice", "deviation", "predicted", "predicted_deviation", "steps", "parameters"),
    *("processor_seconds", "seconds", "worker", "error"),
)
"""Columns of trials.csv; after them one for each fold, and one for each field that varies."""

_FEW = 10  # trials below which nothing is said about the importance of fields


def best_of(rows: Sequence[Row]) -> Row | None:
    """The trial with the best mean Dice over all folds; None where none was scored on all."""
    scored = [row for row in rows if row["outcome"] == "scored"]
    return max(scored, key=lambda row: row["dice"], default=None)


def write_table(out: Path, rows: Sequence[Row], names: Sequence[str], folds: int) -> Path:
    """Write trials.csv, with a row for each trial."""
    columns = [*COLUMNS, *(f"fold{n}" for n in range(1, folds + 1)), *names]
    flat = [
        row | {f"fold{n}": dice for n, dice in enumerate(row.get("folds", ()), start=1)} | row["values"]
        for row in sorted(rows, key=lambda row: row["trial"])
    ]
    write_text(out / "trials.csv", table_text(flat, columns))
    return out / "trials.csv"


def write_best(work: SharedWork, best: Row) -> Path:
    """Write the best training as a job that trains on all images, best.json."""
    job = training_of_trial(work, best["values"], work.job.out / "best")
    write_text(work.job.out / "best.json", job.model_dump_json(indent=1))
    return work.job.out / "best.json"


def best_interval(out: Path, best: Row) -> list[float] | None:
    """The 95 % interval over groups of the best trial's Dice; None where its folder is on another machine."""
    try:
        groups = read_json(out / "trials" / f"{best['trial']:04d}" / TRIAL).get("groups", {})
    except MsunetError:
        return None
    if len(groups) < 2:
        return None
    return pooled_interval(np.array(list(groups.values()), np.int64), mean_dice)


def keep_models(out: Path, best: int) -> None:
    """Remove the models of finished trials other than the best, which would fill the disk."""
    for file in (out / "trials").glob(f"*/{TRIAL}"):
        if file.parent.name != f"{best:04d}":
            for model in file.parent.glob("fold*/model.safetensors"):
                with suppress(OSError):
                    model.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------------------------------
# Pictures.


def importances(job: TuneJob, rows: Sequence[Row]) -> dict[str, float]:
    """How much each field matters for being among the best trials; empty where there are too few trials.

    References
    ----------
    Watanabe et al., "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces", IJCAI 2023.
    """
    import optuna

    scored = [row for row in rows if row["outcome"] == "scored"]
    if len(scored) < _FEW or len({row["dice"] for row in scored}) < 2:
        return {}
    with quiet():
        study = _plain_study(job, scored)
        try:
            found = optuna.importance.get_param_importances(study)
        except (ValueError, RuntimeError):  # fields that never varied
            return {}
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def _plain_study(job: TuneJob, rows: Sequence[Row]) -> optuna.Study:
    """A study in memory of the trials that were scored, without what samplers were told of the others."""
    import optuna

    known = distributions(job)
    study = optuna.create_study(direction="maximize")
    for row in rows:
        study.add_trial(optuna.trial.create_trial(params=row["values"], distributions=known, value=row["dice"]))
    return study


def draw(job: TuneJob, rows: Sequence[Row]) -> dict[str, Path]:
    """Draw history.png and slices.png, and importance.png where there are enough trials."""
    ordered = sorted(rows, key=lambda row: row["trial"])
    found = {"history": job.out / "history.png", "slices": job.out / "slices.png"}
    draw_history(found["history"], ordered)
    draw_slices(found["slices"], job, ordered)
    if matter := importances(job, ordered):
        found["importance"] = job.out / "importance.png"
        draw_importance(found["importance"], matter)
    return found


def draw_history(path: Path, rows: Sequence[Row]) -> None:
    """Draw the Dice of each trial, the best so far, and what the Gaussian process had predicted."""
    figure = figure_of(9, 4.2)
    axes = figure.subplots()
    guessed = [row for row in rows if row.get("predicted") is not None]
    if guessed:
        axes.errorbar(
            [row["trial"] for row in guessed],
            [row["predicted"] for row in guessed],
            yerr=[row["predicted_deviation"] for row in guessed],
            fmt="none",
            ecolor="#9db4c8",
            elinewidth=3,
            alpha=0.7,
            label="predicted, ± its deviation",
        )
    for outcome, mark, words in (("scored", "o", "scored on all folds"), ("pruned", "x", "ended early")):
        own = [row for row in rows if row["outcome"] == outcome]
        if own:
            points = [row["trial"] for row in own], [row["dice"] for row in own]
            axes.plot(*points, mark, color=OUTPUT_COLOURS[1], markersize=5, label=words)
    failed = [row["trial"] for row in rows if row["outcome"] == "failed"]
    if failed:
        place = axes.get_xaxis_transform()
        axes.plot(failed, [0.02] * len(failed), "|", color="#c0392b", transform=place, markersize=9, label="cannot run")
    scored = [row for row in rows if row["outcome"] == "scored"]
    if scored:
        highest = np.maximum.accumulate([row["dice"] for row in scored])
        axes.step([row["trial"] for row in scored], highest, where="post", color="#333333", linewidth=1.4, label="best")
    _plain_axes(axes, "trial", "Dice, mean over folds")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    save(figure, path)


def draw_slices(path: Path, job: TuneJob, rows: Sequence[Row]) -> None:
    """Draw the Dice of the scored trials against each field that varies; later trials are darker."""
    space = job.searched
    columns = min(4, len(space))
    lines = -(-len(space) // columns)
    figure = figure_of(3.2 * columns, 2.8 * lines + 0.3)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    scored = [row for row in rows if row["outcome"] == "scored"]
    last = max([row["trial"] for row in scored], default=0) or 1
    for axes, (name, entry) in zip(grid, space.items(), strict=False):
        _slice(axes, name, entry, scored, last)
    for axes in grid[len(space) :]:
        axes.set_axis_off()
    save(figure, path)


def _slice(axes: Any, name: str, entry: SearchRange | SearchChoices, rows: Sequence[Row], last: int) -> None:
    places: list[float]
    if isinstance(entry, SearchChoices):
        places = [float(entry.labels.index(row["values"][name])) for row in rows]
        short = [label if len(label) <= 18 else f"{label[:17]}…" for label in entry.labels]
        axes.set_xticks(range(len(short)), short, rotation=20 if max(map(len, short)) > 5 else 0, fontsize=8)
        axes.set_xlim(-0.5, len(short) - 0.5)
    else:
        places = [row["values"][name] for row in rows]
        axes.set_xscale("log" if entry.log else "linear")
        axes.set_xlim(entry.low, entry.high)
    shades = [row["trial"] / last for row in rows]
    axes.scatter(places, [row["dice"] for row in rows], c=shades, cmap="Blues", vmin=-0.4, vmax=1, s=22, clip_on=False)
    _plain_axes(axes, name.removeprefix("optimiser.").removeprefix("model."), "Dice")


def draw_importance(path: Path, matter: Mapping[str, float]) -> None:
    """Draw how much each field matters, the most important at the top."""
    names = sorted(matter, key=lambda name: matter[name])
    figure = figure_of(6.4, 0.42 * len(names) + 1.2)
    axes = figure.subplots()
    axes.barh(names, [matter[name] for name in names], color=OUTPUT_COLOURS[1])
    for place, name in enumerate(names):
        axes.text(matter[name], place, f" {matter[name]:.2f}", va="center", fontsize=9)
    _plain_axes(axes, "importance (PED-ANOVA)", "")
    axes.set_xlim(0, max(matter.values()) * 1.12 or 1)
    save(figure, path)


def _plain_axes(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def write_report(out: Path, values: Mapping[str, Any]) -> Path:
    """Write all numbers of the search, report.json."""
    write_json(out / "report.json", dict(values))
    return out / "report.json"
