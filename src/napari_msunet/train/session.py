"""Everything that a training needs before its first step: images, windows, normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import lcm

import numpy as np
import torch

from napari_msunet.config import ModelConfig, Normalisation, TrainJob
from napari_msunet.data import Split, split
from napari_msunet.data.crops import Crops
from napari_msunet.data.loader import TrainBatches, ValidationBatches, as_tensor, as_unit
from napari_msunet.data.sampling import Sampler, validation_spots
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event, Message
from napari_msunet.geometry import round_up
from napari_msunet.infer.network import pick_device
from napari_msunet.models import input_windows, load_model
from napari_msunet.models.start import Start, open_start
from napari_msunet.models.windows import concentric_multiple
from napari_msunet.stopping import check as check_stop
from napari_msunet.train.frozen import Aside, load_items, set_aside
from napari_msunet.train.record import RunFolder
from napari_msunet.train.views import window_views

_VALIDATION_WINDOWS = 64
_NORMALISATION_WINDOWS = 48


@dataclass
class Session:
    """Everything ready to train."""

    job: TrainJob
    config: ModelConfig
    device: torch.device
    size: int
    batches: TrainBatches
    validation: ValidationBatches | None
    sides: Split
    messages: list[Event]
    start: Start | None
    aside: Aside

    def close(self) -> None:
        """End reading and close all images."""
        self.batches.close()
        if self.validation:
            self.validation.close()
        for item in (*self.sides.train, *self.sides.validate, *self.sides.test):
            item.release()


def prepare(job: TrainJob, folder: RunFolder) -> Session:
    """Load and split the sources, and fit the model's normalisation.

    Raises
    ------
    SourceError, MissingMppError, SlideError, ModelError
        If something given cannot be used.
    """
    goes_on = job.resume and folder.checkpoint.exists()
    start = None if job.start is None or goes_on else open_start(job.start, job.model)
    config = start.config if start else job.model
    device = pick_device(job.device)
    size = round_up(job.size, window_multiple(config))
    if 2 * job.border >= size:
        raise MsunetError(
            f"A border of {job.border} pixels leaves nothing of windows of {size} pixels; give a smaller border or a "
            "larger size."
        )
    messages: list[Event] = []
    if size != job.size:
        messages.append(Message(text=f"The window size {job.size} was rounded up to {size}, which this model needs."))
    if start:
        messages.append(Message(text=start.words()))

    def say(level: str, text: str) -> None:
        messages.append(_message(level, text))

    items, frozen = load_items(job, config, say)
    sides = split(items, job.validation, job.seed)
    messages += sides.messages
    aside = set_aside(job, sides.test, frozen, say)
    step = lcm(*(r.denominator for r in config.ratios))
    windows = partial(input_windows, config)
    crops = Crops(config.ratios, windows)
    sampler = Sampler(sides.train, size, step, job.seed, job.replay)
    config = _normalised(config, crops, sampler, folder if job.resume else None)
    pads, truth_pad = window_views(config, size).pads(job.augmentation)
    batches = TrainBatches(
        crops,
        sampler,
        job.batch_size,
        job.steps or sampler.steps(job.batch_size),
        pads,
        truth_pad,
    )
    spots = validation_spots(sides.validate, size, step, _VALIDATION_WINDOWS)
    validation = ValidationBatches(crops, spots, job.batch_size) if spots else None
    messages.append(Message(text=_described(sides, batches, validation, device)))
    return Session(job, config, device, size, batches, validation, sides, messages, start, aside)


def window_multiple(config: ModelConfig) -> int:
    """Training windows are multiples of it: no padding, and with `field="concentric"` centred exactly."""
    if config.field == "concentric":
        return lcm(config.size_multiple, concentric_multiple(config.ratios))
    return config.size_multiple


def _message(level: str, text: str) -> Message:
    return Message(level="warning" if level == "warning" else "info", text=text)


def _described(sides: Split, batches: TrainBatches, validation: ValidationBatches | None, device: torch.device) -> str:
    """What is about to happen, as a sentence."""
    windows = sum(len(b) for b in validation.batches) if validation else 0
    return (
        f"Training on {len(sides.train)} images in {batches.steps} steps of {batches.batch} windows an epoch, "
        f"validating on {windows} windows of {len(sides.validate)} images, on {device}."
    )


def _normalised(config: ModelConfig, crops: Crops, sampler: Sampler, resumed: RunFolder | None) -> ModelConfig:
    """The config with mean and standard deviation of the training images' channels, unless it has its own."""
    if config.normalisation is not None:
        return config
    if resumed is not None and resumed.model.exists():
        return config.model_copy(update={"normalisation": load_model(resumed.model).config.normalisation})
    count = total = square = 0.0
    for spot in sampler.epoch(2**31, _NORMALISATION_WINDOWS):
        check_stop()
        pixels = crops.read(spot.item, spot.window).inputs[0]
        values = as_unit(as_tensor(pixels)).double().numpy()
        count = count + values[0].size
        total = total + values.sum((1, 2))
        square = square + (values**2).sum((1, 2))
    mean = np.asarray(total) / count
    std = np.sqrt(np.maximum(np.asarray(square) / count - mean**2, 1e-6))
    fitted = Normalisation(mean=tuple(round(float(m), 6) for m in mean), std=tuple(round(float(s), 6) for s in std))
    return config.model_copy(update={"normalisation": fitted})
