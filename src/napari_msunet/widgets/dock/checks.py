"""What a careful colleague would say before a training and while it runs, in plain sentences. No Qt, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import psutil

from napari_msunet.config import ModelConfig, SettledTrainJob, SlideSource, TrainJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import Metric
from napari_msunet.geometry import round_up

_BASE_BYTES = 700e6  # torch and Lightning themselves
_FEW_PIXELS = 500
_FEW_STEPS = 100
_RECENT = 5
_GAP = 0.2
_SAME = 0.01


Scores: TypeAlias = Mapping[str, Mapping[str, float]]
"""For each output its numbers, such as "iou"."""


@dataclass(frozen=True)
class Finding:
    """One sentence of a check, and how bad it is: "error" means that training would refuse or be useless."""

    level: Literal["ok", "warning", "error"]
    text: str


# --------------------------------------------------------------------------------------------------- before a training


def check_training(job: TrainJob, runs: Path | None = None) -> list[Finding]:
    """Look at a training before it starts: what it would learn from, and what it would cost.

    Reads the sources (each image and mask is opened once), so it belongs into a thread.

    Parameters
    ----------
    job : TrainJob
    runs : Path, optional
        Folder of earlier training runs on this machine, from which the time of a step is known.
    """
    from napari_msunet.data.recipe import settle

    try:
        settled, reasons = settle(job)
    except MsunetError as error:
        return [Finding("error", str(error))]
    findings, steps = _check_truth(settled)
    findings += [Finding("ok", reason) for reason in reasons]
    findings.append(check_memory(settled))
    findings.append(check_time(settled, steps, measured_rate(runs) if runs else None))
    return findings


def _check_truth(job: SettledTrainJob) -> tuple[list[Finding], int | None]:
    """What the sources hold and how they are split, as the training itself will find them; steps of an epoch."""
    from napari_msunet.data import load_sources, split
    from napari_msunet.data.sampling import Sampler

    findings: list[Finding] = []

    def say(level: str, text: str) -> None:
        findings.append(Finding("warning" if level == "warning" else "ok", text))

    items = []
    try:
        items = load_sources(job.sources, job.model, say)
        sides = split(items, job.validation, job.seed)
        for message in sides.messages:
            say(message.level, message.text)
        train, validate = _class_pixels(sides.train), _class_pixels(sides.validate)
        findings += check_classes(job.model, train, validate, bool(sides.validate))
        if any(isinstance(source, SlideSource) and source.edited_only for source in job.sources):
            findings.append(Finding("ok", "Of corrected predictions, only the pixels you changed count as true."))
        size = window_size(job)
        steps = job.steps or Sampler(sides.train, size, 1, job.seed).steps(job.batch_size)
    except MsunetError as error:
        return [*findings, Finding("error", str(error))], None
    finally:
        for item in items:
            item.release()
    return findings, steps


def _class_pixels(items: Sequence[Any]) -> dict[int, float]:
    """About how many level-0 pixels each class has, background (0) included."""
    counts: dict[int, float] = {}
    for item in items:
        values, grid = item.truth.overview()
        found = np.bincount(values.ravel(), minlength=256)
        for value in np.flatnonzero(found[:255]).tolist():
            counts[value] = counts.get(value, 0.0) + float(found[value]) * grid.pixel[0] * grid.pixel[1]
        item.forget_mask()
    return counts


def check_classes(
    model: ModelConfig, train: dict[int, float], validate: dict[int, float], validated: bool
) -> list[Finding]:
    """Sentences about the pixels of each class on both sides of the split (level-0 pixels by class number)."""
    findings = []
    for value, name in enumerate(("background", *model.classes)):
        pixels, others = train.get(value, 0.0), validate.get(value, 0.0)
        if not pixels and not others:
            level: Literal["warning", "error"] = "warning" if value == 0 else "error"
            way = (
                "paint some of it with the class Background" if value == 0 else "paint some of it, or remove the class"
            )
            findings.append(Finding(level, f"No pixel is annotated as {name}: {way}, or the model cannot learn it."))
        elif not pixels:
            findings.append(
                Finding(
                    "error", f"{name} is only among what validates, so nothing can learn it: annotate it elsewhere too."
                )
            )
        elif pixels < _FEW_PIXELS:
            findings.append(
                Finding("warning", f"{name} has only about {pixels:,.0f} annotated pixels: more places would help.")
            )
        elif validated and not others:
            findings.append(Finding("warning", f"{name} is not among what validates, so its score will not be known."))
    if not findings:
        known = ", ".join(f"{n} {_short(train[v])}" for v, n in enumerate(("background", *model.classes)))
        findings.append(Finding("ok", f"Every class has annotated pixels to learn from: {known}."))
    return findings


def _short(pixels: float) -> str:
    """A number of pixels in two figures."""
    for size, name in ((1e6, " M"), (1e3, " k")):
        if pixels >= size:
            return f"{pixels / size:.2g}{name}" if pixels < 100 * size else f"{pixels / size:.0f}{name}"
    return f"{pixels:.0f}"


def window_size(job: SettledTrainJob) -> int:
    """The side of a training window after rounding up, in target pixels."""
    return round_up(job.size, job.model.size_multiple)


def _planes(job: SettledTrainJob) -> list[tuple[Any, float]]:
    """Each branch's config, and how many pixels its window has."""
    size, model = window_size(job), job.model
    sides = [size if model.field == "concentric" and s < 1 else size * s for s in model.scales]
    return [(branch, side * side) for branch, side in zip(model.branches, sides, strict=True)]


def step_work(job: SettledTrainJob) -> float:
    """Multiplications of one training step, in 1e9: forward and twice as many backward."""
    total = 0.0
    for branch, pixels in _planes(job):
        widths = branch.widths
        for level, width in enumerate(widths):
            before = widths[level - 1] if level else job.model.channels
            down = 9 * (before * width + width * width)
            up = widths[level + 1] * width + 27 * width * width if level < branch.depth else 0
            total += pixels / 4**level * (down + up)
    return 3 * job.batch_size * total / 1e9


def training_memory(job: SettledTrainJob) -> float:
    """About how many bytes a training needs: what a step keeps for its way back, and the weights with their moments."""
    kept = weights = 0.0
    outputs = len(job.model.classes) + 1
    for branch, pixels in _planes(job):
        widths = branch.widths
        for level, width in enumerate(widths):
            # Of each convolution its input, of each normalisation its input; on the way up also the joined features.
            kept += pixels / 4**level * width * (10 if level < branch.depth else 4)
            before = widths[level - 1] if level else job.model.channels
            weights += 9 * (before + width) * width + (31 * width * width if level < branch.depth else 0)
    logits = window_size(job) ** 2 * outputs * (len(job.model.scales) + 1) * 6
    return _BASE_BYTES + 4 * job.batch_size * (1.3 * kept + logits) + 16 * weights


def check_memory(job: SettledTrainJob, available: float | None = None) -> Finding:
    """Whether the batch fits into this computer's memory."""
    needed = training_memory(job)
    free = float(psutil.virtual_memory().available) if available is None else available
    text = (
        f"A batch of {job.batch_size} windows of {window_size(job)} pixels needs about {_gigabytes(needed)} of memory"
    )
    if job.device.startswith("cuda"):
        return Finding("ok", f"{text} on {job.device}.")
    if needed > free:
        advice = "choose a smaller batch or smaller windows, or close other programs"
        return Finding("warning", f"{text}, but only {_gigabytes(free)} are free: {advice}.")
    return Finding("ok", f"{text}; {_gigabytes(free)} are free.")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def measured_rate(runs: Path) -> float | None:
    """Seconds for 1e9 multiplications, from the newest finished training in a folder of runs; None before the first."""
    results = sorted(runs.glob("*/result.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in results:
        try:
            values = json.loads(path.read_bytes())
            job = SettledTrainJob.model_validate_json((path.parent / "job.json").read_bytes())
            return float(values["seconds_per_step"]) / step_work(job)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged run says nothing about the speed
    return None


def check_time(job: SettledTrainJob, steps: int | None, rate: float | None) -> Finding:
    """How long the training will take at most."""
    limit = f"it ends after {duration(job.time_limit)} at the latest" if job.time_limit else ""
    if steps is None or rate is None:
        text = "How long a step takes on this computer is known after the first one"
        return Finding("ok", f"{text}; {limit}." if limit else f"{text}.")
    step = rate * step_work(job)
    whole = job.epochs * steps * step
    text = f"An epoch has {steps} steps of about {step:.2g} s"
    if job.time_limit and whole > job.time_limit:
        total = job.time_limit / step
        text += f"; {duration(job.time_limit)} allow about {total:,.0f} steps"
        return Finding("ok" if total >= _FEW_STEPS else "warning", f"{text}.")
    return Finding("ok", f"{text}; all {job.epochs} epochs take at most {duration(whole)}.")


def duration(seconds: float) -> str:
    """A time in words, such as ``"4 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


# --------------------------------------------------------------------------------------------------- while it runs


@dataclass
class History:
    """The numbers of a running training: for (name, split, output) the epochs and values so far."""

    series: dict[tuple[str, str, str], list[tuple[int, float]]] = field(default_factory=dict)

    def add(self, metric: Metric) -> None:
        """Take in a number; an epoch that is run again after a resume replaces its older one and what followed."""
        values = self.series.setdefault((metric.name, metric.split, metric.output), [])
        while values and values[-1][0] >= metric.epoch:
            values.pop()
        values.append((metric.epoch, metric.value))

    def last(self, name: str, split: str, output: str = "fused", count: int = _RECENT) -> list[float]:
        """The last values of one number."""
        return [value for _, value in self.series.get((name, split, output), [])[-count:]]

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return max((values[-1][0] for values in self.series.values() if values), default=0)

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose model is kept: the best validation IoU; the last where nothing validates."""
        values = [(v, -e) for e, v in self.series.get(("iou", "validation", "fused"), []) if isfinite(v)]
        return -max(values)[1] if values else (self.epochs or None)


def check_progress(history: History, classes: Sequence[str]) -> list[Finding]:
    """What is wrong with a training that runs, and what to do about each; empty while all is well."""
    checks = (_never_found(history, classes), _flat(history), _overfitted(history))
    return [finding for finding in checks if finding is not None]


def _flat(history: History) -> Finding | None:
    """The training loss has stopped falling."""
    losses = history.last("loss", "train", count=2 * _RECENT)
    if len(losses) < 2 * _RECENT:
        return None
    before, now = float(np.mean(losses[:_RECENT])), float(np.mean(losses[_RECENT:]))
    if before - now > _SAME * abs(before):
        return None
    iou = history.last("iou", "validation", count=1) or history.last("iou", "train", count=1)
    if iou and iou[0] >= 0.7:
        return Finding(
            "ok",
            f"The loss has not fallen for {_RECENT} epochs: little more will come; you can stop and keep the best.",
        )
    return Finding(
        "warning",
        f"The loss has not fallen for {_RECENT} epochs (about {now:.2f}): try a higher or lower learning rate, or look "
        "whether the annotations fit the picture.",
    )


def _never_found(history: History, classes: Sequence[str]) -> Finding | None:
    """Classes of which not one pixel was right in the last epochs."""
    split = "validation" if ("loss", "validation", "fused") in history.series else "train"
    lost = []
    for name in classes:
        values = history.last(f"iou {name}", split, count=3)
        if len(values) == 3 and max(values) == 0:
            lost.append(name)
    if not lost:
        return None
    return Finding(
        "warning",
        f"The model never finds {', '.join(lost)} (3 epochs): annotate more of it in more places, or train longer.",
    )


def _overfitted(history: History) -> Finding | None:
    """Much better on what it trains on than on what validates."""
    train, other = history.last("iou", "train", count=3), history.last("iou", "validation", count=3)
    if history.epochs < _RECENT or len(train) < 3 or len(other) < 3:
        return None
    here, there = float(np.mean(train)), float(np.mean(other))
    if here - there - 2 * float(np.std(other)) < _GAP:  # a validation that jumps says nothing
        return None
    return Finding(
        "warning",
        f"Training images are segmented far better (IoU {here:.2f}) than those that validate ({there:.2f}): the model "
        "learns them by heart. Annotate more places or slides, use more augmentation, or a smaller width.",
    )


# ---------------------------------------------------------------------------------------------------------- when done


def does_context_help(scores: Scores, groups: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """One sentence that compares the fusion with the best single scale; it claims nothing within the groups' noise.

    Parameters
    ----------
    scores : dict
        Validation scores by output.
    groups : dict, optional
        For each output the IoU of each group (patient, slide) that validates.
    """
    singles = {name: s["iou"] for name, s in scores.items() if name != "fused" and "iou" in s}
    if "iou" not in scores.get("fused", {}) or len(singles) < 2:
        return ""
    best = max(singles, key=lambda name: singles[name])
    fused, single = scores["fused"]["iou"], singles[best]
    numbers = f"(IoU {fused:.3f} fused, {single:.3f} with {best} alone)"
    low, high = difference_interval((groups or {}).get(best, {}), (groups or {}).get("fused", {}))
    if low <= 0 <= high:
        return (
            f"Whether several scales help cannot be told from what validates {numbers}: compare them in an experiment."
        )
    if fused > single:
        return f"Several scales together help: {fused - single:+.3f} over the best one alone {numbers}."
    return f"Several scales together are worse than one {numbers}: try that scale alone, or train longer."


def difference_interval(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[float, float]:
    """95 % interval of the mean difference over common groups (Student's t); endless for fewer than three."""
    differences = np.array([after[group] - before[group] for group in before if group in after])
    if len(differences) < 3:
        return -np.inf, np.inf
    from scipy import stats

    half = float(stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences))
    return float(differences.mean()) - half, float(differences.mean()) + half


def how_sure(groups: Mapping[str, float]) -> str:
    """One sentence on the spread of a validation IoU over its groups."""
    values = np.array(list(groups.values()))
    if len(values) < 2:
        return "One group validates: how sure this score is cannot be told."
    return f"Over {len(values)} groups the IoU is {values.mean():.3f} ± {values.std(ddof=1):.3f}."
