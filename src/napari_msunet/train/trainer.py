"""Train a model: from a job to a folder with the best model, its numbers and its curves."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import lcm
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_msunet.config import ModelConfig, Normalisation, TrainJob
from napari_msunet.data import Item, Split, split
from napari_msunet.data.crops import Crops
from napari_msunet.data.loader import TrainBatches, ValidationBatches, as_tensor, as_unit
from napari_msunet.data.sampling import Sampler, validation_spots
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event, Message, Result
from napari_msunet.geometry import round_up
from napari_msunet.infer.network import pick_device
from napari_msunet.models import MSUNet, build_model, input_windows, load_model
from napari_msunet.models.start import Start, open_start, take_weights
from napari_msunet.models.windows import concentric_multiple
from napari_msunet.stopping import Cancelled, Stop, current
from napari_msunet.stopping import check as check_stop
from napari_msunet.train.background import Say, in_background
from napari_msunet.train.frozen import Aside, load_items, save_frozen, set_aside
from napari_msunet.train.guard import guarded
from napari_msunet.train.record import RunFolder
from napari_msunet.train.views import window_views

if TYPE_CHECKING:
    from napari_msunet.train.watch import Watch

_VALIDATION_WINDOWS = 64
_NORMALISATION_WINDOWS = 48


def train_events(job: TrainJob) -> Iterator[Event]:
    """Train a model.

    Closing the iterator stops within a batch and keeps the best model so far; `stopping.Stop` stops it from another
    thread, and can keep the last weights or nothing instead.

    Parameters
    ----------
    job : TrainJob

    Yields
    ------
    Event
        `Message`, `Progress` (steps), `Metric` (each epoch), and at the end a `Result` with ``best_epoch``,
        ``validation`` and ``train`` (loss and IoU of each output at that epoch), ``seconds_per_step``, ``epochs``,
        ``stopped`` (why), ``parameters``, ``peak_memory_mb``, ``fingerprint``, ``split`` (names on each side).

    Raises
    ------
    SourceError, MissingMppError, SlideError
        If images and masks cannot be used.
    OutputError
        If `job.out` cannot be used.
    MsunetError
        If the loss stops being a number, or the device has too little memory.
    """
    started = time.monotonic()
    folder = RunFolder(job)
    done = folder.result
    if job.resume and done is not None and _finished(done, job):
        yield Message(text=f"The run in {job.out} is finished after {done['epochs']} epochs ({done['stopped']}).")
        yield Result(values=done, files=folder.files)
        return
    stop, under_way = current(), False
    session = prepare(job, folder)
    try:
        yield from session.messages
        folder.begin(job)
        if session.aside.frozen:
            save_frozen(session.aside.frozen, folder.path)
        under_way = True
        yield from in_background(partial(_fit, session, folder, started))
        under_way = False
    finally:
        session.close()
        if under_way and stop.asked and stop.keep == "none":
            folder.discard(job)


def _finished(done: dict[str, Any], job: TrainJob) -> bool:
    """Whether a result is all that the job asks for."""
    return done.get("stopped") == "no better" or int(done.get("epochs", 0)) >= job.epochs


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


# ------------------------------------------------------------------------------------------------------------ the loop


def _fit(session: Session, folder: RunFolder, started: float, say: Say, stop: Stop) -> None:
    """Run Lightning's loop to its end; in a thread of its own."""
    with _quiet():
        import lightning.pytorch as pl

        from napari_msunet.train.module import Training
        from napari_msunet.train.watch import Watch, device_arguments

        job = session.job
        stop.check()
        watch = Watch(job, folder, say, stop, started)
        with torch.random.fork_rng():
            torch.manual_seed(job.seed)
            model = build_model(session.config)
            if session.start:
                take_weights(model, session.start)
            module = Training(model, job, session.size, watch.fraction)
            trainer = pl.Trainer(
                **device_arguments(session.device),
                max_epochs=job.epochs,
                callbacks=[watch],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                default_root_dir=folder.path,
            )
            checkpoint = folder.checkpoint if job.resume and folder.checkpoint.exists() else None
            if checkpoint:
                session.batches.epoch = _epochs_done(folder)
                say(Message(text=f"Going on after epoch {session.batches.epoch}."))
            watch.summary = _summary(session)
            try:
                trainer.fit(module, session.batches, session.validation, ckpt_path=checkpoint, weights_only=True)
            except torch.OutOfMemoryError as error:
                raise MsunetError(
                    f"{session.device} has too little memory for {job.batch_size} windows of {session.size} pixels; "
                    "give a smaller batch_size or size, or device='cpu'."
                ) from error
            except Cancelled:
                if stop.keep == "last" and watch.standing.steps:
                    watch.keep_last(model)
                raise
            finally:
                if folder.rows and stop.keep != "none":
                    watch.draw()
        values = _result(session, watch, folder) | guarded(session.aside, folder.model, session.device, say, stop)
        folder.finish(values)
        say(Result(values=values, files=folder.files))


def _epochs_done(folder: RunFolder) -> int:
    """How many epochs a checkpoint has behind it."""
    state = torch.load(folder.checkpoint, map_location="cpu", weights_only=True)
    return int(state["epoch"]) + 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's banners and hints about workers from users; its settings are put back."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        import lightning.pytorch

        del lightning
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _summary(session: Session) -> dict[str, Any]:
    """What a model file says about its training."""
    return {
        "images": len(session.sides.train),
        "size": session.size,
        "batch_size": session.job.batch_size,
        "seed": session.job.seed,
        "split": {"train": _names(session.sides.train), "validate": _names(session.sides.validate)},
    }


def _names(items: list[Item]) -> list[str]:
    return [i.name for i in items]


def _result(session: Session, watch: Watch, folder: RunFolder) -> dict[str, Any]:
    """The numbers of a finished run."""
    standing = watch.standing
    model: MSUNet = load_model(folder.model)
    return {
        "best_epoch": standing.best_epoch,
        "validation": watch.summary.get("validation", {}),
        "train": watch.summary.get("train", {}),
        "epochs": standing.epochs,
        "steps": standing.steps,
        "stopped": standing.reason,
        "seconds": round(watch.elapsed, 2),
        "seconds_per_step": round(standing.step_seconds / max(1, standing.steps), 5),
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_memory_mb": round(peak_memory_mb(session.device), 1),
        "device": str(session.device),
        "fingerprint": model.fingerprint,
        "size": session.size,
        "split": {
            "train": _names(session.sides.train),
            "validate": _names(session.sides.validate),
            "test": _names(session.sides.test),
        },
    }


def peak_memory_mb(device: torch.device) -> float:
    """The most memory used so far: the device's for CUDA, else this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
