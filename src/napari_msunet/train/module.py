"""The training step, for Lightning: a batch changed at random, the model's outputs, their loss and their counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from math import ceil, isfinite
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from napari_msunet.config import SettledTrainJob
from napari_msunet.data import IGNORED
from napari_msunet.data.augment import Augmented, augment
from napari_msunet.data.hard import window_losses
from napari_msunet.data.loader import Batch, as_unit
from napari_msunet.models import MSUNet, SegmentationLoss
from napari_msunet.models.norms import of_the_batch
from napari_msunet.train.averaging import Average, recalibrate
from napari_msunet.train.diverged import Guard
from napari_msunet.train.optimisers import decay_of, make_optimiser, make_schedule, warm
from napari_msunet.train.tally import Tally
from napari_msunet.train.views import Windows, window_views


class Training(pl.LightningModule):
    """A model in training.

    Parameters
    ----------
    model : MSUNet
    job : SettledTrainJob
    windows : Windows
    fraction : callable
        How much of the training is over, 0 to 1, for schedules.
    """

    def __init__(self, model: MSUNet, job: SettledTrainJob, windows: Windows, fraction: Callable[[], float]) -> None:
        super().__init__()
        self.model = model
        self.job = job
        self.windows = windows
        self.size = (windows.size, windows.size)
        self._elsewhere = windows.config != model.config
        self.fraction = fraction
        self.loss = SegmentationLoss(job.loss, model.config.ratios, windows.class_weights, model.config.own)
        self.views = window_views(windows.config, windows.size)
        self.average = Average(model, job.optimiser) if job.optimiser.average != "none" else None
        self.watched = f"watched_{job.optimiser.monitor}"
        self.guard = Guard(model, job.optimiser)
        self._averaged_at = self._kept_at = -1
        self._counted: Any = None
        self._window_losses: list[float] = []
        self.restart_tallies()

    def restart_tallies(self) -> None:
        """Begin counting an epoch."""
        outputs = len(self.model.config.classes) + 1
        self.tallies = {split: Tally(self.model.config.outputs, outputs) for split in ("train", "validation")}

    # ------------------------------------------------------------------------------------------------------- the step

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of a batch, after its random changes; L-BFGS asks for it several times."""
        changed = augment(batch.inputs, batch.target, self.views, self.job.augmentation, batch.seed, batch.brightfield)
        again, self._counted = self._counted == (self.current_epoch, index), (self.current_epoch, index)
        loss = self._step(self.model, changed.inputs, changed.target, None if again else "train", changed)
        if self.windows.hard is not None and batch.places is not None and not again:
            self.windows.hard.add(batch.places, self._window_losses)
        step = self.current_epoch * int(self.trainer.num_training_batches) + index + 1
        self.guard.add(step, self.current_epoch + 1, loss, changed.inputs)
        return loss + decay_of(self.model.parameters(), self.job.optimiser)

    def loss_of(self, batch: Batch) -> Tensor:
        """The loss of a batch outside of a training; nothing is counted."""
        changed = augment(batch.inputs, batch.target, self.views, self.job.augmentation, batch.seed, batch.brightfield)
        return self._step(self.model, changed.inputs, changed.target, None, changed)

    def on_train_epoch_start(self) -> None:
        """Branches whose rate is 0 are known only now: they keep their statistics."""
        self.model.train()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Count a batch as it is, seen by the weights that would be kept."""
        model = self.kept()
        with of_the_batch(model):  # slide normalisation takes each slide as it is, as a prediction does
            inputs = [as_unit(x) for x in batch.inputs]
            self._step(model, inputs, batch.target.long(), "validation", groups=batch.groups)

    def _outputs(self, model: MSUNet, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Fused logits and each branch's own on the grid of the loss."""
        if self._elsewhere:
            model = copy(model)  # with the same weights
            model.config = self.windows.config
        # "same" or "concentric" also in validation: it scores what was trained.
        return model.outputs(inputs, self.size, model.config.field, self.loss.detach)

    def _bordered(self, target: Tensor) -> Tensor:
        """The truth without what lies too near the window's edge."""
        if border := self.windows.border:
            inner = target[:, border:-border, border:-border].clone()
            target = torch.full_like(target, IGNORED)
            target[:, border:-border, border:-border] = inner
        return target

    def _step(
        self,
        model: MSUNet,
        inputs: list[Tensor],
        target: Tensor,
        split: str | None,
        changed: Augmented | None = None,
        groups: Sequence[str] | None = None,
    ) -> Tensor:
        target = self._bordered(target)
        fused, own = self._outputs(model, inputs)
        total, parts = self.loss(fused, own, target)
        if changed is not None and changed.other is not None:
            blended, _ = self.loss(fused, own, self._bordered(changed.other))
            total = (1 - changed.share) * total + changed.share * blended
        if self.windows.hard is not None and split == "train":
            self._window_losses = window_losses(fused.detach(), target)
        if split is not None:
            logits = dict(zip(self.model.config.outputs, (fused.detach(), *(o.detach() for o in own)), strict=True))
            self.tallies[split].add(parts, logits, target, groups)
        return torch.as_tensor(total)

    # ------------------------------------------------------------------------------------------------- what is kept

    def kept(self) -> MSUNet:
        """The model to validate and to keep: with the weights of the last step, or with their average."""
        options = self.job.optimiser
        average, step = self.average, self.trainer.global_step
        if self._kept_at != step:
            self._kept_at = step
            if average is not None and options.average == "swa" and self.fraction() >= options.average_from:
                average.add(self.model)
            if options.recalibrate or average is not None:
                recalibrate(self._chosen, self._calibration(), self._outputs)
        return self._chosen

    def average_now(self) -> MSUNet:
        """The same with the statistics as they are: at once."""
        return self._chosen

    def validation_groups(self) -> dict[str, dict[str, float]]:
        """For each output the IoU, mean over classes, of each group (patient, slide) that validates."""
        return self.tallies["validation"].group_ious()

    @property
    def _chosen(self) -> MSUNet:
        if self.average is None or not int(self.average.count):
            return self.model
        return self.average.model

    def _calibration(self) -> list[list[Tensor]]:
        return [[as_unit(x.to(self.device)) for x in batch.inputs] for batch in self.windows.calibration()]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The moving average follows each step of the optimiser."""
        step = self.trainer.global_step
        if self.average is not None and self.job.optimiser.average == "ema" and self._averaged_at != step:
            self._averaged_at = step
            self.average.add(self.model)

    # ------------------------------------------------------------------------------------------ optimiser and schedule

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """The warm-up of the schedule that is not a function of the step."""
        options, step = self.job.optimiser, self.trainer.global_step
        if options.schedule == "plateau" and step <= options.warmup and options.warmup:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = group["initial_lr"] * warm(step, options.warmup)

    def on_validation_epoch_end(self) -> None:
        """Give the plateau schedule what it watches."""
        self.gather("validation")
        self._watch("validation")

    def on_train_epoch_end(self) -> None:
        """Where nothing validates, the schedule watches the training."""
        self.guard.look(self.current_epoch + 1)
        if not self.trainer.val_dataloaders:
            self._watch("train")

    def _watch(self, split: str) -> None:
        value = self.tallies[split].numbers()[self.job.optimiser.monitor, "fused"]
        self.log(self.watched, torch.tensor(value, dtype=torch.float32), batch_size=1)

    def gather(self, split: str) -> None:
        """Count over all processes that train together."""
        if self.trainer.world_size > 1:
            self.tallies[split].gather(self.device)

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, as Lightning wants them."""
        options = self.job.optimiser
        optimiser = make_optimiser(self.model, options)
        for group in optimiser.param_groups:
            group.setdefault("initial_lr", group["lr"])
        schedule = make_schedule(options, optimiser, self.fraction, self._steps_per_epoch)
        if schedule is None:
            return {"optimizer": optimiser}
        watching = {"monitor": self.watched, "interval": "epoch", "strict": False}
        how = watching if options.schedule == "plateau" else {"interval": "step"}
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule} | how}

    def _steps_per_epoch(self) -> int:
        """Of the optimiser."""
        batches = float(self.trainer.num_training_batches)
        return (
            max(1, ceil(batches / self.trainer.accumulate_grad_batches)) if isfinite(batches) else 1
        )  # before it began
