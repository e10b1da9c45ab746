"""One trial of a search: a training for each fold, scored on what it has not seen, and its row of the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import isfinite
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from napari_msunet._io import read_json, write_json
from napari_msunet.config import AutoModel, SettledTrainJob, TrainJob, TuneJob
from napari_msunet.config.jobs import reason_of, with_changes
from napari_msunet.config.search import values_of
from napari_msunet.data import Item, split
from napari_msunet.data.recipe import ImageStatistics, look_for, settle
from napari_msunet.data.sharing import SharedImages
from napari_msunet.errors import MsunetError, OutputError, SourceError
from napari_msunet.events import Cancelled, Event
from napari_msunet.inference.network import pick_device
from napari_msunet.training.experiments import mean_dice, pooled, reason_of_failure, train_and_score, using_threads
from napari_msunet.training.held_out import load_items
from napari_msunet.training.prepare import check_memory

SECONDS = 60.0
"""Time of each training where the job gives none."""

TRIAL = "trial.json"
PARTS = 4
"""Into how many parts the groups are cut where one of them is held out once."""

HELD_OUT = 0.25
"""Share of a single image that is held out."""

Row = dict[str, Any]
"""A row of the table of trials, as plain values."""


@dataclass
class SharedWork:
    """What all trials of a search share.

    Attributes
    ----------
    job : TuneJob
    base : TrainJob
        The training whose fields the trials change.
    folds : int
        How many trainings a trial has.
    parts : int
        Into how many parts the groups are cut, of which each training holds out another; 1: there is one image, of
        which a part is held out.
    images : SharedImages
    look : ImageStatistics, optional
        What was found in the images, from which trials choose what is open.
    fingerprint : str
        Which images these are.
    """

    job: TuneJob
    base: TrainJob
    folds: int
    parts: int
    images: SharedImages
    look: ImageStatistics | None
    fingerprint: str
    _held_out: dict[tuple[str, int], list[Item]] = field(default_factory=dict)

    def training(self, values: Mapping[str, Any], what: str) -> TrainJob:
        """The training with these values; `MsunetError` where they do not fit together."""
        try:
            return with_changes(self.base, values, what)
        except ValueError as error:
            raise MsunetError(f"{reason_of(error)[:1].upper()}{reason_of(error)[1:]}.") from error

    def fold(self, settled: SettledTrainJob, number: int, out: Path) -> SettledTrainJob:
        """The training of a fold, counted from 1."""
        own: dict[str, Any] = {"out": out, "split_seed": self.base.seed}
        own |= {"fold": (number, self.parts)} if self.parts > 1 else {"validation": HELD_OUT}
        return settled.model_copy(update=own)

    def held_out(self, training: SettledTrainJob, number: int) -> list[Item]:
        """The images that a fold does not train on."""
        key = repr(training.model.target), number
        if key not in self._held_out:
            items, _ = load_items(training, training.model, lambda level, text: None, self.images)
            model = training.model
            sides = split(items, training.validation, self.base.seed, 0.0, training.fold, model.classes)
            self._held_out[key] = sides.validate
        return self._held_out[key]


def prepare(job: TuneJob, say: Callable[[str, str], None]) -> SharedWork:
    """Load the images, and decide how they are cut into folds.

    Raises
    ------
    SourceError
        If nothing could be held out, or the images cannot be used.
    """
    seconds = job.training.time_limit or SECONDS
    on_processor = pick_device(job.training.device).type == "cpu"
    limits = {
        "time_limit": seconds,
        "clock": "processor" if on_processor else "wall",
        "validation": 0.0,
        "test": 0.0,
        "fold": None,
        "resume": False,
        "replaces": None,
    }
    base = job.training.model_copy(update=limits)
    opened = isinstance(base.model, AutoModel) or base.size is None
    look = look_for(base) if opened else None
    settled, reasons = settle(base, look)
    for reason in reasons:
        say("info", reason)
    if isinstance(base.model, AutoModel) and base.model.branch is None:
        base = base.model_copy(update={"model": base.model.model_copy(update={"branch": settled.model.branch})})
    images = SharedImages()
    items, _ = load_items(base, settled.model, say, images)
    folds, parts = _folds(items, job.folds, say)
    fingerprint = sha256("\n".join(sorted(item.pixel_key for item in items)).encode()).hexdigest()[:16]
    work = SharedWork(job, base, folds, parts, images, look, fingerprint)
    _check_folds(work, settled, items, say)
    return work


def _folds(items: Sequence[Item], wanted: int, say: Callable[[str, str], None]) -> tuple[int, int]:
    """How many trainings a trial has, and into how many parts the groups are cut."""
    free = [item for item in items if item.role in ("auto", "validate")]
    groups = {item.group if item.group is not None else id(item.truth) for item in free}
    images = {(item.name, item.group) for item in free}
    if len(images) == 1:
        if wanted > 1:
            say("info", "There is one image, so it is not cut into folds: a part of it is held out.")
        return 1, 1
    if len(groups) < 2:
        found = f"All images are of the one group {free[0].group}" if free else "No image may be held out"
        raise SourceError(
            f"{found}, so no trial could be scored on something that it has not seen; give images of several groups "
            "(patients, slides), or leave the group out."
        )
    if len(groups) < wanted:
        say("info", f"There are {len(groups)} groups, so they are cut into {len(groups)} folds instead of {wanted}.")
    return min(wanted, len(groups)), min(wanted if wanted > 1 else PARTS, len(groups))


def _check_folds(
    work: SharedWork, settled: SettledTrainJob, items: Sequence[Item], say: Callable[[str, str], None]
) -> None:
    """Make the first split, with what is to be said about it; `SourceError` where it cannot be made."""
    first = work.fold(settled, 1, work.job.out)
    sides = split(items, first.validation, work.base.seed, 0.0, first.fold, settled.model.classes)
    for message in sides.messages:
        say(message.level, message.text)
    if not sides.validate:
        raise SourceError("Nothing can be held out of these images, so no trial could be scored; give more images.")


# ----------------------------------------------------------------------------------------------------------- a trial


def run_trial(work: SharedWork, known: Row, is_bad: Callable[[float, int], bool]) -> Generator[Event, None, Row]:
    """Train and score a trial, fold by fold, and return its row, which is also in its folder.

    Parameters
    ----------
    work : SharedWork
    known : dict
        What is known of the row before: ``"trial"``, its number, and ``"values"``, one for each field that varies
        (choices by their labels).
    is_bad : callable
        Takes the mean Dice over the first folds, and how many they are, and decides whether the trial ends.

    Raises
    ------
    OutputError
        If the disk takes no more. Every other error makes a row with its sentence.
    """
    out = work.job.out / "trials" / f"{known['trial']:04d}"
    rmtree(out, ignore_errors=True)
    row: Row = known | {"outcome": "failed", "folds": []}
    groups: dict[str, Any] = {}
    before, began = time.process_time(), time.monotonic()
    try:
        with using_threads(work.job.threads):
            yield from _folds_of(work, row, groups, is_bad)
    except (Cancelled, OutputError):
        raise
    except Exception as error:
        row["error"] = reason_of_failure(error)
    row["processor_seconds"] = round(time.process_time() - before, 2)
    row["seconds"] = round(time.monotonic() - began, 2)
    if row["folds"]:
        row["dice"] = float(np.mean(row["folds"]))
        row["deviation"] = float(np.std(row["folds"], ddof=1)) if len(row["folds"]) > 1 else None
    if "error" in row:
        row["dice"] = None
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / TRIAL, row | {"groups": groups})
    return row


def finished_row(out: Path, number: int) -> Row | None:
    """The row of a trial that has ended, from its folder in that of the search."""
    try:
        row = read_json(out / "trials" / f"{number:04d}" / TRIAL)
    except MsunetError:
        return None
    row.pop("groups", None)
    return row


def _folds_of(
    work: SharedWork, row: Row, groups: dict[str, Any], is_bad: Callable[[float, int], bool]
) -> Generator[Event, None, None]:
    """Train and score fold by fold, and fill the row, and the confusion matrix of each group."""
    job, number = work.job, row["trial"]
    training = work.training(values_of(job.searched, row["values"]), f"trial {number}")
    settled, _ = settle(training, work.look)
    if (memory := check_memory(settled)).level == "warning":  # the system would end the process, and the search with it
        raise MsunetError(memory.text)
    for fold in range(1, work.folds + 1):
        own = work.fold(settled, fold, job.out / "trials" / f"{number:04d}" / f"fold{fold}")
        found = yield from train_and_score(own, lambda own=own, fold=fold: work.held_out(own, fold), work.images)  # type: ignore[misc]
        dice = mean_dice(pooled(found, "fused"))
        if not isfinite(dice):
            raise MsunetError(f"Fold {fold} has no pixel of any class, neither in the truth nor predicted.")
        row["folds"].append(dice)
        groups |= {group: outputs["fused"] for group, outputs in found["groups"].items()}
        row["steps"] = row.get("steps", 0) + found["steps"]
        row["parameters"] = found["parameters"]
        if fold < work.folds and is_bad(float(np.mean(row["folds"])), fold):
            row["outcome"] = "pruned"
            return
    row["outcome"] = "scored"


def training_of_trial(work: SharedWork, point: Mapping[str, Any], out: Path) -> TrainJob:
    """The training of a trial as a job to be run on all images, with what the person had left open still open."""
    found = work.training(values_of(work.job.searched, point), "the best trial")
    own = work.job.training
    kept = {"validation": own.validation, "test": own.test, "clock": own.clock, "fold": None, "out": out}
    return found.model_copy(update=kept)
