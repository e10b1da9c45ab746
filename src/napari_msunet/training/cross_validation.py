"""Cross-validation: one training for each fold, each scored on the groups that it has not seen."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_msunet._io import csv_text, read_json, write_json, write_text
from napari_msunet.config import CrossValidateJob, EvaluateJob, TrainJob
from napari_msunet.data import Item, Split, load_sources, split
from napari_msunet.data.recipe import settle
from napari_msunet.events import Event, Message, Result, progress
from napari_msunet.models import load_model
from napari_msunet.training.evaluate import Evaluation
from napari_msunet.training.fit import train_events
from napari_msunet.training.record import begin_folder
from napari_msunet.training.scoring.metrics import SCORES

_JOB, _SCORES, _MODEL = "crossval.json", "scores.json", "model.safetensors"
_FREE = {"resume", "out"}

Pooled = dict[str, Any]
"""A report for "fused" and each scale, as in `evaluate_events`."""


def crossval_events(job: CrossValidateJob) -> Iterator[Event]:
    """Train and score a model once for each fold.

    All folds are made before the first training, so that errors come at once. Closing the iterator keeps the finished
    folds; the same job with `resume` continues.

    Parameters
    ----------
    job : CrossValidateJob

    Yields
    ------
    Event
        The events of each training, `Message` and `Progress` (folds), and at the end a `Result` with ``"folds"`` (for
        each its ``"pooled"`` scores and the names in ``"split"``), and ``"mean"`` and ``"std"`` of each score over the
        folds, as ``{output: {score: ..., "classes": {class: {score: ...}}}}``.

    Raises
    ------
    SourceError
        If the images cannot be cut into that many folds with every class in each, or cannot be used.
    OutputError
        If `job.out` holds something else, or cannot be written.
    """
    begin_folder(job.out / _JOB, job, "a cross-validation", _comparable)
    settled, reasons = settle(job.training)
    yield from (Message(text=reason) for reason in reasons)
    job = job.model_copy(update={"training": settled})
    messages: list[Event] = []
    sides = _all_folds(job, messages)
    yield from messages
    started = time.monotonic()
    folds: list[dict[str, Any]] = []
    for number in range(1, job.folds + 1):
        training = _training(job, number)
        if not (training.out / _SCORES).exists():
            yield Message(text=f"Fold {number} of {job.folds}.")
            yield from _trained(training)
            yield from _scored(training, sides[number - 1])
        folds.append(read_json(training.out / _SCORES))
        yield progress(number, job.folds, "folds", started)
    values = {"folds": folds, "mean": _over(folds, np.mean), "std": _over(folds, _deviation)}
    files = _write(job.out, values) | {
        f"model{n}": str(_training(job, n).out / _MODEL) for n in range(1, job.folds + 1)
    }
    yield Message(text=_summary(values))
    yield Result(values=values, files=files)


def _comparable(job: CrossValidateJob) -> dict[str, Any]:
    """The fields that must stay the same when the job is resumed."""
    own: dict[str, Any] = json.loads(job.model_dump_json(exclude=_FREE | {"training"}))
    training: dict[str, Any] = json.loads(job.training.model_dump_json(exclude=_FREE | {"device"}))
    return own | training


def _training(job: CrossValidateJob, number: int) -> TrainJob:
    """The training of a fold; it is resumed where it has begun."""
    out = job.out / f"fold{number}"
    resume = (out / "job.json").exists()
    return job.training.model_copy(update={"out": out, "fold": (number, job.folds), "resume": resume, "replaces": None})


def _all_folds(job: CrossValidateJob, messages: list[Event]) -> list[Split]:
    """The sides of each fold; each message about the data is given once."""

    def say(level: str, text: str) -> None:
        messages.append(Message(level="warning" if level == "warning" else "info", text=text))

    items = load_sources(job.training.sources, job.training.model, say)
    try:
        given, shares, classes = job.training, job.training.validation or 0.0, job.training.model.classes
        # the seed with which the trainings themselves split
        seed = given.seed if given.split_seed is None else given.split_seed
        sides = [split(items, shares, seed, 0.0, (n, job.folds), classes) for n in range(1, job.folds + 1)]
    finally:
        for item in items:
            item.release()
    messages += sides[0].messages
    return sides


def _trained(training: TrainJob) -> Iterator[Event]:
    """Train a fold, unless it is finished."""
    if (training.out / "result.json").exists():
        return
    for event in train_events(training):
        if not isinstance(event, Result):
            yield event


def _scored(training: TrainJob, sides: Split) -> Iterator[Event]:
    """Score a fold's model on its validation images, and keep the scores."""
    model = load_model(training.out / _MODEL)
    asked = EvaluateJob(model=training.out / _MODEL, sources=training.sources, device=training.device)
    evaluation = Evaluation(model, asked)
    for item in sides.validate:
        evaluation.add(item)
    found = evaluation.values()
    names = {"train": _names(sides.train), "validate": _names(sides.validate), "test": _names(sides.test)}
    kept = {name: found[name] for name in ("pooled", "images", "classes")} | {"split": names}
    write_json(training.out / _SCORES, kept)
    fused = found["pooled"]["fused"]
    yield Message(text=f"{training.out.name}: Dice {_text(fused['dice'])}, IoU {_text(fused['iou'])}.")


def _names(items: Sequence[Item]) -> list[str]:
    return [item.name for item in items]


def _deviation(values: Any) -> float:
    """The sample's standard deviation; 0 for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _over(folds: list[dict[str, Any]], function: Any) -> Pooled:
    """A function of each score over the folds in which it is defined; None where it is defined in no fold."""

    def of(rows: list[dict[str, Any]]) -> dict[str, float | None]:
        known = {name: [row[name] for row in rows if row[name] is not None] for name in SCORES}
        return {name: float(function(values)) if values else None for name, values in known.items()}

    outputs: Pooled = {}
    for output in folds[0]["pooled"]:
        reports = [fold["pooled"][output] for fold in folds]
        classes = {label: of([r["classes"][label] for r in reports]) for label in reports[0]["classes"]}
        outputs[output] = of(reports) | {"classes": classes}
    return outputs


def _write(out: Path, values: dict[str, Any]) -> dict[str, str]:
    """report.json, and folds.csv with a row for each fold, output and class, then their mean and deviation."""
    table: list[list[Any]] = []
    rows = {str(n): fold["pooled"] for n, fold in enumerate(values["folds"], start=1)}
    for name, outputs in {**rows, "mean": values["mean"], "std": values["std"]}.items():
        for output, scores in outputs.items():
            for label, row in {"mean": scores, **scores["classes"]}.items():
                numbers = ["" if row[s] is None else f"{row[s]:.6f}" for s in SCORES]
                table.append([name, output, label, *numbers])
    write_text(out / "folds.csv", csv_text(table, ["fold", "output", "class", *SCORES]))
    write_json(out / "report.json", values)
    return {"folds": str(out / "folds.csv"), "report": str(out / "report.json")}


def _text(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _summary(values: dict[str, Any]) -> str:
    """The main numbers as a sentence."""
    mean, deviation = values["mean"]["fused"], values["std"]["fused"]
    parts = [
        f"{label} {_text(mean[key])} ± {_text(deviation[key])}" for label, key in (("Dice", "dice"), ("IoU", "iou"))
    ]
    return f"Over {len(values['folds'])} folds (mean ± standard deviation): {', '.join(parts)}."
