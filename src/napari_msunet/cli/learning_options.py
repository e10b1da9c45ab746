"""The options of `train` about losses, optimisers, schedules, averages of weights and when to stop."""

# No annotations as text here: cyclopts reads those of this class in the module of a class made from it.
from dataclasses import dataclass
from typing import Any, Optional

from cyclopts import Parameter

from napari_msunet.cli.data_options import DataOptions
from napari_msunet.config import LossConfig, Optimiser
from napari_msunet.config.optimiser import Averaging, OptimiserKind, Precision, Schedule, Watched
from napari_msunet.errors import MsunetError

_OPTIMISER, _LOSS = Optimiser.model_fields, LossConfig.model_fields

_OF_LOSS = ("tversky_alpha", "tversky_beta", "focal_gamma", "border_sigma", "own_grid")
_OF_OPTIMISER = (
    *("learning_rate", "weight_decay", "momentum", "nesterov", "schedule", "factor", "patience", "monitor", "warmup"),
    *("clip", "accumulate", "precision", "average", "recalibrate", "stop_after", "stop_metric", "min_delta"),
)
"""Options that are fields of a config as they are."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LearningOptions(DataOptions):
    """What is made small, and how.

    Attributes
    ----------
    loss : str
        A sum of cross_entropy (ce), bce, dice, jaccard, tversky, focal, boundary and edge with weights, such as
        bce+jaccard+dice or focal+0.5*dice+0.01*boundary.
    class_weights : str
        How much background and each class count: numbers with commas, or balanced (the rarer the more).
    tversky_alpha : float
        How much false pixels count in tversky.
    tversky_beta : float
        How much missed pixels count in tversky.
    focal_gamma : float
        How far focal looks away from easy pixels.
    border_weight : float
        How much more background between two near objects weighs, as in the U-Net paper (there 10).
    border_sigma : float
        How near is near, in pixels.
    own_grid : bool
        Where all scales are below 1, compute the loss on the finest branch's grid: faster.
    branch_loss : str
        Weight of each branch's own loss beside the fused one's: one number, or one for each scale.
    optimiser : str
        The optimiser.
    learning_rate : float
        Of the optimiser.
    branch_rates : str
        What the learning rate is multiplied with for each scale's network, such as 1,0.1; 0: it stays as it is, all 0:
        only the fusion learns.
    weight_decay : float
        Of convolution weights.
    momentum : float
        Of sgd (0.9 without it) and rmsprop (0 without it).
    nesterov : bool
        Nesterov's momentum, for sgd.
    schedule : str
        Plateau multiplies the learning rate by --factor after --patience epochs without a better --monitor.
    factor : float
        Of plateau.
    patience : int
        Of plateau, in epochs.
    monitor : str
        What plateau watches of the validation.
    warmup : int
        Steps in which the learning rate rises from nearly zero.
    clip : float
        Largest norm of the gradient.
    accumulate : int
        Batches whose gradients are added up for one step.
    precision : str
        32, or mixed precision.
    average : str
        Keep an average of the weights: of all steps (ema) or of the last quarter's epochs (swa).
    recalibrate : bool
        Re-estimate batch-norm statistics before each validation.
    stop_after : int
        Epochs without a better --stop-metric after which training stops; without it never where there is a
        --time-limit, else 25.
    stop_metric : str
        What early stopping looks at.
    min_delta : float
        By how much it must get better to count.
    """

    loss: str = LossConfig().description.replace(" ", "")
    class_weights: Optional[str] = None  # noqa: UP045 (cyclopts reads it as a type, see above)
    tversky_alpha: float = _LOSS["tversky_alpha"].default
    tversky_beta: float = _LOSS["tversky_beta"].default
    focal_gamma: float = _LOSS["focal_gamma"].default
    border_weight: float = _LOSS["border"].default
    border_sigma: float = _LOSS["border_sigma"].default
    own_grid: bool = False
    branch_loss: str = str(_LOSS["branch"].default)
    optimiser: OptimiserKind = "adamw"
    learning_rate: float = _OPTIMISER["learning_rate"].default
    branch_rates: Optional[str] = None  # noqa: UP045
    weight_decay: float = _OPTIMISER["weight_decay"].default
    momentum: Optional[float] = None  # noqa: UP045
    nesterov: bool = False
    schedule: Schedule = _OPTIMISER["schedule"].default
    factor: float = _OPTIMISER["factor"].default
    patience: int = _OPTIMISER["patience"].default
    monitor: Watched = "loss"
    warmup: int = 0
    clip: Optional[float] = None  # noqa: UP045
    accumulate: int = 1
    precision: Precision = "32"
    average: Averaging = _OPTIMISER["average"].default
    recalibrate: bool = False
    stop_after: Optional[int] = None  # noqa: UP045
    stop_metric: Watched = "iou"
    min_delta: float = _OPTIMISER["min_delta"].default

    def fields(self) -> dict[str, Any]:
        """The fields of a `TrainJob` that these options make.

        Raises
        ------
        MsunetError, pydantic.ValidationError
            If something cannot be used.
        """
        given: dict[str, Any] = {name: getattr(self, name) for name in _OF_LOSS}
        weights = LossConfig.model_validate(self.loss).model_dump(include=set(LossConfig.model_fields) - set(given))
        branch = _numbers("--branch-loss", self.branch_loss)
        weights |= given | {"border": self.border_weight, "branch": branch if len(branch) > 1 else branch[0]}
        if self.class_weights is not None:
            balanced = self.class_weights == "balanced"
            weights["class_weights"] = "balanced" if balanced else _numbers("--class-weights", self.class_weights)
        options: dict[str, Any] = {name: getattr(self, name) for name in _OF_OPTIMISER}
        options["kind"] = self.optimiser
        if self.branch_rates is not None:
            options["branch_rates"] = _numbers("--branch-rates", self.branch_rates)
        return super().fields() | {"loss": LossConfig(**weights), "optimiser": Optimiser(**options)}


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise MsunetError(f"{name} {text!r} cannot be used; give numbers with commas, such as 1,0.5.") from None
