"""Training runs read from their folders: their settings, their curves and their cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_msunet._io import read_json, read_rows
from napari_msunet.config.training import watched_metric
from napari_msunet.constants import OUTPUT_COLOURS
from napari_msunet.errors import OutputError
from napari_msunet.training.record import column
from napari_msunet.training.scoring.panels import figure_of, save


@dataclass(frozen=True)
class TrainingRun:
    """A training run, read from its folder.

    Attributes
    ----------
    name : str
    job, result : dict
        The job and its result, which is empty while the run is under way.
    rows : list of dict
        The numbers of each epoch, by the columns of metrics.csv.
    """

    name: str
    job: dict[str, Any]
    result: dict[str, Any]
    rows: list[dict[str, float]]

    @property
    def summary(self) -> dict[str, Any]:
        """Loss and scores of the kept epoch, time, epochs, parameters, memory."""
        best = self.result.get("best_epoch") or self._best_epoch()
        kept = next((row for row in self.rows if row["epoch"] == best), {})
        seconds = sum(row.get("seconds", 0.0) for row in self.rows)
        found: dict[str, Any] = {"run": self.name, "epochs": len(self.rows), "best_epoch": best}
        for key, value in kept.items():
            if key.startswith("validation_") or (key.startswith("train_") and key.endswith("_fused")):
                found[key] = value
        found |= {"seconds": round(seconds, 1), "seconds_per_epoch": round(seconds / max(1, len(self.rows)), 2)}
        for key in ("seconds_per_step", "parameters", "peak_memory_mb", "stopped"):
            found[key] = self.result.get(key)
        return found

    def _best_epoch(self) -> int | None:
        metric = watched_metric(self.job.get("optimiser", {}).get("best_metric", "iou"))
        name = column(metric.split or "validation", metric.name, metric.output)
        scored = [row for row in self.rows if name in row]
        return int(max(scored, key=lambda row: metric.height(row[name]))["epoch"]) if scored else None


def read_run(folder: Path) -> TrainingRun:
    """Read the folder of a run.

    Raises
    ------
    OutputError
        If there is no training run in it, or it cannot be read.
    """
    try:
        job = read_json(folder / "job.json")
        result_file = folder / "result.json"
        result = read_json(result_file) if result_file.exists() else {}
        _, table = read_rows(folder / "metrics.csv")
        rows = [{k: float(v) for k, v in row.items() if k and v} for row in table]
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{folder} is no training run that can be read ({error}); give folders with job.json and metrics.csv."
        ) from error
    return TrainingRun(folder.name, job, result, [row for row in rows if "epoch" in row])


def draw_runs(path: Path, runs: Sequence[TrainingRun], names: Sequence[str]) -> None:
    """Draw the validation loss by epoch, and the IoU by epoch and by minutes; those of training without validation."""
    figure = figure_of(14, 4.6)
    panels = figure.subplots(1, 3)
    for n, (run, name) in enumerate(zip(runs, names, strict=True)):
        colour = OUTPUT_COLOURS[1 + n % (len(OUTPUT_COLOURS) - 1)]
        style = ("-", (0, (4, 2)), (0, (1, 1)))[n // (len(OUTPUT_COLOURS) - 1) % 3]
        minutes, passed = [], 0.0
        for row in run.rows:
            passed += row.get("seconds", 0.0) / 60
            minutes.append(passed)
        for axes, score, by_time in zip(panels, ("loss", "iou", "iou"), (False, False, True), strict=True):
            split = "validation" if any(column("validation", score, "fused") in r for r in run.rows) else "train"
            key = column(split, score, "fused")
            points = [(minutes[i] if by_time else r["epoch"], r[key]) for i, r in enumerate(run.rows) if key in r]
            if points:
                text = name if split == "validation" else f"{name} (training)"
                axes.plot(*zip(*points, strict=True), color=colour, linestyle=style, label=text, linewidth=1.6)
    for axes, title, label in zip(panels, ("Loss", "IoU", "IoU"), ("epoch", "epoch", "minutes"), strict=True):
        axes.set(title=title, xlabel=label)
        axes.set_ylim(bottom=0, top=None if title == "Loss" else 1)
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    handles, texts = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, texts, loc="outside lower center", ncols=min(4, len(handles)), frameon=False, fontsize=9)
    save(figure, path)
