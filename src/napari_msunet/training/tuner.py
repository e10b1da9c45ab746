"""Short trials before a training: the largest batch that fits, a good learning rate, the faster precision, and the time
of a step."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import exp, inf, isfinite, log
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import psutil
import torch
from torch import Tensor

from napari_msunet.config import SettledTrainJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import Stop
from napari_msunet.models import MSUNet
from napari_msunet.training.module import DivergedError, Training
from napari_msunet.training.setup import TrainingSetup

LARGEST = 64
"""The largest batch that is tried; a larger one makes steps slower and the result no better."""

_LOWEST, _HIGHEST, _STEPS = 1e-6, 1.0, 60
_SMOOTH = 0.8
_EXPLODED = 4.0
_SHARE = 0.5  # of the free memory, for activations and their gradients
_TRIAL_EPOCH = 2**30  # a number that no real epoch has, so that the trial has windows of its own

Build = Callable[[], MSUNet]


def find_batch_size(session: TrainingSetup, build: Build, stop: Stop) -> int:
    """The largest batch, a power of two up to `LARGEST`, with which a training step fits into the device's memory.

    On a GPU, two steps are tried with each batch. Elsewhere, the memory that a step keeps for one window is measured,
    and a batch is taken to need as many times as much; half of the free memory may be used.

    Parameters
    ----------
    session : TrainingSetup
    build : callable
        Gives the model at the beginning of the training.
    stop : Stop

    Raises
    ------
    MsunetError
        If not even one window fits.
    """
    most = min(LARGEST, session.batches.steps * session.batches.batch)
    if session.device.type != "cuda":
        module = Training(build(), _plain(session.job), session.windows, lambda: 0.0).to(session.device)
        room = psutil.virtual_memory().available * _SHARE / (2 * max(1, activation_bytes(session, module)))
        most = min(most, int(room))
    found = 0
    while max(1, 2 * found) <= most:
        number = max(1, 2 * found)
        if session.device.type == "cuda" and not _fits(session, build, stop, number):
            break
        found = number
    if not found:
        raise MsunetError(
            f"{session.device} has too little memory for one window of {session.windows.size} pixels; give a smaller "
            "size, or narrower branches."
        )
    return found


def _fits(session: TrainingSetup, build: Build, stop: Stop, number: int) -> bool:
    """Whether steps with this number of windows fit into the memory."""
    try:
        _try(session, build, _plain(session.job), 2, _Trial(stop), number)
    except torch.OutOfMemoryError:
        return False
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    return True


_FASTER = 1.1
"""How many times as fast mixed precision must be to be taken: less is within the noise of a few steps."""


def find_precision(session: TrainingSetup, build: Build, stop: Stop) -> tuple[Literal["32", "bf16"], float]:
    """The faster precision on this processor, and how many times as fast bf16 computes a training step as float32.

    Parameters
    ----------
    session : TrainingSetup
    build : callable
        Gives the model at the beginning of the training.
    stop : Stop
    """
    module = Training(build(), _plain(session.job), session.windows, lambda: 0.0).to(session.device)
    (batch,) = _batches(session, session.batches.batch, 1)
    seconds = dict.fromkeys(("32", "bf16"), inf)
    for _ in range(3):  # by turns, and the shortest of each counts, since other work slows single steps down
        for name in seconds:
            stop.check()
            began = time.perf_counter()
            with torch.autocast(session.device.type, torch.bfloat16, enabled=name == "bf16"):
                loss = module.loss_of(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    times = seconds["32"] / seconds["bf16"]
    return ("bf16" if times >= _FASTER else "32"), times


def activation_bytes(session: TrainingSetup, module: Training) -> int:
    """The bytes that a step with one window keeps for its gradients."""
    (batch,) = _batches(session, 1, 1)
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = module.loss_of(batch)
    kept = sum(seen.values())
    del loss
    return kept


# Not Lightning's `Tuner.lr_find`: it writes a checkpoint of the model into the working folder and reads it back, and
# takes the learning rate from the module's hyperparameters, while ours is a field of the job.
def find_learning_rate(session: TrainingSetup, build: Build, stop: Stop) -> float:
    """The learning rate at which the smoothed loss falls fastest, in a trial in which the rate rises from step to step.

    References
    ----------
    Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3.
    """
    trial = _Trial(stop, [_LOWEST * (_HIGHEST / _LOWEST) ** (i / (_STEPS - 1)) for i in range(_STEPS)])
    with suppress(DivergedError):  # the loss has exploded, which ends the range of useful rates
        _try(session, build, _plain(session.job), _STEPS, trial, session.batches.batch)
    return steepest(trial.rates[: len(trial.losses)], trial.losses, session.job.optimiser.learning_rate)


def steepest(rates: Sequence[float], losses: Sequence[float], otherwise: float) -> float:
    """The rate at which the smoothed losses fall most per factor of the rate; `otherwise` if they never fall."""
    smoothed, mean = [], 0.0
    for number, loss in enumerate(losses, start=1):
        mean = _SMOOTH * mean + (1 - _SMOOTH) * loss
        smoothed.append(mean / (1 - _SMOOTH**number))
    if len(smoothed) < 3:
        return otherwise
    lowest = int(np.argmin(smoothed))
    slopes = np.gradient(smoothed, np.log(rates))[: lowest + 1]
    best = int(np.argmin(slopes))
    return float(f"{exp(log(rates[best])):.2g}") if slopes[best] < 0 else otherwise


def step_seconds(session: TrainingSetup, build: Build, stop: Stop, steps: int) -> float:
    """The median time of a training step, with the wait for its batch, over some steps after a first one.

    Parameters
    ----------
    session : TrainingSetup
    build : callable
        Gives the model at the beginning of the training.
    stop : Stop
    steps : int
    """
    trial = _Trial(stop)
    _try(session, build, session.job, steps + 1, trial, session.batches.batch)
    return float(np.median(np.diff(trial.ends))) if len(trial.ends) > 1 else inf


class _Trial(pl.Callback):
    """Sets the given learning rate of each step, if any are given, and records the losses until they explode, and when
    each step has ended."""

    def __init__(self, stop: Stop, rates: Sequence[float] = ()) -> None:
        self.stop = stop
        self.rates = list(rates)
        self.losses: list[float] = []
        self.ends: list[float] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.stop.check()
        if self.rates:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = self.rates[min(len(self.losses), len(self.rates) - 1)]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(outputs["loss"])
        self.ends.append(time.perf_counter())
        if isfinite(loss):
            self.losses.append(loss)
        if self.losses and not loss <= _EXPLODED * max(0.1, min(self.losses)):
            trainer.should_stop = True


def _plain(job: SettledTrainJob) -> SettledTrainJob:
    """The job with a constant learning rate, and without averages."""
    still = {"schedule": "constant", "warmup": 0, "average": "none", "recalibrate": False}
    return job.model_copy(update={"optimiser": job.optimiser.model_copy(update=still)})


def _batches(session: TrainingSetup, number: int, steps: int) -> Any:
    """Batches of this number of windows, from an epoch of their own."""
    batches = session.batches.like(number, steps)
    batches.epoch = _TRIAL_EPOCH
    return batches


def _try(session: TrainingSetup, build: Build, job: SettledTrainJob, steps: int, trial: _Trial, number: int) -> None:
    """Train a separate model for a few steps."""
    from napari_msunet.training.callbacks import device_arguments

    module = Training(build(), job, session.windows, lambda: 0.0)
    batches = _batches(session, number, steps)
    trainer = pl.Trainer(
        **device_arguments(session.device),
        max_epochs=1,
        min_epochs=0,
        callbacks=[trial],
        gradient_clip_val=job.optimiser.clip,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, batches)
    finally:
        batches.close()
