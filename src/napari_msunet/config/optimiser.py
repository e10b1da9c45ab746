"""How training makes it small: the optimiser, its schedule, averages of weights, and when to stop."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from napari_msunet.config.base import Frozen, Positive, Share

OptimiserKind: TypeAlias = Literal["adamw", "adam", "sgd", "rmsprop", "adagrad", "lbfgs"]
Schedule: TypeAlias = Literal["plateau", "cosine", "constant", "restarts", "one_cycle"]
Watched: TypeAlias = Literal["loss", "iou"]
Precision: TypeAlias = Literal["32", "bf16", "16"]
Averaging: TypeAlias = Literal["none", "ema", "swa"]

_Decay: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class Optimiser(Frozen):
    """An optimiser with a schedule, and when to stop early.

    Attributes
    ----------
    kind : str
        "adamw", "adam", "sgd", "rmsprop", "adagrad" or "lbfgs".
    learning_rate : float
        Of the first step after the warm-up; of "one_cycle" the highest.
    branch_rates : tuple of float, optional
        What the learning rate is multiplied with for each scale's network; 0: it stays as it is. All 0: only the
        fusion learns.
    weight_decay : float
        Of convolution weights, not of biases and normalisation.
    momentum : float, optional
        Of "sgd" and "rmsprop". None: 0.9 for "sgd", 0 for "rmsprop".
    nesterov : bool
        Nesterov's momentum, for "sgd".
    betas : tuple of float
        Of "adam" and "adamw": how long the means of gradients and of their squares remember.
    iterations : int
        Of "lbfgs": iterations on each batch.
    schedule : str
        "plateau" (lower the learning rate when `monitor` stalls), "cosine", "constant", "restarts" (cosines, one after
        the other) or "one_cycle" (up, then down).
    factor, patience, threshold, monitor : float, int, float, str
        Of "plateau": it multiplies the learning rate by `factor` after `patience` epochs in which the validation "loss"
        (relatively) or "iou" (absolutely) did not get better by `threshold`.
    restart_epochs, restart_factor : int, int
        Of "restarts": epochs to the first restart; each period is `restart_factor` times as long as the one before.
    rise : float
        Of "one_cycle": share of the training in which the learning rate rises.
    warmup : int
        Steps in which the learning rate rises from nearly zero, with any schedule.
    clip : float, optional
        Largest norm of the gradient; a larger one is scaled down.
    accumulate : int
        Batches whose gradients are added up for one step of the optimiser.
    precision : str
        "32", or mixed precision: "bf16" or "16" (bfloat16 on a CPU).
    average : str
        Which weights are validated and kept: those of the last step ("none"), their exponential moving average ("ema"),
        or the mean over the ends of the last epochs ("swa"). Batch-norm statistics of averages are re-estimated.
    average_decay : float
        Of "ema": how much of the average stays at each step; less in the first steps.
    average_from : float
        Of "swa": share of the training after which averaging begins.
    recalibrate : bool
        Re-estimate batch-norm statistics on training windows before each validation, also without averages.
    stop_after : int, optional
        Epochs without a better `stop_metric` before training stops. None: 25 without a time limit, never with one.
    stop_metric : str
        "iou" or "loss", of the validation.
    min_delta : float
        By how much it must get better to count.
    """

    kind: OptimiserKind = "adamw"
    learning_rate: Positive = 3e-3
    branch_rates: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-2
    momentum: _Decay | None = None
    nesterov: bool = False
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    iterations: int = Field(4, ge=1)
    schedule: Schedule = "cosine"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: Annotated[int, Field(ge=1)] = 8
    threshold: Annotated[float, Field(ge=0)] = 1e-4
    monitor: Watched = "loss"
    restart_epochs: int = Field(10, ge=1)
    restart_factor: int = Field(2, ge=1)
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    warmup: int = Field(0, ge=0)
    clip: Positive | None = None
    accumulate: int = Field(1, ge=1)
    precision: Precision = "32"
    average: Averaging = "ema"
    average_decay: _Decay = 0.99
    average_from: Share = 0.75
    recalibrate: bool = False
    stop_after: Annotated[int, Field(ge=1)] | None = None
    stop_metric: Watched = "iou"
    min_delta: Annotated[float, Field(ge=0)] = 1e-4

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.nesterov and (self.kind != "sgd" or self.momentum == 0):
            raise ValueError('Nesterov\'s momentum is of kind "sgd" with a momentum above zero')
        if self.kind == "lbfgs":
            if self.precision == "16":
                raise ValueError('L-BFGS cannot be scaled for 16-bit gradients: give precision "32" or "bf16"')
            if self.branch_rates is not None or self.accumulate > 1:
                raise ValueError(
                    "L-BFGS has one learning rate and sees one batch at a time: leave branch_rates and "
                    "accumulate as they are"
                )
        return self
