"""Everything that a training needs before its first step: images, windows, normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy.typing as npt
import torch

from napari_msunet.config import ModelConfig, Normalisation, OwnStatistics, SettledTrainJob, TrainJob
from napari_msunet.data import Split
from napari_msunet.data.loader import Batch, Crops, TrainBatches, ValidationBatches, collate
from napari_msunet.data.normalising import fit_normalisation
from napari_msunet.data.sampling import Sampler
from napari_msunet.data.sharing import SharedImages
from napari_msunet.errors import ModelError
from napari_msunet.events import Event, Message
from napari_msunet.events import check as check_stop
from napari_msunet.inference.network import pick_device
from napari_msunet.models import input_windows, load_model
from napari_msunet.models.losses import balanced_weights
from napari_msunet.models.start_weights import Start
from napari_msunet.training.distributed import check_devices
from napari_msunet.training.held_out import HeldOut
from napari_msunet.training.module import Windows, window_views
from napari_msunet.training.prepare import Prepared, prepare_data, settle_training
from napari_msunet.training.record import RunFolder

_NORMALISATION_WINDOWS = 48
_CALIBRATION_WINDOWS = 64


@dataclass
class TrainingSetup:
    """Everything that is ready for a training.

    Attributes
    ----------
    job : SettledTrainJob
    reasons : tuple of str
        The reasons for the choices that the job left open.
    config : ModelConfig
        The config of the model.
    windows : Windows
        The windows of the training.
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
    aside: HeldOut
    calibration: UnchangedBatches
    accumulate: int = 1

    def close(self) -> None:
        """Stop reading and close all images."""
        self.batches.close()
        if self.validation:
            self.validation.close()
        for item in (*self.sides.train, *self.sides.validate, *self.sides.test):
            item.release()

    def set_batch(self, batch: int) -> None:
        """Change the batch size; an epoch keeps about the same number of windows."""
        self.batches.close()
        if self.job.steps is None:
            self.batches.steps = self.batches.sampler.steps(batch * self.batches.world)
        self.regroup(batch)

    def halve(self) -> None:
        """Halve the batch size and double the accumulated gradients, so that an epoch has the same windows."""
        self.batches.close()
        self.batches.steps *= 2
        self.accumulate *= 1 if self.job.optimiser.kind == "lbfgs" else 2
        self.regroup(self.batches.batch // 2)

    def regroup(self, batch: int) -> None:
        """Set the number of windows in a batch, for training and validation."""
        self.batches.batch = batch
        if self.validation:
            before = self.validation
            before.close()
            self.validation = ValidationBatches(
                before.crops, before.spots, batch, before.rank, before.world, before.together
            )


def prepare(given: TrainJob, folder: RunFolder, rank: int = 0, shared: SharedImages | None = None) -> TrainingSetup:
    """Choose what the job leaves open, load and split the sources, and fit the model's normalisation.

    `rank` is that of this process among several that train together; `shared` has the images of earlier trainings of
    the same work.

    Raises
    ------
    SourceError, MissingMppError, SlideError, ModelError
        If something given cannot be used.
    """
    messages: list[Event] = []

    def say(level: str, text: str) -> None:
        messages.append(Message(level="warning" if level == "warning" else "info", text=text))

    device = pick_device(given.device)
    check_devices(given, device)
    job, reasons = settle_training(given, folder, say)
    if job.optimiser.precision == "16" and device.type == "cpu":
        say("info", "A processor has no fast 16-bit floats but bfloat16: training with precision bf16.")
    prepared = prepare_data(job, say, job.resume and folder.checkpoint.exists(), shared)
    try:
        if prepared.start:
            prepared.start.check()
        crops = _crops(prepared, shared)
        session = _session(prepared, reasons, folder, crops, (device, rank), messages)
    except BaseException:
        prepared.release()
        raise
    say("info", f"{prepared.words()}, on {device}.")
    return session


def _crops(prepared: Prepared, shared: SharedImages | None) -> Crops:
    """The reader of windows.

    Trainings that share images are compared in equal time, so none of them reads files in its own time.
    """
    seen, own = prepared.seen, own_statistics(prepared.job, prepared.config)
    cache = shared.cache if shared else None
    crops = Crops(seen.input_ratios, partial(input_windows, seen), mirror=seen.mirrored, own=own, cache=cache)
    if shared:
        crops.read_all(prepared.sides.train)
    return crops


def _session(
    prepared: Prepared,
    reasons: tuple[str, ...],
    folder: RunFolder,
    crops: Crops,
    place: tuple[torch.device, int],
    messages: list[Event],
) -> TrainingSetup:
    """The setup with the readers of windows, and the model's normalisation; `place` is its device and rank."""
    job, config, seen, sampler = prepared.job, prepared.config, prepared.seen, prepared.sampler
    own, (device, rank) = crops.own, place
    normalisation = _normalisation(job, config, crops, sampler, folder if job.resume else None)
    config, seen = (
        c.model_copy(update={"normalisation": normalisation, "own_statistics": own}) for c in (config, seen)
    )
    pads, truth_pad = window_views(seen, prepared.size).pads(job.augmentation)
    world = job.devices * job.nodes
    batches = TrainBatches(crops, sampler, job.batch_size, prepared.steps, pads, truth_pad)
    batches.rank, batches.world = rank, world
    batches.together = any(branch.by_slide for branch in config.branches)
    spots = prepared.spots
    validation = ValidationBatches(crops, spots, job.batch_size, rank, world, batches.together) if spots else None
    hard = sampler.hard if job.sampling.hard else None
    calibration = UnchangedBatches(batches)
    weights = _class_weights(job, prepared.pixels)
    windows = Windows(seen, prepared.size, prepared.border, weights, calibration, hard)
    return TrainingSetup(
        *(job, reasons, config, device, windows, batches, validation, prepared.sides, messages, prepared.start),
        *(prepared.aside, calibration),
        accumulate=job.optimiser.accumulate,
    )


def _class_weights(job: SettledTrainJob, pixels: tuple[int, ...]) -> tuple[float, ...] | None:
    """The weights of background and classes; None if all are the same."""
    given = job.loss.class_weights
    if given == "balanced":
        return balanced_weights(pixels)
    return given


class UnchangedBatches:
    """Batches of unchanged training windows, the same at each call, read at the first one.

    Parameters
    ----------
    batches : TrainBatches
        The batches whose windows and batch size are used.
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


def own_statistics(job: SettledTrainJob, config: ModelConfig) -> OwnStatistics | None:
    """How each image is normalised by its own statistics; None: by constants of the training.

    Raises
    ------
    ModelError
        If a known encoder has constants of its own.
    """
    if config.normalisation is not None or not job.normalise.startswith("image-"):
        return config.own_statistics
    if any(branch.kind == "encoder" for branch in config.branches):
        raise ModelError(
            f"normalise={job.normalise!r} takes an image's own statistics, but known encoders normalise by the "
            "constants they were trained with: leave normalise out."
        )
    by: Literal["z-score", "min-max"] = "z-score" if job.normalise == "image-z-score" else "min-max"
    return OwnStatistics(by=by, within=job.statistics_of)


def _normalisation(
    job: SettledTrainJob, config: ModelConfig, crops: Crops, sampler: Sampler, resumed: RunFolder | None
) -> Normalisation | tuple[Normalisation, ...] | None:
    """The normalisation of the first layer, fitted to the training images unless the config has one."""
    if config.normalisation is not None or config.classical:  # which looks at the values as they are
        return config.normalisation
    if crops.own is not None:  # windows come normalised by their image
        return Normalisation(mean=(0.0,) * config.channels, std=(1.0,) * config.channels)
    if resumed is not None and resumed.model.exists():
        return load_model(resumed.model).config.normalisation

    def windows() -> Iterator[npt.NDArray[Any]]:
        for spot in sampler.epoch(2**31, _NORMALISATION_WINDOWS):
            check_stop()
            yield crops.read(spot.item, spot.window).inputs[0]

    return fit_normalisation(windows(), job.normalise)
