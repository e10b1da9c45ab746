"""Checks of a training that runs or has ended, as plain sentences.

This module needs neither Qt nor torch and is quick to import, because the window uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal, TypeAlias

import numpy as np

from napari_msunet.config.training import FUSED, MEAN_OF_SCALES, WatchedMetric
from napari_msunet.events import Metric, StepMetrics

_RECENT = 5
_GAP = 0.2
_SAME = 0.01

Scores: TypeAlias = Mapping[str, Mapping[str, float]]
"""The numbers of each output, such as "iou"."""


@dataclass(frozen=True)
class Finding:
    """One sentence of a check, and its level: "error" means that training refuses, "warning" that it warns.

    `about` is "time" for the sentence about how long it will take, and "time unknown" where that was not measured.
    """

    level: Literal["ok", "warning", "error"]
    text: str
    about: Literal["", "time", "time unknown"] = ""


BY_IOU = WatchedMetric(None, "iou", "fused")


@dataclass
class TrainingHistory:
    """The numbers of a running training: for (name, split, output) the epochs and values so far.

    Attributes
    ----------
    series : dict
    steps : dict
        For each name the numbers of the fused output in training by step: places (in epochs) and values.
    decides : WatchedMetric
        The number that decides which epoch's model is kept.
    """

    series: dict[tuple[str, str, str], list[tuple[int, float]]] = field(default_factory=dict)
    steps: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    decides: WatchedMetric = BY_IOU

    def add(self, metric: Metric) -> None:
        """Add a number; an epoch that is repeated after a resume replaces the older one and those after it."""
        values = self.series.setdefault((metric.name, metric.split, metric.output), [])
        while values and values[-1][0] >= metric.epoch:
            values.pop()
        values.append((metric.epoch, metric.value))

    def add_steps(self, event: StepMetrics) -> None:
        """Add the numbers of an epoch's steps, the last of which is at the place of the epoch."""
        points = self.steps.setdefault(event.name, [])
        while points and points[-1][0] > event.epoch - 1:
            points.pop()
        count = len(event.values)
        points += [
            (event.epoch - 1 + (i + 1) / count, value) for i, value in enumerate(event.values) if value is not None
        ]

    def last(self, name: str, split: str, output: str = "fused", count: int = _RECENT) -> list[float]:
        """The last values of one number."""
        return [value for _, value in self.series.get((name, split, output), [])[-count:]]

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return max((values[-1][0] for values in self.series.values() if values), default=0)

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose model is kept: that with the best number that decides, or the last where nothing
        validates."""
        by, validates = self.decides, any(split == "validation" for _, split, _ in self.series)
        found = self.series.get((by.name, by.split or "validation", by.output), [])
        values = [(by.height(v), -e) for e, v in found if isfinite(v)]
        return -max(values)[1] if values and validates else (self.epochs or None)


def check_progress(history: TrainingHistory, classes: Sequence[str]) -> list[Finding]:
    """Problems of a running training, and what to do about each; empty if there are none."""
    checks = (_never_found(history, classes), _flat(history), _overfitted(history))
    return [finding for finding in checks if finding is not None]


def _flat(history: TrainingHistory) -> Finding | None:
    """The finding that the training loss has stopped falling."""
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


def _never_found(history: TrainingHistory, classes: Sequence[str]) -> Finding | None:
    """The finding about classes of which no pixel was right in the last epochs."""
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


def _overfitted(history: TrainingHistory) -> Finding | None:
    """The finding that training images score much better than validation images."""
    train, other = history.last("iou", "train", count=3), history.last("iou", "validation", count=3)
    if history.epochs < _RECENT or len(train) < 3 or len(other) < 3:
        return None
    here, there = float(np.mean(train)), float(np.mean(other))
    if here - there - 2 * float(np.std(other)) < _GAP:  # where the validation jumps, the difference means nothing
        return None
    return Finding(
        "warning",
        f"Training images are segmented far better (IoU {here:.2f}) than those that validate ({there:.2f}): the model "
        "learns them by heart. Annotate more places or slides, use more augmentation, or a smaller width.",
    )


# ---------------------------------------------------------------------------------------------------------- when done


def does_context_help(scores: Scores, groups: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """A sentence that compares the fusion with the best single scale; it claims nothing within the noise of the groups.

    Parameters
    ----------
    scores : dict
        Validation scores by output.
    groups : dict, optional
        The IoU of each group (patient, slide) that validates, for each output.
    """
    singles = {name: s["iou"] for name, s in scores.items() if name not in (FUSED, MEAN_OF_SCALES) and "iou" in s}
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
    """95 % interval of the mean difference over common groups (Student's t); infinite for fewer than three."""
    differences = np.array([after[group] - before[group] for group in before if group in after])
    if len(differences) < 3:
        return -np.inf, np.inf
    from scipy import stats

    half = float(stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences))
    return float(differences.mean()) - half, float(differences.mean()) + half


def how_sure(groups: Mapping[str, float]) -> str:
    """A sentence about the spread of a validation IoU over its groups."""
    values = np.array(list(groups.values()))
    if len(values) < 2:
        return "One group validates: how sure this score is cannot be told."
    return f"Over {len(values)} groups the IoU is {values.mean():.3f} ± {values.std(ddof=1):.3f}."
