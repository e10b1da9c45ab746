"""Everything that a training needs before its first step: images, windows, normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil, lcm
from typing import Any

import numpy.typing as npt
import torch
from pydantic import ValidationError

from napari_msunet.config import ModelConfig, Normalisation, SettledTrainJob, TrainJob, check_class_names
from napari_msunet.data import Split, split
from napari_msunet.data.crops import Crops
from napari_msunet.data.loader import Batch, TrainBatches, ValidationBatches, collate
from napari_msunet.data.normalising import fit_normalisation
from napari_msunet.data.ranges import trained_on
from napari_msunet.data.recipe import settle
from napari_msunet.data.sampling import Sampler, validation_spots
from napari_msunet.errors import MsunetError, SourceError
from napari_msunet.events import Event, Message
from napari_msunet.geometry import round_up
from napari_msunet.infer.network import pick_device
from napari_msunet.models import MSUNet, input_windows, load_model
from napari_msunet.models.losses import balanced_weights
from napari_msunet.models.start import Start, open_start
from napari_msunet.models.windows import window_multiple
from napari_msunet.stopping import check as check_stop
from napari_msunet.train.classes import Say, known_only
from napari_msunet.train.frozen import Aside, load_items, set_aside
from napari_msunet.train.ranks import check_devices
from napari_msunet.train.record import RunFolder
from napari_msunet.train.views import Windows, window_views

_VALIDATION_WINDOWS = 64
_NORMALISATION_WINDOWS = 48
_CALIBRATION_WINDOWS = 64
_LEAST_STEPS = 20
"""Of an epoch where the time decides when training ends: what is done once an epoch would cost too much else."""


@dataclass
class Session:
    """Everything ready to train.

    Attributes
    ----------
    job : SettledTrainJob
    reasons : tuple of str
        Why what was open in the job is what it is now.
    config : ModelConfig
        Of the model.
    windows : Windows
        What is seen of the images.
    accumulate : int
        Batches for one step of the optimiser.
    """

    job: SettledTrainJob
    reasons: tuple[str, ...]
    config: ModelConfig
    device: torch.device
    windows: Windows
    batches: TrainBatches
    validation: ValidationBatches | None
    sides: Split
    messages: list[Event]
    start: Start | None
    aside: Aside
    calibration: Calibration
    accumulate: int = 1

    def close(self) -> None:
        """End reading and close all images."""
        self.batches.close()
        if self.validation:
            self.validation.close()
        for item in (*self.sides.train, *self.sides.validate, *self.sides.test):
            item.release()

    def set_batch(self, batch: int) -> None:
        """Take other batches from now on; an epoch stays about as long."""
        self.batches.close()
        if self.job.steps is None:
            self.batches.steps = self.batches.sampler.steps(batch * self.batches.world)
        self.regroup(batch)

    def halve(self) -> None:
        """Take half as many windows at a time, and add up two gradients where one was: the same windows in an epoch."""
        self.batches.close()
        self.batches.steps *= 2
        self.accumulate *= 1 if self.job.optimiser.kind == "lbfgs" else 2
        self.regroup(self.batches.batch // 2)

    def regroup(self, batch: int) -> None:
        """Take so many windows at a time, of training and of validation."""
        self.batches.batch = batch
        if self.validation:
            before = self.validation
            before.close()
            self.validation = ValidationBatches(
                before.crops, before.spots, batch, before.rank, before.world, before.together
            )


def prepare(given: TrainJob, folder: RunFolder, rank: int = 0) -> Session:
    """Choose what the job leaves open, load and split the sources, and fit the model's normalisation.

    `rank` is that of this process among several that train together.

    Raises
    ------
    SourceError, MissingMppError, SlideError, ModelError
        If something given cannot be used.
    """
    if not given.resume and given.start is None:  # what was begun before the names were checked may go on
        try:
            check_class_names(given.model.classes)
        except ValueError as error:
            raise SourceError(f"The model's classes cannot be used: {error}.") from None
    messages: list[Event] = []

    def say(level: str, text: str) -> None:
        messages.append(_message(level, text))

    device = pick_device(given.device)
    check_devices(given, device)
    resumed = folder.begun_job(given)
    job, reasons = (resumed, ()) if resumed else settle(given)
    for reason in reasons:
        say("info", reason)
    goes_on = job.resume and folder.checkpoint.exists()
    start = None if job.start is None or goes_on else open_start(job.start, job.model)
    config = start.config if start else job.model
    seen = seen_config(config, job.loss.own_grid, say)
    size, border = _window_size(job, config, seen, say)
    if job.optimiser.precision == "16" and device.type == "cpu":
        say("info", "A processor has no fast 16-bit floats but bfloat16: training with precision bf16.")
    if start:
        say("info", start.words())
    items, frozen = load_items(job, seen, say)
    split_seed = job.seed if job.split_seed is None else job.split_seed
    sides = split(items, job.validation, split_seed, job.test, job.fold)
    messages += sides.messages
    aside = set_aside(job, sides.test, frozen, say)
    sides, pixels = known_only(sides, config.classes, say)
    step = lcm(*(r.denominator for r in seen.input_ratios))
    if config.trained_on is None and config.normalisation is None:
        config, seen = (c.model_copy(update={"trained_on": trained_on(items, say)}) for c in (config, seen))
    crops = Crops(seen.input_ratios, partial(input_windows, seen))
    sampler = Sampler(sides.train, size, step, job.seed, job.replay, job.sampling)
    normalisation = _normalisation(job, config, crops, sampler, folder if job.resume else None)
    config, seen = (c.model_copy(update={"normalisation": normalisation}) for c in (config, seen))
    pads, truth_pad = window_views(seen, size).pads(job.augmentation)
    world = job.devices * job.nodes
    steps = job.steps or max(_LEAST_STEPS if job.time_limit else 1, sampler.steps(job.batch_size * world))
    batches = TrainBatches(crops, sampler, job.batch_size, steps, pads, truth_pad)
    batches.rank, batches.world = rank, world
    batches.together = any(branch.by_slide for branch in config.branches)
    # With a fold and no validation, the fold's images are held out and take no part in the training at all.
    held_out = job.fold is not None and not job.validation
    spots = [] if held_out else validation_spots(sides.validate, size, step, _VALIDATION_WINDOWS)
    validation = ValidationBatches(crops, spots, job.batch_size, rank, world, batches.together) if spots else None
    messages.append(Message(text=_described(sides, batches, validation, device)))
    hard = sampler.hard if job.sampling.hard else None
    calibration = Calibration(batches)
    windows = Windows(seen, size, border, _class_weights(job, pixels), calibration, hard)
    return Session(
        *(job, reasons, config, device, windows, batches, validation, sides, messages, start, aside, calibration),
        accumulate=job.optimiser.accumulate,
    )


def seen_config(config: ModelConfig, own_grid: bool, say: Say) -> ModelConfig:
    """The config whose target grid is that of the loss: of the finest branch where that is coarser and wanted.

    With it, windows, truth and outputs are those of the coarser grid; the weights are the same.
    """
    finest = max(config.ratios)
    if not own_grid or finest == 1:
        return config
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
    # What the padding of valid convolutions reaches carries no loss, and as much is read more.
    edge = MSUNet(seen).border if any(branch.valid for branch in seen.branches) else 0
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


def _class_weights(job: SettledTrainJob, pixels: tuple[int, ...]) -> tuple[float, ...] | None:
    """The weights of background and classes, if they are not all the same."""
    given = job.loss.class_weights
    if given == "balanced":
        return balanced_weights(pixels)
    if given is not None and len(given) != len(pixels):
        raise MsunetError(
            f"{len(given)} class weights were given for {len(pixels) - 1} classes; give one for background and one for "
            "each class, or balanced."
        )
    return given


class Calibration:
    """Batches of unchanged training windows, the same each time, read when first asked for.

    Parameters
    ----------
    batches : TrainBatches
        Whose windows and batch size they have.
    """

    def __init__(self, batches: TrainBatches) -> None:
        self._batches = batches
        self._read: list[Batch] | None = None

    def __len__(self) -> int:
        return -(-self._windows // self._batches.batch)

    @property
    def _windows(self) -> int:
        return min(_CALIBRATION_WINDOWS, len(self._batches) * self._batches.batch)

    def __call__(self) -> list[Batch]:
        if self._read is None:
            crops, sampler, size = self._batches.crops, self._batches.sampler, self._batches.batch
            spots = list(sampler.epoch(2**31 + 1, self._windows))
            groups = [spots[i : i + size] for i in range(0, len(spots), size)]
            self._read = [collate([crops.read(s.item, s.window) for s in group], 0) for group in groups]
        return self._read


def _message(level: str, text: str) -> Message:
    return Message(level="warning" if level == "warning" else "info", text=text)


def _described(sides: Split, batches: TrainBatches, validation: ValidationBatches | None, device: torch.device) -> str:
    """What is about to happen, as a sentence."""
    windows = len(validation.spots) if validation else 0
    return (
        f"Training on {len(sides.train)} images in {batches.steps} steps of {batches.batch} windows an epoch, "
        f"validating on {windows} windows of {len(sides.validate)} images, on {device}."
    )


def _normalisation(
    job: SettledTrainJob, config: ModelConfig, crops: Crops, sampler: Sampler, resumed: RunFolder | None
) -> Normalisation | tuple[Normalisation, ...] | None:
    """What the first layer does, fitted to the training images, unless the config has its own."""
    if config.normalisation is not None:
        return config.normalisation
    if resumed is not None and resumed.model.exists():
        return load_model(resumed.model).config.normalisation

    def windows() -> Iterator[npt.NDArray[Any]]:
        for spot in sampler.epoch(2**31, _NORMALISATION_WINDOWS):
            check_stop()
            yield crops.read(spot.item, spot.window).inputs[0]

    return fit_normalisation(windows(), job.normalise)
