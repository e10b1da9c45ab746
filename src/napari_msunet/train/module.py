"""The training step, for Lightning: a batch changed at random, the model's outputs, their loss and their counts."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, isfinite, nan, pi
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from napari_msunet.config import Optimiser, TrainJob
from napari_msunet.data import IGNORED
from napari_msunet.data.augment import Augmented, augment
from napari_msunet.data.loader import Batch, as_unit
from napari_msunet.errors import MsunetError
from napari_msunet.models import MSUNet, SegmentationLoss
from napari_msunet.train.metrics import Confusion, class_scores, mean_iou
from napari_msunet.train.views import window_views


class DivergedError(MsunetError):
    """The loss is no number any more."""


class Tally:
    """Loss and counts of one split in one epoch, for each output."""

    def __init__(self, names: tuple[str, ...], outputs: int) -> None:
        self.confusions = {name: Confusion(outputs) for name in names}
        self._losses: dict[str, Tensor | float] = dict.fromkeys(names, 0.0)
        self._pixels: Tensor | float = 0.0

    def add(self, losses: dict[str, Tensor], logits: dict[str, Tensor], target: Tensor) -> None:
        """Count a batch; its loss weighs as many pixels as it has that count."""
        pixels = (target != IGNORED).sum()
        self._pixels = self._pixels + pixels
        for name, confusion in self.confusions.items():
            self._losses[name] = self._losses[name] + losses[name] * pixels
            confusion.add(logits[name].argmax(1), target)

    def numbers(self) -> dict[tuple[str, str], float]:
        """By ("loss" or "iou", output); NaN where nothing was counted."""
        values = {}
        pixels = float(self._pixels)
        for name, confusion in self.confusions.items():
            values["loss", name] = float(self._losses[name]) / pixels if pixels else nan
            values["iou", name] = mean_iou(confusion.matrix)
        return values

    def class_ious(self) -> list[float]:
        """The fused output's IoU of each class 1..K; NaN for one that is neither there nor predicted."""
        return [float(value) for value in class_scores(self.confusions["fused"].matrix)["iou"][1:]]


class Training(pl.LightningModule):
    """A model in training.

    Parameters
    ----------
    model : MSUNet
    job : TrainJob
    size : int
        Side of a window in target pixels.
    fraction : callable
        How much of the training is over, 0 to 1, for the cosine schedule.
    """

    def __init__(self, model: MSUNet, job: TrainJob, size: int, fraction: Callable[[], float]) -> None:
        super().__init__()
        self.model = model
        self.job = job
        self.size = (size, size)
        self.fraction = fraction
        self.loss = SegmentationLoss(job.loss, model.config.ratios)
        self.views = window_views(model.config, size)
        self.watched = "loss"
        self.restart_tallies()

    def restart_tallies(self) -> None:
        """Begin counting an epoch."""
        outputs = len(self.model.config.classes) + 1
        self.tallies = {split: Tally(self.model.config.outputs, outputs) for split in ("train", "validation")}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of a batch, after its random changes."""
        changed = augment(batch.inputs, batch.target, self.views, self.job.augmentation, batch.seed)
        loss = self._step(changed.inputs, changed.target, "train", changed)
        if not isfinite(float(loss.detach())):
            raise DivergedError(
                f"The loss became {float(loss.detach())} in epoch {self.current_epoch + 1}, so training stopped "
                "(the best model before is kept); try a smaller learning rate than "
                f"{self.job.optimiser.learning_rate}, and look for damaged images."
            )
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Count a batch as it is."""
        self._step([as_unit(x) for x in batch.inputs], batch.target.long(), "validation")

    def _bordered(self, target: Tensor) -> Tensor:
        """The truth without what lies too near the window's edge."""
        if border := self.job.border:
            inner = target[:, border:-border, border:-border].clone()
            target = torch.full_like(target, IGNORED)
            target[:, border:-border, border:-border] = inner
        return target

    def _step(self, inputs: list[Tensor], target: Tensor, split: str, changed: Augmented | None = None) -> Tensor:
        target = self._bordered(target)
        # "same" or "concentric" also in validation: it scores what was trained.
        fused, own = self.model.outputs(inputs, self.size, self.model.config.field, self.loss.detach)
        total, parts = self.loss(fused, own, target)
        if changed is not None and changed.other is not None:
            blended, _ = self.loss(fused, own, self._bordered(changed.other))
            total = (1 - changed.share) * total + changed.share * blended
        logits = dict(zip(self.model.config.outputs, (fused.detach(), *(o.detach() for o in own)), strict=True))
        self.tallies[split].add(parts, logits, target)
        return torch.as_tensor(total)

    def on_validation_epoch_end(self) -> None:
        """Give the plateau schedule what it watches."""
        value = self.tallies["validation"].numbers()["loss", "fused"]
        self.log(self.watched, torch.tensor(value, dtype=torch.float32), batch_size=1)

    def on_train_epoch_end(self) -> None:
        """Where nothing validates, the schedule watches the training loss."""
        if not self.trainer.val_dataloaders:
            value = self.tallies["train"].numbers()["loss", "fused"]
            self.log(self.watched, torch.tensor(value, dtype=torch.float32), batch_size=1)

    def configure_optimizers(self) -> Any:
        """AdamW, without decay on biases and normalisation, and its schedule."""
        options = self.job.optimiser
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": options.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=options.learning_rate)
        schedule = self._schedule(options, optimiser)
        return {"optimizer": optimiser} | ({"lr_scheduler": schedule} if schedule else {})

    def _schedule(self, options: Optimiser, optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
        """The schedule as Lightning wants it."""
        if options.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=options.patience)
            return {"scheduler": plateau, "monitor": self.watched, "interval": "epoch", "strict": False}
        if options.schedule == "cosine":
            cosine = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: (1 + cos(pi * self.fraction())) / 2)
            return {"scheduler": cosine, "interval": "step"}
        return None
