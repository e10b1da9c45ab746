"""How training makes it small: the optimiser, its schedule, averages of weights, and when to stop."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from napari_msunet.config.base import Frozen, Positive, Share
from napari_msunet.config.option import Option

OptimiserKind: TypeAlias = Literal["adamw", "adam", "sgd", "rmsprop", "adagrad", "lbfgs"]
Schedule: TypeAlias = Literal["plateau", "cosine", "constant", "restarts", "one_cycle"]
Watched: TypeAlias = Literal["loss", "iou"]
Precision: TypeAlias = Literal["32", "bf16", "16"]
Averaging: TypeAlias = Literal["none", "ema", "swa"]

_Decay: TypeAlias = Annotated[float, Field(ge=0, lt=1)]

_LEARNING, _WEIGHTS = "Learning", "Which weights are kept"


class Optimiser(Frozen):
    """An optimiser with a schedule, and when to stop early."""

    kind: Annotated[OptimiserKind, Option("Optimiser", _LEARNING, flag="--optimiser")] = "adamw"
    """What turns gradients into changes of the weights. lbfgs is for very small sets and networks."""
    learning_rate: Annotated[Positive, Option(group=_LEARNING, step=1e-3)] = 3e-3
    """Size of a learning step, after the warm-up; of one_cycle the highest. Lower it (to a third) when the loss jumps;
    raise it when it hardly falls."""
    branch_rates: Annotated[
        tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None,
        Option("Rate per scale", _LEARNING, example="numbers with commas, such as 1,0.5"),
    ] = None
    """What the learning rate is multiplied with for each scale's network, such as 1,0.1; 0: it stays as it is, all 0:
    only the fusion learns."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False), Option(group=_LEARNING, step=0.01)] = 1e-2
    """Pull of convolution weights towards zero, against learning by heart. Raise it with very little data."""
    momentum: Annotated[_Decay | None, Option(group=_LEARNING, none="automatic")] = None
    """Momentum of sgd (0.9 without it) and rmsprop (0 without it)."""
    nesterov: Annotated[bool, Option("Nesterov's momentum", _LEARNING)] = False
    """Nesterov's momentum, for sgd."""
    betas: Annotated[
        tuple[_Decay, _Decay], Option("Adam's betas", _LEARNING, example="two numbers, such as 0.9,0.999")
    ] = (
        0.9,
        0.999,
    )
    """Of adam and adamw: how long the means of gradients and of their squares remember."""
    iterations: Annotated[int, Option("L-BFGS iterations", _LEARNING, flag="--lbfgs-iterations")] = Field(4, ge=1)
    """Of lbfgs: iterations on each batch."""
    schedule: Annotated[
        Schedule,
        Option(
            group=_LEARNING,
            words={
                "plateau": "lower when it stalls",
                "cosine": "fall slowly to zero",
                "restarts": "fall, again and again",
                "one_cycle": "rise, then fall",
                "constant": "constant",
            },
        ),
    ] = "cosine"
    """How the learning rate falls: plateau lowers it when the validation stalls; restarts are cosines, one after the
    other; one_cycle rises, then falls."""
    factor: Annotated[float, Field(gt=0, lt=1), Option("Plateau factor", _LEARNING)] = 0.5
    """Of plateau: what the learning rate is multiplied with after the patience is over."""
    patience: Annotated[int, Field(ge=1), Option("Stalled after", _LEARNING, unit="epochs")] = 8
    """Of plateau: epochs without a better validation before the learning rate is lowered."""
    threshold: Annotated[float, Field(ge=0), Option("Plateau threshold", _LEARNING, flag="--plateau-threshold")] = 1e-4
    """Of plateau: by how much the validation must get better to count, relatively for the loss, absolutely for the
    IoU."""
    monitor: Annotated[Watched, Option("Plateau watches", _LEARNING)] = "loss"
    """What plateau watches of the validation."""
    restart_epochs: Annotated[int, Option(group=_LEARNING, unit="epochs")] = Field(10, ge=1)
    """Of restarts: epochs to the first restart."""
    restart_factor: Annotated[int, Option(group=_LEARNING)] = Field(2, ge=1)
    """Of restarts: how many times as long each period is as the one before."""
    rise: Annotated[float, Field(gt=0, lt=1), Option("One-cycle rise", _LEARNING)] = 0.3
    """Of one_cycle: share of the training in which the learning rate rises."""
    warmup: Annotated[int, Option(group=_LEARNING, unit="steps")] = Field(0, ge=0)
    """Steps in which the learning rate rises from nearly zero, with any schedule."""
    clip: Annotated[Positive | None, Option("Clip gradient", _LEARNING)] = None
    """Largest norm of the gradient; a larger one is scaled down."""
    accumulate: Annotated[int, Option(group=_LEARNING, unit="batches")] = Field(1, ge=1)
    """Batches whose gradients are added up for one step of the optimiser."""
    precision: Annotated[Precision, Option(group=_LEARNING)] = "32"
    """32, or mixed precision: bf16 or 16 (bfloat16 on a processor)."""
    average: Annotated[Averaging, Option(group=_WEIGHTS)] = "ema"
    """Which weights are validated and kept: those of the last step (none), their exponential moving average (ema), or
    the mean over the ends of the last epochs (swa)."""
    average_decay: Annotated[_Decay, Option(group=_WEIGHTS)] = 0.99
    """Of ema: how much of the average stays at each step; less in the first steps."""
    average_from: Annotated[Share, Option(group=_WEIGHTS)] = 0.75
    """Of swa: share of the training after which averaging begins."""
    recalibrate: Annotated[bool, Option("Re-estimate batch norm", _WEIGHTS)] = False
    """Re-estimate batch-norm statistics on training windows before each validation, also without averages (averages
    always are)."""
    stop_after: Annotated[
        Annotated[int, Field(ge=1)] | None, Option("Stop after", _WEIGHTS, unit="epochs", none="automatic")
    ] = None
    """Epochs without a better validation before training ends; without it never where there is a time limit, else
    25."""
    stop_metric: Annotated[Watched, Option(group=_WEIGHTS)] = "iou"
    """What early stopping looks at."""
    min_delta: Annotated[float, Field(ge=0), Option("Least gain", _WEIGHTS)] = 1e-4
    """By how much the validation must get better to count."""

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
