"""What looks on while Lightning trains: events, the clock, early stopping, and what is kept on disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import lightning.pytorch as pl
import torch

from napari_msunet.config import TrainJob
from napari_msunet.events import Message, Metric, Progress
from napari_msunet.models import MSUNet, save_model
from napari_msunet.stopping import Stop
from napari_msunet.train.background import Say
from napari_msunet.train.curves import draw_curves
from napari_msunet.train.module import Training
from napari_msunet.train.record import RunFolder, column, writing
from napari_msunet.train.tracking import Tracker

_PROGRESS_SECONDS = 0.5
_CURVES_SECONDS = 20.0
_BETTER = 1e-4


@dataclass
class Standing:
    """How a run stands after an epoch; plain values, kept in the checkpoint.

    Attributes
    ----------
    best_iou, best_loss : float
        Of the fused output on the validation images, at the best epoch.
    best_epoch : int
        0 before the first.
    epochs, steps : int
        How many are done.
    step_seconds : float
        Time in all steps together.
    stop_best, stop_epoch : float, int
        The best of what early stopping looks at, the higher the better, and its epoch.
    reason : str
        Why training ended: "epochs", "no better", "time limit"; empty while it runs.
    """

    best_iou: float = -1.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    epochs: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    stop_best: float | None = None
    stop_epoch: int = 0
    reason: str = ""


class Watch(pl.Callback):
    """Looks on.

    Parameters
    ----------
    job : TrainJob
    folder : RunFolder
    say : callable
        Takes each event.
    stop : Stop
    started : float
        `time.monotonic` when the job began, from which the time limit counts.
    """

    def __init__(self, job: TrainJob, folder: RunFolder, say: Say, stop: Stop, started: float) -> None:
        self.job = job
        self.folder = folder
        self.say = say
        self.stop = stop
        self.started = started
        self.standing = Standing()
        self.summary: dict[str, Any] = {}
        self.trackers: Sequence[Tracker] = ()
        self._epoch_began = self._step_ended = 0.0
        self._validation_seconds = 0.0
        self._last_progress = self._last_curves = 0.0
        self._warm_steps, self._warm_seconds = 0, 0.0
        self._steps_done, self._steps_total = 0, 1

    # ------------------------------------------------------------------------------------------------------ the clock

    @property
    def elapsed(self) -> float:
        """Seconds since the job began."""
        return time.monotonic() - self.started

    def fraction(self) -> float:
        """How much of the training is over, by steps or by time, whichever is further; 0 to 1."""
        by_time = self.elapsed / self.job.time_limit if self.job.time_limit else 0.0
        return min(1.0, max(by_time, self._steps_done / max(1, self._steps_total)))

    def _seconds_left(self) -> float | None:
        """An upper estimate; early stopping may end it before."""
        if not self._warm_steps:
            return None
        epochs_left = self.job.epochs - self._steps_done * self.job.epochs / self._steps_total
        by_steps = (self._steps_total - self._steps_done) * self._warm_seconds / self._warm_steps
        left = by_steps + epochs_left * self._validation_seconds
        return left if self.job.time_limit is None else max(0.0, min(left, self.job.time_limit - self.elapsed))

    def _steps_expected(self, seconds_left: float | None) -> int:
        """Steps in all: those of the job, or fewer where its time limit comes first."""
        if self.job.time_limit is None or seconds_left is None:
            return self._steps_total
        pace = self._warm_seconds / self._warm_steps
        return min(self._steps_total, self._steps_done + max(1, round(seconds_left / pace)))

    # ---------------------------------------------------------------------------------------------- hooks of Lightning

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._steps_total = self.job.epochs * int(trainer.num_training_batches)
        self._steps_done = self.standing.steps

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)  # for the type checker, as below
        pl_module.restart_tallies()
        self._epoch_began = self._step_ended = time.monotonic()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.stop.check()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.stop.check()
        before, self._step_ended = self._step_ended, time.monotonic()
        seconds = self._step_ended - before  # with the wait for its batch
        self._steps_done += 1
        self.standing.steps = self._steps_done
        self.standing.step_seconds += seconds
        if batch_idx:  # the first step of an epoch also warms up
            self._warm_steps += 1
            self._warm_seconds += seconds
        if time.monotonic() - self._last_progress >= _PROGRESS_SECONDS:
            self._last_progress = time.monotonic()
            left = self._seconds_left()
            self.say(Progress(done=self._steps_done, total=self._steps_expected(left), unit="steps", seconds_left=left))
        if self._time_is_up(seconds / 3 * sum(trainer.num_val_batches)):
            self.standing.reason = "time limit"
            trainer.should_stop = True

    def _time_is_up(self, guess: float) -> bool:
        """Whether the time left is just enough to validate, which takes `guess` seconds where it was never done."""
        needed = self._validation_seconds or guess
        return self.job.time_limit is not None and self.elapsed + needed >= self.job.time_limit

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.stop.check()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_seconds = time.monotonic() - self._validation_began

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop.check()
        assert isinstance(pl_module, Training)
        epoch = self.standing.epochs = trainer.current_epoch + 1
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        row = {"epoch": float(epoch), "seconds": time.monotonic() - self._epoch_began, "learning_rate": rate}
        self.say(Metric(epoch=epoch, name="learning_rate", split="train", value=rate))
        for split in ("train", "validation"):
            for (name, output), value in pl_module.tallies[split].numbers().items():
                if isfinite(value):
                    row[column(split, name, output)] = value
                    self.say(Metric(epoch=epoch, name=name, split=split, output=output, value=value))
            for label, value in zip(self.job.model.classes, pl_module.tallies[split].class_ious(), strict=True):
                if isfinite(value):
                    self.say(Metric(epoch=epoch, name=f"iou {label}", split=split, value=value))
        self.folder.add(row)
        for tracker in self.trackers:
            tracker.add(epoch, row)
        self._keep_best(pl_module, row)
        if not self.standing.reason:
            self._decide(trainer, row)
        with writing(self.folder.checkpoint) as aside:
            # with the optimiser's state, to go on from; it is only ever read with weights_only=True
            trainer.save_checkpoint(aside, weights_only=False)
        if time.monotonic() - self._last_curves >= _CURVES_SECONDS:
            self.draw()

    def _keep_best(self, module: Training, row: dict[str, float]) -> None:
        """Save the model when it is better than all before; without validation always."""
        standing = self.standing
        iou = row.get(column("validation", "iou", "fused"), 0.0)
        loss = row.get(column("validation", "loss", "fused"), float("inf"))
        validated = isfinite(loss)
        better = iou > standing.best_iou + _BETTER or (iou >= standing.best_iou - _BETTER and loss < standing.best_loss)
        if validated and not better:
            return
        standing.best_iou, standing.best_loss, standing.best_epoch = iou, loss, standing.epochs
        self.summary |= {
            "best_epoch": standing.best_epoch,
            "validation": self.scores("validation", row),
            "train": self.scores("train", row),
        }
        save_model(module.kept(), self.folder.model, dict(self.summary))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        save_model(pl_module.model, self.folder.last, self.summary | {"kept": "last", "steps": self.standing.steps})

    def keep_last(self, model: MSUNet) -> None:
        """Put the weights as they are now in the place of the best ones."""
        standing = self.standing
        save_model(model, self.folder.model, self.summary | {"kept": "last", "steps": standing.steps})

    def scores(self, split: str, row: dict[str, float]) -> dict[str, dict[str, float]]:
        """An epoch's numbers: for each output its "loss" and "iou"."""
        named = {
            output: {n: row[column(split, n, output)] for n in ("loss", "iou") if column(split, n, output) in row}
            for output in self.job.model.outputs
        }
        return {output: numbers for output, numbers in named.items() if numbers}

    def _decide(self, trainer: pl.Trainer, row: dict[str, float]) -> None:
        """End after the last epoch, or when nothing gets better."""
        standing = self.standing
        if standing.epochs >= self.job.epochs:
            standing.reason = "epochs"
        elif self._time_is_up(0.0):
            standing.reason = "time limit"
            trainer.should_stop = True
        elif self._stalled(row):
            standing.reason = "no better"
            trainer.should_stop = True
            options = self.job.optimiser
            name = "IoU" if options.stop_metric == "iou" else "loss"
            self.say(Message(text=f"No better validation {name} for {options.stop_after} epochs: training ends here."))

    def _stalled(self, row: dict[str, float]) -> bool:
        """Whether what early stopping looks at has not got better for long enough; never without validation."""
        standing, options = self.standing, self.job.optimiser
        value = row.get(column("validation", options.stop_metric, "fused"))
        if value is None:
            validated = column("validation", "loss", "fused") in row
            standing.stop_epoch = standing.stop_epoch if validated else standing.epochs
        else:
            height = value if options.stop_metric == "iou" else -value
            if standing.stop_best is None or height > standing.stop_best + options.min_delta:
                standing.stop_best, standing.stop_epoch = height, standing.epochs
        return standing.epochs - standing.stop_epoch >= options.stop_after

    def draw(self) -> None:
        """Write the curves."""
        self._last_curves = time.monotonic()
        draw_curves(self.folder.rows, self.folder.outputs, self.folder.curves, self.standing.best_epoch or None)

    def state_dict(self) -> dict[str, Any]:
        """How the run stands, and the summary of the kept model, for the checkpoint."""
        return {"standing": asdict(self.standing), "summary": self.summary}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.standing = Standing(**state_dict["standing"])
        self.standing.reason = ""
        self.summary = dict(state_dict["summary"]) | self.summary  # what is known of this session is newer


def device_arguments(device: torch.device) -> dict[str, Any]:
    """Which device, as Lightning's Trainer wants it."""
    if device.type == "cuda":
        return {"accelerator": "gpu", "devices": [device.index or 0]}
    return {"accelerator": device.type, "devices": 1}
