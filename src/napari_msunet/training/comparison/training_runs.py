"""Comparing training runs: their settings, their curves and their cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_msunet._io import make_folder, read_json, read_rows, table_text, write_text
from napari_msunet.config.training import watched_metric
from napari_msunet.constants import OUTPUT_COLOURS
from napari_msunet.errors import OutputError
from napari_msunet.training.record import column, flat_settings
from napari_msunet.training.scoring.panels import figure_of, save

_OWN = {"out", "resume", "schema_version", "job", "device"}
"""Fields of a job that have no influence on what it learns."""


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


def compare(folders: Sequence[str | Path], out: str | Path | None = None) -> list[dict[str, Any]]:
    """Put training runs side by side.

    Parameters
    ----------
    folders : sequence of path
        Folders of training runs; one still under way may be among them.
    out : path, optional
        Folder for compare.csv and compare.png.

    Returns
    -------
    list of dict
        For each run: "run", "epochs", "best_epoch"; loss and IoU of the kept epoch, by the columns of metrics.csv;
        "seconds", "seconds_per_epoch", "seconds_per_step", "parameters", "peak_memory_mb", "stopped"; and each setting
        in which the runs differ, such as "model.fusion".

    Raises
    ------
    OutputError
        If a folder holds no run, or `out` cannot be written.
    """
    runs = [read_run(Path(folder)) for folder in folders]
    names = _told_apart([Path(folder) for folder in folders])
    settings = [flat_settings({k: v for k, v in run.job.items() if k not in _OWN}) for run in runs]
    keys = list(dict.fromkeys(key for setting in settings for key in setting))
    different = [key for key in keys if len({json.dumps(s.get(key)) for s in settings}) > 1]
    rows = [
        run.summary | {"run": name} | {key: setting.get(key) for key in different}
        for run, name, setting in zip(runs, names, settings, strict=True)
    ]
    if out is not None:
        folder = Path(out)
        make_folder(folder)
        write_text(folder / "compare.csv", _csv(rows))
        _draw(folder / "compare.png", runs, names)
    return rows


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


def _draw(path: Path, runs: Sequence[TrainingRun], names: Sequence[str]) -> None:
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
