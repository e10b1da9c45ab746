"""The data and windows of a training, before anything is computed, and `check`, which looks at a training beforehand.

No torch: the window checks a training before it sends the job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil, lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import psutil
from pydantic import ValidationError

from napari_msunet._io import read_json
from napari_msunet.config import FUSIONS, ModelConfig, SettledTrainJob, SlideSource, TrainJob, check_class_names
from napari_msunet.config.model import HEADLESS, JOINED, NOT_SEPARATE
from napari_msunet.config.training import watched_metric
from napari_msunet.data import Item, Split, split
from napari_msunet.data.ranges import trained_on
from napari_msunet.data.recipe import settle
from napari_msunet.data.sampling import Sampler, Spot, validation_spots
from napari_msunet.errors import ModelError, MsunetError, SourceError
from napari_msunet.events import check as check_stop
from napari_msunet.geometry import round_up
from napari_msunet.models.start_weights import Start, open_start
from napari_msunet.models.windows import window_multiple
from napari_msunet.training.held_out import HeldOut, load_items, set_aside
from napari_msunet.training.progress import Finding
from napari_msunet.training.record import RunFolder, measured
from napari_msunet.wording import duration, gigabytes

if TYPE_CHECKING:  # it imports torch
    from napari_msunet.data.sharing import SharedImages

# ----------------------------------------------------------------------------------------------------------------------
# The pixels of each class in the images of a side, for class weights, and for warnings about missing classes.

Say = Callable[[str, str], None]


def class_pixels(item: Item, outputs: int) -> npt.NDArray[np.int64]:
    """The approximate number of target pixels of background and of classes 1..K in an image's truth, `(K+1,)`."""
    return np.asarray(np.ceil(item.content[:outputs]), np.int64)


def known_only(sides: Split, classes: Sequence[str], say: Say) -> tuple[Split, tuple[int, ...]]:
    """The split without training images that have no truth, and the pixels of each class in the others.

    Messages name the classes that a side lacks.

    Raises
    ------
    SourceError
        If no training image has any truth.
    """
    outputs = len(classes) + 1
    counts = []
    for item in sides.train:
        check_stop()
        counts.append(class_pixels(item, outputs))
    known = [bool(c.any()) for c in counts]
    if not any(known):
        raise SourceError(
            f"All pixels of the {len(known)} training images are ignored (not annotated, or of no class of this "
            "model), so there is nothing to learn; annotate some of each class and of background."
        )
    if not all(known):
        names = [item.name for item, k in zip(sides.train, known, strict=True) if not k]
        say("warning", f"Nothing is annotated in {', '.join(names)}: left out.")
    train = np.sum(counts, axis=0)
    validate = np.sum([class_pixels(i, outputs) for i in sides.validate] or [np.zeros(outputs, np.int64)], axis=0)
    _lacking(train, classes, say, "training images, so it cannot be learned; annotate some, or leave the class out")
    if sides.validate and train[1:].any():
        present = [name if train[i] else "" for i, name in enumerate(classes, start=1)]
        _lacking(validate, present, say, "validation images, so its scores say nothing; choose other groups for them")
    if not train[0]:
        say("warning", "No training image has background: the model will see the classes everywhere.")
    kept = [item for item, k in zip(sides.train, known, strict=True) if k]
    return sides._replace(train=kept), tuple(int(n) for n in train)


def _lacking(counts: npt.NDArray[np.int64], classes: Sequence[str], say: Say, where: str) -> None:
    for name, count in zip(classes, counts[1:], strict=True):
        if name and not count:
            say("warning", f"The class {name} has no pixel in the {where}.")


# ----------------------------------------------------------------------------------------------------------------------
# The data of a training, before anything is computed: the images that train, validate and test, and their windows.
#
# The check before a training and the training itself call the same functions, so they agree. No Qt; torch is imported
# only where a network must be measured (branches with ``padding="valid"``).

_VALIDATION_WINDOWS = 64
_LEAST_STEPS = 20
"""Fewest steps of an epoch where a time limit ends the training; the work after each epoch would take too much else."""


@dataclass(frozen=True)
class Prepared:
    """Everything about a training that follows from its job, its images and their truth.

    Attributes
    ----------
    job : SettledTrainJob
    config, seen : ModelConfig
        The config of the model, and the same on the grid of the loss, which is that of the windows.
    size, border : int
        Side of a window, and the width of the edge that carries no loss, in target pixels of `seen`.
    sides : Split
        The split, with training images that have some truth.
    pixels : tuple of int
        The approximate number of training pixels of background and of classes 1..K.
    aside : HeldOut
        The test set.
    sampler : Sampler
        Draws the training windows.
    steps : int
        Steps of an epoch.
    spots : list of Spot
        The windows that validate.
    start : Start, optional
        The model whose weights training begins with.
    """

    job: SettledTrainJob
    config: ModelConfig
    seen: ModelConfig
    size: int
    border: int
    sides: Split
    pixels: tuple[int, ...]
    aside: HeldOut
    sampler: Sampler
    steps: int
    spots: list[Spot]
    start: Start | None

    def words(self) -> str:
        """A sentence about the training, without its full stop."""
        held, test = len(self.sides.validate), len(self.sides.test)
        if self.spots:
            others = f"validating on {_count(len(self.spots), 'window')} of {_count(held, 'image')}"
        else:
            others = f"holding out {_count(held, 'image')}" if held else "validating on none"
        return (
            f"Training on {_count(len(self.sides.train), 'image')} in {_count(self.steps, 'step')} of "
            f"{_count(self.job.batch_size, 'window')} an epoch, {others}"
            + (f", with {_count(test, 'image')} set aside for testing" if test else "")
        )

    def release(self) -> None:
        """Close all images."""
        for item in (*self.sides.train, *self.sides.validate, *self.sides.test):
            item.release()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def settle_training(given: TrainJob, folder: RunFolder, say: Say) -> tuple[SettledTrainJob, tuple[str, ...]]:
    """The job with all open choices made, and the reasons; for a resumed run, the job with which it was begun.

    Raises
    ------
    SourceError, MissingMppError, SlideError
        If something given cannot be used.
    """
    # runs that were begun before class names were checked can still be resumed
    if not given.resume and given.start is None:
        try:
            check_class_names(given.model.classes)
        except ValueError as error:
            raise SourceError(f"The model's classes cannot be used: {error}.") from None
    if given.devices * given.nodes > 1 and (given.find_batch_size or given.find_learning_rate):
        raise MsunetError(
            "The batch size and the learning rate are found on one device; find them there, then give them to several."
        )
    resumed = folder.begun_job(given)
    if resumed:
        return resumed, ()
    job, reasons = settle(given)
    if job.classical and given.devices * given.nodes > 1:
        raise MsunetError("A classical method is fitted in seconds on one device; leave devices and nodes at 1.")
    for reason in reasons:
        say("info", reason)
    return job, reasons


def prepare_data(job: SettledTrainJob, say: Say, goes_on: bool = False, shared: SharedImages | None = None) -> Prepared:
    """Load and split the sources, and lay out the windows.

    Parameters
    ----------
    job : SettledTrainJob
    say : callable
        Takes a level ("info" or "warning") and a sentence.
    goes_on : bool
        Whether the run continues from its checkpoint, and so does not begin with the weights of another model.
    shared : SharedImages, optional
        The images of earlier trainings of the same work.

    Raises
    ------
    SourceError, MissingMppError, SlideError, ModelError
        If something given cannot be used.
    """
    start = None if job.start is None or goes_on else open_start(job.start, job.model)
    config = start.config if start else job.model
    seen, size, border = loss_windows(job, config, say)
    _check_branch_loss(job, config, say)
    _check_metrics(job, config)
    if start and not job.classical:  # whose thresholds are fitted anew
        say("info", start.words())
    items, frozen = load_items(job, seen, say, shared)
    try:
        split_seed = job.seed if job.split_seed is None else job.split_seed
        sides = split(items, job.validation, split_seed, job.test, job.fold, config.classes)
        for message in sides.messages:
            say(message.level, message.text)
        aside = set_aside(job, sides.test, frozen, say)
        sides, pixels = known_only(sides, config.classes, say)
        _check_class_weights(job, pixels)
        if config.trained_on is None and config.normalisation is None:
            known = {"trained_on": trained_on(items, say)}
            config, seen = config.model_copy(update=known), seen.model_copy(update=known)
        step = lcm(*(r.denominator for r in seen.input_ratios))
        sampler = Sampler(sides.train, size, step, job.seed, job.replay, job.sampling)
        steps = job.steps or max(
            _LEAST_STEPS if job.time_limit else 1, sampler.steps(job.batch_size * job.devices * job.nodes)
        )
        # With a fold and no validation, the images of the fold are held out and take no part in the training at all.
        held_out = job.fold is not None and not job.validation
        spots = [] if held_out else validation_spots(sides.validate, size, step, _VALIDATION_WINDOWS)
    except BaseException:
        for item in items:
            item.release()
        raise
    return Prepared(job, config, seen, size, border, sides, pixels, aside, sampler, steps, spots, start)


def _check_branch_loss(job: SettledTrainJob, config: ModelConfig, say: Say) -> None:
    """Refuse weights and ways of training that do not fit the scales, and say where scales have no loss at all."""
    job.loss.branch_weights(len(config.scales))
    mode = job.loss.branch_mode
    if mode == "separate" and config.fusion in JOINED:
        raise ModelError(NOT_SEPARATE.format(config.fusion))
    if mode == "off" and config.fusion in HEADLESS and config.own:
        say(
            "info",
            f"One loss on the combined output, and the fusion {FUSIONS[config.fusion][0].lower()}: the scales' own "
            "outputs do not learn, so their scores mean nothing.",
        )


def _check_metrics(job: SettledTrainJob, config: ModelConfig) -> None:
    """Refuse a number that decides but that this model does not have, such as that of a scale."""
    there = measured(config.outputs)
    for name in ("monitor", "stop_metric", "best_metric"):
        text = getattr(job.optimiser, name)
        if watched_metric(text).output not in there:
            raise ModelError(
                f"The {name.replace('_', ' ')} {text!r} is of an output that this model does not have; give one of "
                f"{', '.join(there)}."
            )


def _check_class_weights(job: SettledTrainJob, pixels: tuple[int, ...]) -> None:
    given = job.loss.class_weights
    if isinstance(given, tuple) and len(given) != len(pixels):
        raise MsunetError(
            f"{len(given)} class weights were given for {len(pixels) - 1} classes; give one for background and one for "
            "each class, or balanced."
        )


# ------------------------------------------------------------------------------------------------- windows of the loss


def loss_windows(job: SettledTrainJob, config: ModelConfig, say: Say) -> tuple[ModelConfig, int, int]:
    """The config whose target grid is that of the loss, and side and border of a training window in its pixels.

    Raises
    ------
    MsunetError
        If the loss cannot be computed on the wanted grid, or the border leaves nothing of a window.
    """
    seen = seen_config(config, job.loss.own_grid, say)
    return seen, *_window_size(job, config, seen, say)


def seen_config(config: ModelConfig, own_grid: bool, say: Say) -> ModelConfig:
    """The config whose target grid is that of the loss: that of the finest branch, where it is coarser and `own_grid`.

    With this config, windows, truth and outputs are on the coarser grid; the weights are the same.
    """
    finest = max(config.ratios)
    if not own_grid or finest == 1:
        return config
    if config.image_size is not None:
        raise MsunetError(
            f"The loss cannot be computed on the finest branch's own grid where images are brought to one size: give "
            f"image_size={round(config.image_size * float(finest))} and a largest scale of 1, or leave own_grid off."
        )
    if finest > 1 or config.joint:
        raise MsunetError(
            "The loss cannot be computed on the finest branch's own grid with these scales and this fusion: that is "
            "for scales of which none is above 1, and branches that are computed one by one; leave own_grid off."
        )
    try:
        scales = [float(r / finest) for r in config.ratios]
        coarser = config.at(config.resolution.times(1 / float(finest)))
        seen = ModelConfig.model_validate(config.model_dump() | coarser | {"scales": scales})
    except (ValidationError, MsunetError) as error:
        raise MsunetError(
            f"The scales {', '.join(str(r) for r in config.ratios)} are no ratios of whole numbers up to 8 of each "
            "other, which own_grid needs; leave it off."
        ) from error
    say("info", f"The loss is computed {seen.resolution.at}, the grid of scale {finest}.")
    return seen


def _window_size(job: SettledTrainJob, config: ModelConfig, seen: ModelConfig, say: Say) -> tuple[int, int]:
    """Side of a window and of its border, in pixels of the grid of the loss."""
    ratio = Fraction(seen.resolution.size / config.resolution.size).limit_denominator(8)
    # Pixels that the padding of valid convolutions reaches carry no loss, and the window is read larger by as many.
    edge = _padding_reach(seen) if any(branch.valid for branch in seen.branches) else 0
    size = round_up(ceil(job.size / ratio) + 2 * edge, window_multiple(seen))
    border = max(ceil(job.border / ratio), edge)
    if 2 * border >= size:
        raise MsunetError(
            f"A border of {job.border} pixels leaves nothing of windows of {round(size * ratio)} pixels; give a "
            "smaller border or a larger size."
        )
    if edge:
        say(
            "info",
            f"Windows have {round(size * ratio)} pixels, of which {round(edge * ratio)} at each edge carry no loss.",
        )
    elif size * ratio != job.size:
        text = f"The window size {job.size} was rounded up to {round(size * ratio)}, which this model needs."
        say("info", text)
    return size, border


@lru_cache(maxsize=16)
def _padding_reach(config: ModelConfig) -> int:
    """How far into a window the padding of valid convolutions reaches; it is measured, which needs torch."""
    from napari_msunet.models import MSUNet

    return MSUNet(config).border


# ----------------------------------------------------------------------------------------------------------------------
# What a careful colleague would say before a training, in plain sentences: what the training itself will say, and
# what it will cost. No Qt, and no torch as far as devices are not asked.

_BASE_BYTES = 700e6  # memory of torch and Lightning without a model
_FEW_PIXELS = 500
_FEW_STEPS = 100


def check(job: TrainJob, runs: Path | None = None, devices: bool = True, rate: float | None = None) -> list[Finding]:
    """Check a training before it starts: its messages, its data and its cost.

    The data are prepared by the same functions as in the training: what a training refuses is an error here, and what
    it warns about is a warning. All sources are read (each image and mask is opened once), so this should run in a
    thread. Neither weights nor windows of the images are read.

    Parameters
    ----------
    job : TrainJob
    runs : Path, optional
        Folder of earlier training runs on this machine, from which the time of a step is known.
    devices : bool
        Whether to check the job's device, which needs torch. The window leaves this to the worker, which may be on
        another machine.
    rate : float, optional
        Seconds for 1e9 multiplications, from a `TimeTrainingJob`, where no earlier run tells.

    Returns
    -------
    list of Finding
    """
    findings: list[Finding] = []

    def say(level: str, text: str) -> None:
        findings.append(Finding("warning" if level == "warning" else "ok", text))

    try:
        if devices and (job.device not in ("auto", "cpu") or job.devices * job.nodes > 1):
            _check_devices(job)
        folder = RunFolder(job)
        settled, _ = settle_training(job, folder, say)
    except MsunetError as error:
        return [*findings, Finding("error", str(error))]
    steps = None
    try:
        prepared = prepare_data(settled, say, settled.resume and folder.checkpoint.exists())
        prepared.release()
        steps = prepared.steps
        findings += _about(prepared)
    except MsunetError as error:
        findings.append(Finding("error", str(error)))
    try:
        findings.append(check_memory(settled))
        known = measured_rate(runs) if runs else None
        findings.append(check_time(settled, steps, rate if known is None else known))
    except MsunetError:
        pass  # the windows are not possible, which is reported above
    return findings


def _check_devices(job: TrainJob) -> None:
    from napari_msunet.inference.network import pick_device
    from napari_msunet.training.distributed import check_devices

    check_devices(job, pick_device(job.device))


def _about(prepared: Prepared) -> list[Finding]:
    """Findings about what the training will do, and how much data it has."""
    findings = [Finding("ok", f"{prepared.words()}."), *check_classes(prepared.config.classes, prepared.pixels)]
    if any(isinstance(source, SlideSource) and source.edited_only for source in prepared.job.sources):
        findings.append(Finding("ok", "Of corrected predictions, only the pixels you changed count as true."))
    return findings


def check_classes(classes: Sequence[str], pixels: Sequence[int]) -> list[Finding]:
    """Findings about classes with few pixels; about classes without any, the training itself warns.

    Parameters
    ----------
    classes : sequence of str
    pixels : sequence of int
        Pixels of background and of classes 1..K on the training side, at the model's resolution.
    """
    named = list(zip(("background", *classes), pixels, strict=True))
    findings = [
        Finding("warning", f"{name} has only about {count:,.0f} annotated pixels: more places would help.")
        for name, count in named
        if 0 < count < _FEW_PIXELS
    ]
    if not findings and all(pixels):
        known = ", ".join(f"{name} {_short(count)}" for name, count in named)
        findings.append(Finding("ok", f"Every class has annotated pixels to learn from: {known}."))
    return findings


def _short(pixels: float) -> str:
    """A number of pixels with two significant digits."""
    for size, name in ((1e6, " M"), (1e3, " k")):
        if pixels >= size:
            return f"{pixels / size:.2g}{name}" if pixels < 100 * size else f"{pixels / size:.0f}{name}"
    return f"{pixels:.0f}"


def windows_of(job: SettledTrainJob) -> tuple[ModelConfig, int]:
    """The config on the grid of the loss, and the side of a training window in its pixels."""
    seen, size, _ = loss_windows(job, job.model, lambda level, text: None)
    return seen, size


def _planes(job: SettledTrainJob) -> list[tuple[Any, float]]:
    """The config of each branch, and the number of pixels of its window."""
    model, size = windows_of(job)
    sides = [size if model.field == "concentric" and s < 1 else size * s for s in model.scales]
    return [(branch, side * side) for branch, side in zip(model.branches, sides, strict=True)]


def step_work(job: SettledTrainJob) -> float:
    """Multiplications of one training step, in 1e9; the backward pass has twice those of the forward pass."""
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
    """An estimate of the bytes that a training needs: the activations of a step, and the weights with their moments."""
    kept = weights = 0.0
    outputs = len(job.model.classes) + 1
    for branch, pixels in _planes(job):
        widths = branch.widths
        for level, width in enumerate(widths):
            # The backward pass needs the input of each convolution and of each normalisation; on the way up also the
            # concatenated features.
            kept += pixels / 4**level * width * (10 if level < branch.depth else 4)
            before = widths[level - 1] if level else job.model.channels
            weights += 9 * (before + width) * width + (31 * width * width if level < branch.depth else 0)
    logits = windows_of(job)[1] ** 2 * outputs * (len(job.model.scales) + 1) * 6
    return _BASE_BYTES + 4 * job.batch_size * (1.3 * kept + logits) + 16 * weights


def check_memory(job: SettledTrainJob, available: float | None = None) -> Finding:
    """Whether the batch fits into this computer's memory."""
    needed = training_memory(job)
    free = float(psutil.virtual_memory().available) if available is None else available
    text = (
        f"A batch of {job.batch_size} windows of {windows_of(job)[1]} pixels needs about {gigabytes(needed)} of memory"
    )
    if job.device.startswith("cuda"):
        return Finding("ok", f"{text} on {job.device}.")
    if needed > free:
        advice = "choose a smaller batch or smaller windows, or close other programs"
        return Finding("warning", f"{text}, but only {gigabytes(free)} are free: {advice}.")
    return Finding("ok", f"{text}; {gigabytes(free)} are free.")


def measured_rate(runs: Path) -> float | None:
    """Seconds for 1e9 multiplications, from the newest finished run in a folder; None where there is none."""
    results = sorted(runs.glob("*/result.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in results:
        try:
            values = read_json(path)
            job = SettledTrainJob.model_validate_json((path.parent / "job.json").read_bytes())
            job = job.model_copy(update={"batch_size": values.get("batch_size", job.batch_size)})
            return float(values["seconds_per_step"]) / step_work(job)
        except (OSError, ValueError, KeyError, TypeError, MsunetError):
            continue  # a damaged run is skipped
    return None


def check_time(job: SettledTrainJob, steps: int | None, rate: float | None) -> Finding:
    """A finding about how long the training will take at most."""
    limit = f"it ends after {duration(job.time_limit)} at the latest" if job.time_limit else ""
    if steps is None or rate is None:
        text = "How long it takes is known after the first steps"
        return Finding("ok", f"{text}; {limit}." if limit else f"{text}.", "time unknown")
    step = rate * step_work(job)
    whole = job.epochs * steps * step
    if job.time_limit and whole > job.time_limit:
        total = job.time_limit / step
        text = f"Takes {duration(job.time_limit)}: about {total:,.0f} steps of {step:.2g} s."
        return Finding("ok" if total >= _FEW_STEPS else "warning", text, "time")
    epochs = f"{job.epochs} epoch{'s' * (job.epochs != 1)} of {steps} steps of about {step:.2g} s"
    return Finding("ok", f"Takes at most {duration(whole)}: {epochs}.", "time")
