"""The training step as a Lightning module: augmentation of a batch, outputs of the model, their loss and counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from math import ceil, isfinite, nan
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from napari_msunet.config import ModelConfig, Optimiser, SettledTrainJob
from napari_msunet.config.model import JOINED
from napari_msunet.config.training import MEAN_OF_SCALES, watched_metric
from napari_msunet.constants import IGNORED
from napari_msunet.data.augmentation import Augmented, Views, augment
from napari_msunet.data.loader import Batch
from napari_msunet.data.sampling import HardExamples, window_losses
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Window
from napari_msunet.inference.recalibration import recalibrate
from napari_msunet.models import MSUNet, SegmentationLoss, input_windows
from napari_msunet.models.blocks import of_the_batch
from napari_msunet.training.optimisers import Average, decay_of, make_optimiser, make_schedule, warm
from napari_msunet.training.scoring.metrics import Confusion, class_scores, mean_iou, mean_scores

# ----------------------------------------------------------------------------------------------------------------------
# The windows of a training, as all scales see them.


def window_views(config: ModelConfig, size: int) -> Views:
    """The views of a square target window of `size` pixels a side."""
    windows = input_windows(config, Window(0, 0, size, size))
    ratios = [float(r) for r in config.input_ratios]
    return Views((size, size), [w.shape for w in windows], ratios)


@dataclass(frozen=True)
class Windows:
    """The windows that a training draws from its images.

    Attributes
    ----------
    config : ModelConfig
        The config of the model; with the loss on the finest branch's own grid, that config with this grid as target.
    size, border : int
        Side of a window, and the width of the edge that carries no loss, in target pixels of `config`.
    class_weights : tuple of float, optional
        Class weights of the loss; None: those of the job.
    calibration : callable
        Gives batches of unchanged training windows, for the statistics of batch normalisation.
    hard : HardExamples, optional
        Remembers windows with a high loss.
    """

    config: ModelConfig
    size: int
    border: int = 0
    class_weights: tuple[float, ...] | None = None
    calibration: Callable[[], Sequence[Batch]] = tuple
    hard: HardExamples | None = None


_FEW = 2
"""Batches for the statistics of a model that is kept between two validations."""

# ----------------------------------------------------------------------------------------------------------------------
# Finding the step at which the loss became NaN or infinite, and the reason.

_LOOK_EVERY = 16
"""Steps between two checks on a GPU, where each check waits for all work under way."""


class DivergedError(MsunetError):
    """The loss has become NaN or infinite."""


class LossCheck:
    """Checks the loss of each step, and raises an error with the reason when it is NaN or infinite.

    Parameters
    ----------
    model : nn.Module
    options : Optimiser
    """

    def __init__(self, model: nn.Module, options: Optimiser) -> None:
        self.model = model
        self.options = options
        self._waiting: list[tuple[int, Tensor]] = []

    def add(self, step: int, epoch: int, loss: Tensor, inputs: Sequence[Tensor]) -> None:
        """Check the loss of a step: at once on a CPU, on a GPU together with those of the next steps.

        Raises
        ------
        DivergedError
            If this loss, or one before it, is NaN or infinite.
        """
        self._waiting.append((step, loss.detach()))
        if loss.device.type == "cpu" or len(self._waiting) >= _LOOK_EVERY:
            self.look(epoch, inputs)

    def look(self, epoch: int, inputs: Sequence[Tensor] = ()) -> None:
        """Check the losses that wait."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        losses = torch.stack([loss for _, loss in waiting]).cpu()
        if bool(losses.isfinite().all()):
            return
        first = int((~losses.isfinite()).nonzero()[0, 0])
        raise DivergedError(
            f"The loss became {float(losses[first])} at step {waiting[first][0]} (epoch {epoch}): {self._why(inputs)}. "
            "Training stopped, and the best model before is kept."
        )

    def _why(self, inputs: Sequence[Tensor]) -> str:
        """The reason and the remedy, as a part of a sentence."""
        if any(not bool(x.isfinite().all()) for x in inputs):
            return "an image of this batch holds values that are no numbers; look for damaged images"
        rate = self.options.learning_rate
        if any(not bool(p.isfinite().all()) for p in self.model.parameters()):
            return (
                "the weights had stopped being numbers in the step before; try a smaller learning rate than "
                f"{rate:g}, or clip the gradient"
            )
        precision = ", or precision 32 or bf16" if self.options.precision == "16" else ""
        return (
            "the images and the weights are numbers, but the network's output is too large for them; try a smaller "
            f"learning rate than {rate:g}{precision}, and look for images unlike the others"
        )


# ----------------------------------------------------------------------------------------------------------------------
# Loss and pixel counts of an epoch, added up over batches, and over the processes that train together.


class Tally:
    """The loss and pixel counts of one split in one epoch, for each output.

    Parameters
    ----------
    names : tuple of str
        The outputs, "fused" first.
    outputs : int
        Number of classes with background, K+1.
    by_step : bool
        Whether the loss and counts of each batch are kept too.
    """

    def __init__(self, names: tuple[str, ...], outputs: int, by_step: bool = False) -> None:
        self.confusions = {name: Confusion(outputs) for name in names}
        self.by_step = by_step
        self._steps: list[tuple[Tensor, Tensor]] = []
        self._outputs = outputs
        self._groups: dict[str, dict[str, Confusion]] = {}
        self._losses: dict[str, Tensor | float] = dict.fromkeys(names, 0.0)
        self._pixels: Tensor | float = 0.0

    def add(
        self,
        losses: dict[str, Tensor],
        logits: dict[str, Tensor],
        target: Tensor,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Add a batch, whose loss is weighted by its number of pixels that count; `groups` are those of the windows."""
        pixels = (target != IGNORED).sum()
        self._pixels = self._pixels + pixels
        counted = []
        for name, confusion in self.confusions.items():
            self._losses[name] = self._losses[name] + losses[name] * pixels
            found = logits[name].max(1).indices  # ten times as fast as argmax on a CPU
            counted.append(confusion.add(found, target))
            for index, group in enumerate(groups or ()):
                own = self._groups.setdefault(group, {}).setdefault(name, Confusion(self._outputs))
                own.add(found[index], target[index])
        if self.by_step:  # they stay on the device, so that no step waits for it
            self._steps.append((torch.stack([losses[name] for name in self.confusions]), torch.stack(counted)))

    def gather(self, device: torch.device) -> None:
        """Add up the counts of all processes; each of them must call this once."""
        for name, confusion in self.confusions.items():
            total = torch.tensor([float(self._losses[name])], dtype=torch.float64, device=device)
            counts = torch.from_numpy(confusion.matrix.copy()).to(device)
            torch.distributed.all_reduce(total)
            torch.distributed.all_reduce(counts)
            self._losses[name] = float(total)
            confusion.replace(counts)
        pixels = torch.tensor([float(self._pixels)], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(pixels)
        self._pixels = float(pixels)

    def numbers(self) -> dict[tuple[str, str], float]:
        """The numbers by (name in `METRICS`, output); NaN where nothing was counted.

        Where several scales have an output of their own, `MEAN_OF_SCALES` is the mean over those with a number.
        """
        pixels = float(self._pixels)
        losses = [float(self._losses[name]) / pixels if pixels else nan for name in self.confusions]
        matrices = np.stack([confusion.matrix for confusion in self.confusions.values()])
        rows = _with_mean(tuple(self.confusions), np.array([losses]), matrices[None])
        return {key: float(values[0]) for key, values in rows.items()}

    def step_numbers(self) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """The numbers of each batch so far, by the same keys; empty where batches are not kept or there was none."""
        if not self._steps:
            return {}
        losses = torch.stack([loss for loss, _ in self._steps]).double().cpu().numpy()
        matrices = torch.stack([counts for _, counts in self._steps]).cpu().numpy()
        return _with_mean(tuple(self.confusions), losses, matrices)

    def group_ious(self) -> dict[str, dict[str, float]]:
        """For each output, the mean IoU over classes of each group for which it is defined, in this process only."""
        ious = {
            name: {group: mean_iou(own[name].matrix) for group, own in sorted(self._groups.items())}
            for name in self.confusions
        }
        return {name: {g: v for g, v in values.items() if isfinite(v)} for name, values in ious.items()}

    def class_ious(self) -> list[float]:
        """The fused output's IoU of each class 1..K; NaN for a class that neither occurs nor is predicted."""
        return [float(value) for value in class_scores(self.confusions["fused"].matrix)["iou"][1:]]


def _with_mean(
    names: tuple[str, ...], losses: npt.NDArray[np.float64], matrices: npt.NDArray[np.int64]
) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
    """Numbers by (name, output), `(n,)`, from losses `(n, outputs)` and counts `(n, outputs, K+1, K+1)`."""
    found: dict[tuple[str, str], npt.NDArray[np.float64]] = {}
    for metric, values in ({"loss": losses} | mean_scores(matrices)).items():
        for index, name in enumerate(names):
            found[metric, name] = values[:, index]
        if len(names) > 2:  # the fused output and several scales
            own, known = values[:, 1:], np.isfinite(values[:, 1:])
            count = known.sum(1)
            total = np.where(known, own, 0.0).sum(1)
            found[metric, MEAN_OF_SCALES] = np.divide(total, count, out=np.full(total.shape, nan), where=count > 0)
    return found


# ----------------------------------------------------------------------------------------------------------------------
# The training of a model as a Lightning module.


class Training(pl.LightningModule):
    """A model in training.

    Parameters
    ----------
    model : MSUNet
    job : SettledTrainJob
    windows : Windows
    fraction : callable
        Gives the fraction of the training that is over, 0 to 1, for schedules.
    """

    def __init__(self, model: MSUNet, job: SettledTrainJob, windows: Windows, fraction: Callable[[], float]) -> None:
        super().__init__()
        self.model = model
        # A classical method is fitted already: its one epoch counts scores, and no optimiser changes anything.
        self.automatic_optimization = not model.config.classical
        self.job = job
        self.windows = windows
        self.size = (windows.size, windows.size)
        self._elsewhere = windows.config != model.config
        self.fraction = fraction
        config = model.config
        same = len(config.scales) == 1 and config.fusion not in ("concat", *JOINED)
        self.loss = SegmentationLoss(job.loss, config.ratios, windows.class_weights, config.own, same)
        self.views = window_views(windows.config, windows.size)
        self.average = Average(model, job.optimiser) if job.optimiser.average != "none" else None
        self.monitor = watched_metric(job.optimiser.monitor)
        self.watched = f"watched_{job.optimiser.monitor}"
        self.guard = LossCheck(model, job.optimiser)
        self._averaged_at = self._kept_at = -1
        self._counted: Any = None
        self._window_losses: list[float] = []
        self.restart_tallies()

    def restart_tallies(self) -> None:
        """Begin to count an epoch."""
        names, outputs = self.model.config.outputs, len(self.model.config.classes) + 1
        self.tallies = {
            "train": Tally(names, outputs, bool(self.job.step_metrics)),
            "validation": Tally(names, outputs),
        }

    # ------------------------------------------------------------------------------------------------------- the step

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of a batch, after its random changes; L-BFGS calls this several times."""
        changed = augment(batch.inputs, batch.target, self.views, self.job.augmentation, batch.seed, batch.brightfield)
        again, self._counted = self._counted == (self.current_epoch, index), (self.current_epoch, index)
        inputs = batch.normalised(changed.inputs)
        loss = self._step(self.model, inputs, changed.target, None if again else "train", changed)
        if self.windows.hard is not None and batch.places is not None and not again:
            self.windows.hard.add(batch.places, self._window_losses)
        step = self.current_epoch * int(self.trainer.num_training_batches) + index + 1
        self.guard.add(step, self.current_epoch + 1, loss, changed.inputs)
        return loss + decay_of(self.model.parameters(), self.job.optimiser)

    def loss_of(self, batch: Batch) -> Tensor:
        """The loss of a batch outside a training; nothing is counted."""
        changed = augment(batch.inputs, batch.target, self.views, self.job.augmentation, batch.seed, batch.brightfield)
        return self._step(self.model, batch.normalised(changed.inputs), changed.target, None, changed)

    def on_train_epoch_start(self) -> None:
        """Set branches with a rate of 0, which are only known now, to keep their statistics."""
        self.model.train()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Count an unchanged batch, with the weights that would be kept."""
        model = self.kept()
        with of_the_batch(model):  # slide normalisation uses the statistics of each slide, as in a prediction
            self._step(model, batch.normalised(), batch.target.long(), "validation", groups=batch.groups)

    def _outputs(self, model: MSUNet, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Fused logits and each branch's own on the grid of the loss."""
        if self._elsewhere:
            model = copy(model)  # with the same weights
            model.config = self.windows.config
        # The field of the training ("same" or "concentric") is used in validation too, so that it scores what was
        # trained.
        return model.outputs(inputs, self.size, model.config.field, self.loss.detach, self.loss.separate)

    def _bordered(self, target: Tensor) -> Tensor:
        """The truth without pixels that are too near the window's edge."""
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
        """The model to validate and to keep, with the weights of the last step or their average."""
        options = self.job.optimiser
        average, step = self.average, self.trainer.global_step
        if self._kept_at != step:
            self._kept_at = step
            if average is not None and options.average == "swa" and self.fraction() >= options.average_from:
                average.add(self.model)
            if options.recalibrate or average is not None:
                recalibrate(self._chosen, self._calibration(), self._outputs)
        return self._chosen

    def kept_for_now(self, alone: bool) -> MSUNet:
        """The same model between two validations. `alone`: no other process trains it too, so that an average can get
        statistics of a few batches: without them it predicts nothing in its first minutes."""
        if alone and self.average is not None and int(self.average.count):
            recalibrate(self._chosen, self._calibration()[:_FEW], self._outputs)
        return self._chosen

    def validation_groups(self) -> dict[str, dict[str, float]]:
        """For each output, the mean IoU over classes of each group (patient, slide) that validates."""
        return self.tallies["validation"].group_ious()

    @property
    def _chosen(self) -> MSUNet:
        if self.average is None or not int(self.average.count):
            return self.model
        return self.average.model

    def _calibration(self) -> list[list[Tensor]]:
        return [[x.to(self.device) for x in batch.normalised()] for batch in self.windows.calibration()]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update the moving average after each step of the optimiser."""
        step = self.trainer.global_step
        if self.average is not None and self.job.optimiser.average == "ema" and self._averaged_at != step:
            self._averaged_at = step
            self.average.add(self.model)

    # ------------------------------------------------------------------------------------------ optimiser and schedule

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the rate in the warm-up of the plateau schedule, which is no function of the step."""
        options, step = self.job.optimiser, self.trainer.global_step
        if options.schedule == "plateau" and step <= options.warmup and options.warmup:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = group["initial_lr"] * warm(step, options.warmup)

    def on_validation_epoch_end(self) -> None:
        """Give the plateau schedule the number that it watches."""
        self.gather("validation")
        if self.monitor.split != "train":
            self._watch("validation")

    def on_train_epoch_end(self) -> None:
        """Give the plateau schedule a number of the training, if it watches one, or where nothing validates."""
        self.guard.look(self.current_epoch + 1)
        if self.monitor.split == "train" or not self.trainer.val_dataloaders:
            self._watch("train")

    def _watch(self, split: str) -> None:
        value = self.tallies[split].numbers()[self.monitor.name, self.monitor.output]
        self.log(self.watched, torch.tensor(value, dtype=torch.float32), batch_size=1)

    def gather(self, split: str) -> None:
        """Add up the counts over all processes that train together."""
        if self.trainer.world_size > 1:
            self.tallies[split].gather(self.device)

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, in Lightning's form."""
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
        """Steps of the optimiser in an epoch."""
        batches = float(self.trainer.num_training_batches)
        return (
            max(1, ceil(batches / self.trainer.accumulate_grad_batches)) if isfinite(batches) else 1
        )  # called before the training has begun
