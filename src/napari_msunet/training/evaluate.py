"""Scoring a model against masks, at the masks' own resolution, fused and each scale alone, per image and pooled."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet._io import csv_text, make_folder, read_json, read_rows, write_json, write_text
from napari_msunet.config import EvaluateJob
from napari_msunet.data import Item, load_sources
from napari_msunet.errors import SourceError
from napari_msunet.events import Event, Message, Progress, Result
from napari_msunet.models import MSUNet, build_model, load_model
from napari_msunet.models.compose import branch_model
from napari_msunet.slide.identity import short_hash
from napari_msunet.training.scoring import INSTANCE_SCORES, OUTLINE_SCORES, mean_interval, pooled_interval
from napari_msunet.training.scoring.image import WHOLE, add_shapes, score_item
from napari_msunet.training.scoring.metrics import SCORES, Confusion, Matrix, class_scores, mean_score, report
from napari_msunet.training.scoring.panels import (
    PackedPicture,
    Panel,
    best_median_worst,
    draw_panels,
    draw_reliability,
    draw_scale_matrix,
    item_panel,
    keep,
)
from napari_msunet.training.scoring.uncertainty import Calibration

# ----------------------------------------------------------------------------------------------------------------------
# The scores of a model on images of other scales than those of its training.


@dataclass(frozen=True)
class OutputRow:
    """One output of the model.

    Attributes
    ----------
    name : str
        "fused", or the scale that a branch was trained at.
    model : MSUNet
        A model of this output alone.
    scale : float
        The scale of its training, relative to the model's µm per pixel.
    """

    name: str
    model: MSUNet
    scale: float


def rows_of(model: MSUNet) -> list[OutputRow]:
    """The fused output and each branch that has an output of its own."""
    alone = [
        OutputRow(f"scale {model.config.ratios[i]}", branch_model(model, i), model.config.scales[i]) for i in own(model)
    ]
    return [OutputRow("fused", model, 1.0), *alone]


def own(model: MSUNet) -> Sequence[int]:
    """The branches with an output of their own, which can be made a model of their own."""
    return model.config.own if len(model.config.scales) > 1 and not model.config.further else ()


def at_scale(row: OutputRow, scale: float) -> MSUNet:
    """The model with the same weights, on images of another scale; at 0.5, objects are half as large as in training."""
    config = row.model.config
    changed = build_model(config.model_copy(update=config.at(config.resolution.times(row.scale / scale))))
    changed.load_state_dict(row.model.state_dict())
    return changed.eval()


def scale_matrix(
    model: MSUNet, items: Sequence[Item], scales: Sequence[float], device: str = "auto"
) -> Iterator[tuple[str, float, npt.NDArray[np.float64]]]:
    """Mean Dice over classes of each output at each test scale, pooled over images, one cell at a time.

    Parameters
    ----------
    scales : sequence of float
        Test scales relative to the model's µm per pixel, such as 0.25 to 2, which need not be scales of the training.

    Yields
    ------
    (str, float, (K,) float64 array)
        Output, test scale, Dice of each class (NaN for a class that occurs nowhere).
    """
    for row in rows_of(model):
        for scale in scales:
            moved = at_scale(row, scale)
            total = Confusion(len(model.config.classes) + 1)
            for item in items:
                shown = replace(item, resolution=moved.config.target)
                total.merge(score_item(moved, shown, device).counts["fused"])
                item.release()
            yield row.name, scale, class_scores(total.matrix)["dice"][1:]


# ----------------------------------------------------------------------------------------------------------------------
# The evaluation job.


def evaluate_events(job: EvaluateJob) -> Iterator[Event]:
    """Score a model.

    Parameters
    ----------
    job : EvaluateJob

    Yields
    ------
    Event
        `Progress` (images) and at the end a `Result`. Its ``"pooled"`` has, for "fused" and each scale, the mean of
        each score over classes 1..K and under ``"classes"`` those of each class; ``"images"`` the same for each image,
        beside its ``"name"`` and ``"group"``, with ``"outlines"`` and ``"instances"``; ``"means"`` of these two over
        the images; ``"intervals"`` (95 %, bootstrap over images); ``"calibration"``; ``"scales"``, the Dice of each
        output at each of `job.test_scales`; ``"model"`` with its parameters; ``"training"``, its cost; ``"classes"``,
        the names. With `job.out`: report.json, images.csv, panels.png, calibration.png, scales.png.

    Raises
    ------
    ModelError
        If there is no such model.
    SourceError, MissingMppError, SlideError
        If images and masks cannot be used.
    OutputError
        If the report cannot be written.
    """
    model = load_model(job.model)
    messages: list[Event] = []
    items = load_sources(
        job.sources,
        model.config,
        lambda level, text: messages.append(Message(level="warning" if level == "warning" else "info", text=text)),
    )
    chosen = [i for i in items if job.roles is None or i.role in job.roles]
    if not chosen:
        raise SourceError(
            f"None of the {len(items)} images has the role {' or '.join(job.roles or ())}; leave roles out, or give "
            "their sources this role."
        )
    yield from messages
    yield from _warn_of_training(model, chosen)
    started = time.monotonic()
    evaluation = Evaluation(model, job)
    for number, item in enumerate(chosen, start=1):
        evaluation.add(item)
        left = (time.monotonic() - started) / number * (len(chosen) - number)
        yield Progress(done=number, total=len(chosen), unit="images", seconds_left=left)
    if large := evaluation.large:
        yield Message(
            level="warning",
            text=f"{large} of the {len(chosen)} images have more than {WHOLE // 1_000_000} million pixels: they have "
            "no scores of outlines and instances.",
        )
    values = evaluation.values()
    if job.test_scales:
        yield from _scales(model, chosen, job, values)
    yield Result(values=values, files=evaluation.write(job.out, chosen, values) if job.out else {})


def _scales(model: MSUNet, items: list[Item], job: EvaluateJob, values: dict[str, Any]) -> Iterator[Event]:
    """Compute the matrix of training scale by test scale, and put it into `values`."""
    names = [row.name for row in rows_of(model)]
    found = np.full((len(names), len(job.test_scales)), np.nan)
    for done, (name, scale, dice) in enumerate(scale_matrix(model, items, job.test_scales, job.device), start=1):
        found[names.index(name), job.test_scales.index(scale)] = np.nanmean(dice) if np.isfinite(dice).any() else np.nan
        yield Progress(done=done, total=found.size, unit="scales")
    table = [[None if np.isnan(v) else float(v) for v in row] for row in found]
    values["scales"] = {"train": names, "test": list(job.test_scales), "dice": table}


class Evaluation:
    """Collects the scores of one image after the other."""

    def __init__(self, model: MSUNet, job: EvaluateJob) -> None:
        self.model, self.job = model, job
        self.classes = model.config.classes
        self.pooled = {name: Confusion(len(self.classes) + 1) for name in model.config.outputs}
        self.calibration = Calibration()
        self.images: list[dict[str, Any]] = []
        self.matrices: list[Matrix] = []
        self.kept: list[PackedPicture | None] = []
        self.large = 0  # images too large to be held whole

    def add(self, item: Item) -> None:
        """Score an image, and close it."""
        try:
            found = score_item(self.model, item, self.job.device, whole=True)
            add_shapes(found, item, self.classes, None if self.job.instances == "none" else self.job.instances)
        finally:
            item.release()
        reports = {name: report(confusion.matrix, self.classes) for name, confusion in found.counts.items()}
        shapes = {
            "outlines": {label: _json(scores) for label, scores in found.outlines.items()},
            "instances": _json(found.instances),
        }
        self.images.append({"name": item.name, "group": item.group} | reports | {k: v for k, v in shapes.items() if v})
        self.large += found.truth is None
        self.matrices.append(found.counts["fused"].matrix)
        if self.job.out is None or found.truth is None or found.predicted is None:
            self.kept.append(None)
        else:
            self.kept.append(keep(found.truth, found.predicted))
        for name, confusion in found.counts.items():
            self.pooled[name].merge(confusion)
        self.calibration.merge(found.calibration)

    def values(self) -> dict[str, Any]:
        """All scores as plain JSON values."""
        return {
            "pooled": {name: report(confusion.matrix, self.classes) for name, confusion in self.pooled.items()},
            "confusion": self.pooled["fused"].matrix.tolist(),
            "intervals": self._intervals(),
            "means": self._means(),
            "calibration": self.calibration.report(),
            "images": self.images,
            "classes": list(self.classes),
            "model": {
                "path": str(self.job.model),
                "fingerprint": self.model.fingerprint,
                "mpp": self.model.config.mpp,
                "unit": self.model.config.resolution.unit,
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "trainable": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            },
            "training": training_cost(self.job.model),
        }

    def _intervals(self) -> dict[str, Any]:
        """95 % intervals of pooled and of mean scores of the fused output, by drawing the images again."""
        counts = np.stack(self.matrices)
        found: dict[str, Any] = {}
        for name in ("dice", "iou"):
            each = np.array([_number(image["fused"][name]) for image in self.images])
            found[name] = {
                "pooled": pooled_interval(counts, partial(mean_score, name)),
                "mean": mean_interval(each),
            }
        return found

    def _means(self) -> dict[str, Any]:
        """Means over images, with intervals, of scores that cannot be pooled."""
        found: dict[str, Any] = {}
        for label in self.classes:
            for name in OUTLINE_SCORES:
                each = [image.get("outlines", {}).get(label, {}).get(name) for image in self.images]
                found[f"{name} {label}"] = _mean_of(each)
        for name in INSTANCE_SCORES:
            found[name] = _mean_of([image.get("instances", {}).get(name) for image in self.images])
        return {name: value for name, value in found.items() if value is not None}

    def write(self, out: Path, items: list[Item], values: dict[str, Any]) -> dict[str, str]:
        """Write report.json, images.csv, and the pictures."""
        files = _write(out, values)
        draw_reliability(out / "calibration.png", values["calibration"])
        files["calibration"] = str(out / "calibration.png")
        if "scales" in values:
            draw_scale_matrix(out / "scales.png", values["scales"])
            files["scales"] = str(out / "scales.png")
        if rows := self._panels(items):
            draw_panels(out / "panels.png", rows, self.classes)
            files["panels"] = str(out / "panels.png")
        return files

    def _panels(self, items: list[Item]) -> list[Panel]:
        """The best, the median and the worst image."""
        rows = []
        for title, number in best_median_worst([_number(image["fused"]["dice"]) for image in self.images]):
            item, image, kept = items[number], self.images[number], self.kept[number]
            if kept is not None:
                text = f"{item.name[:36]}\n{title}, Dice {image['fused']['dice']:.3f}"
                rows.append(item_panel(text, item, kept))
                item.release()
        return rows


def training_cost(model: Path) -> dict[str, Any]:
    """Epochs, seconds per epoch and peak memory of the run whose folder holds a model; empty where there is no run."""
    try:
        result = read_json(model.parent / "result.json")
        _, rows = read_rows(model.parent / "metrics.csv")
        seconds = [float(row["seconds"]) for row in rows if row.get("seconds")]
    except (OSError, ValueError, KeyError):
        return {}
    kept = ("epochs", "seconds_per_step", "peak_memory_mb")
    mean = {"seconds_per_epoch": float(np.mean(seconds))} if seconds else {}
    return {name: result[name] for name in kept if name in result} | mean


def _mean_of(values: list[float | None]) -> dict[str, Any] | None:
    each = np.array([_number(v) for v in values])
    known = each[np.isfinite(each)]
    return {"mean": float(known.mean()), "interval": mean_interval(each)} if known.size else None


def _number(value: float | None) -> float:
    return nan if value is None else value


def _json(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: value if isfinite(value) else None for name, value in scores.items()}


def _warn_of_training(model: MSUNet, items: list[Item]) -> Iterator[Event]:
    """Warn where images were trained on, since scores on them look too good."""
    names = set(model.summary.get("split", {}).get("train", ()))
    pixels = set(model.summary.get("training_pixels", ()))
    if known := sum(i.name in names or short_hash(i.pixel_key) in pixels for i in items):
        yield Message(
            level="warning",
            text=f"{known} of the {len(items)} images have the names or the pixels of images this model was trained "
            "on; scores on them look better than on new ones.",
        )


def _write(out: Path, values: dict[str, Any]) -> dict[str, str]:
    """Write report.json, and images.csv with a row for each image, output and class."""
    make_folder(out)
    rows: list[list[Any]] = []
    for image in values["images"]:
        for output in values["pooled"]:
            scores = image[output]
            for label, row in {"mean": scores, **scores["classes"]}.items():
                numbers = ["" if row[s] is None else f"{row[s]:.6f}" for s in SCORES]
                rows.append([image["name"], image["group"] or "", output, label, *numbers, scores["pixels"]])
    write_text(out / "images.csv", csv_text(rows, ["name", "group", "output", "class", *SCORES, "pixels"]))
    write_json(out / "report.json", values)
    return {"report": str(out / "report.json"), "images": str(out / "images.csv")}
