"""Options of a training: its windows, their random changes, the loss, and the optimiser."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from napari_msunet.config.base import Frozen, Option, Positive, Share
from napari_msunet.errors import ModelError

# ----------------------------------------------------------------------------------------------------------------------
# Where training windows are taken.

_WINDOWS = "Windows"


class Sampling(Frozen):
    """Where training windows are taken. Windows of neither share are drawn from all images in proportion to their
    size."""

    balance: Annotated[Share, Option("Balanced classes", _WINDOWS)] = 0.0
    """Share (0 to 1) of the windows that are placed on a pixel of a class drawn at random, where each class and
    background is equally likely. Raise it for rare classes and sparse annotations."""
    hard: Annotated[Share, Option("Hard examples", _WINDOWS)] = 0.0
    """Share (0 to 1) of the windows that are taken near places where the loss was high before. Leave it at 0 where the
    truth has errors, because these have the highest loss."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.balance + self.hard > 1:
            raise ValueError(f"balance {self.balance:g} and hard {self.hard:g} are shares: together at most 1")
        return self


# ----------------------------------------------------------------------------------------------------------------------
# Random changes of training windows.

Half = Annotated[float, Field(ge=0, le=0.5)]

_CHANGES = "Random changes"


class Augmentation(Frozen):
    """Random changes of training windows, one transform shared by all scales; a change of 0 is left out.

    Where it is given as text, such as ``"elastic=8,flip=no"``, changes that are not named keep their defaults.
    ``"none"`` means no change, and ``"none,blur=1"`` only that one.
    """

    flip: Annotated[bool, Option("Mirror and turn by quarters", _CHANGES)] = True
    """Mirror windows and turn them by quarters at random. Switch it off only where up and down differ in meaning."""
    rotate: Annotated[float, Field(ge=0, le=180), Option(group=_CHANGES, unit="°", step=5)] = 180.0
    """Largest random rotation in degrees."""
    scale: Annotated[float, Field(ge=0, le=1), Option("Zoom", _CHANGES, flag="--zoom")] = 0.2
    """Largest random change of size: with 0.2 factors are drawn from 1/1.2 to 1.2."""
    shift: Annotated[Half, Option(group=_CHANGES)] = 0.0
    """Largest random shift, as a share of the window's side."""
    shear: Annotated[float, Field(ge=0, le=45), Option(group=_CHANGES, unit="°", step=1)] = 0.0
    """Largest random shear in degrees."""
    elastic: Annotated[float, Field(ge=0, le=64), Option(group=_CHANGES, unit="px", step=1)] = 0.0
    """Largest local displacement in target pixels; it varies smoothly, over several times that length."""
    perspective: Annotated[Half, Option(group=_CHANGES)] = 0.0
    """Largest change of size from the window's middle to its edge, as if it were seen at a slant."""
    brightness: Annotated[Share, Option(group=_CHANGES)] = 0.2
    """Largest relative change of brightness, 0 to 1. Raise it for uneven scanners."""
    contrast: Annotated[Share, Option(group=_CHANGES)] = 0.2
    """Largest relative change of contrast, 0 to 1. Raise it for uneven scanners."""
    saturation: Annotated[Share, Option(group=_CHANGES)] = 0.2
    """Largest relative change of how colourful the image is (RGB only)."""
    stain: Annotated[Share, Option(group=_CHANGES)] = 0.25
    """Largest relative change of haematoxylin, eosin and residual in optical density (RGB only), 0 to 1. Raise it for
    slides of other laboratories."""
    blur: Annotated[float, Field(ge=0, le=8), Option(group=_CHANGES, unit="px")] = 0.0
    """Largest standard deviation of a Gaussian blur, in target pixels."""
    noise: Annotated[Half, Option(group=_CHANGES)] = 0.0
    """Largest standard deviation of added Gaussian noise, where white is 1."""
    jpeg: Annotated[Share, Option("JPEG", _CHANGES)] = 0.0
    """Strongest JPEG compression: 0.5 goes down to quality 50, 1 to quality 1."""
    cutout: Annotated[Half, Option("Cut-out", _CHANGES)] = 0.0
    """Largest side of a square that is hidden and carries no loss, as a share of the window's side."""
    cutmix: Annotated[Share, Option("CutMix", _CHANGES)] = 0.0
    """How often a rectangle of a window, with its truth, is replaced by that of another window of the batch."""
    mixup: Annotated[Half, Option("MixUp", _CHANGES)] = 0.0
    """Largest share of another window of the batch that is blended in; the loss counts both truths by their shares."""
    mirror: Annotated[Share, Option("Mirror left to right", _CHANGES)] = 0.0
    """Share (0 to 1) of the windows that are mirrored left to right, drawn for each; alone with flip=no, it is the only
    change of direction."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return parse_augmentation(given) if isinstance(given, str) else given

    @classmethod
    def none(cls) -> Augmentation:
        """No change at all."""
        return cls(flip=False, rotate=0, scale=0, brightness=0, contrast=0, saturation=0, stain=0)


def parse_augmentation(text: str) -> dict[str, Any]:
    """Changes from ``"elastic=8,flip=no"``, ``"none"`` or ``"none,blur=1"``.

    Raises
    ------
    ValueError
        If a part of the text names no change.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found: dict[str, Any] = Augmentation.none().model_dump() if parts[:1] == ["none"] else {}
    for part in parts[1:] if found else parts:
        name, equals, value = (p.strip() for p in part.partition("="))
        if name not in Augmentation.model_fields or not equals:
            raise ValueError(
                f"{part!r} cannot be used; give name=value with one of the names {', '.join(Augmentation.model_fields)}"
            )
        found[name] = value
    return found


# ----------------------------------------------------------------------------------------------------------------------
# The loss, which training minimises.

Weight: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]

TERMS = ("cross_entropy", "bce", "dice", "jaccard", "tversky", "focal", "boundary", "edge")
"""The losses that can be mixed; each is a field of `LossConfig`: its weight."""

_SHORT = {"ce": "cross_entropy"}
_PART = re.compile(r"(?:([0-9.]+(?:e-?[0-9]+)?)\s*\*?\s*)?([a-z_]+)")

_LOSS = "Loss"

BRANCH_WEIGHT = 0.4
"""Weight of each scale's own loss where none is given."""

BRANCH_LOSSES = {
    "off": ("On the combined output alone", "One loss, on the combined output: it alone trains all scales together."),
    "joint": (
        "Combined, and each scale's",
        "One loss on the combined output, and each scale's own loss times a weight. At 0 a scale's own output still "
        "learns, but its loss does not change the features below it.",
    ),
    "separate": (
        "Each scale by itself",
        "Each scale learns from its own loss alone, as if it were trained by itself; what combines them learns from "
        "the combined output, and changes nothing below it.",
    ),
}
"""The ways to train several scales: what each is called, and what it does."""


def _branch_loss(given: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """One sentence for any bad value, where pydantic would give one for each type of the union."""
    try:
        return check(BRANCH_WEIGHT if given == "joint" else given)
    except ValidationError:
        raise ValueError(
            f'{given!r} is no loss per scale; give "off" (on the combined output alone), "separate" (each scale by '
            "itself), or a weight from 0 such as 0.4, one for all or one for each scale"
        ) from None


BranchLoss: TypeAlias = Annotated[Literal["off", "separate"] | Weight | tuple[Weight, ...], WrapValidator(_branch_loss)]
"""How the scales are trained: by name, or by the weight of each scale's own loss beside that of the combined output."""

_NAMED_WEIGHTS = {"off": 0.0, "separate": 1.0}


class LossConfig(Frozen):
    """A weighted sum of losses on the fused output, and a weight on each branch's own.

    In a job file a sum may stand as text: ``"bce+dice"``, ``"bce+jaccard+dice"``, ``"0.5*focal+tversky"``.
    """

    cross_entropy: Annotated[Weight, Option("Cross-entropy", _LOSS, step=0.1)] = 1.0
    """Weight of the cross-entropy, a loss of each pixel."""
    bce: Annotated[Weight, Option("Binary CE", _LOSS, step=0.1)] = 0.0
    """Weight of the binary cross-entropy: each class against all others."""
    dice: Annotated[Weight, Option("Dice", _LOSS, step=0.1)] = 1.0
    """Weight of 1 - Dice, a loss of the overlap. Raise it for rare, small objects."""
    dice_of: Annotated[
        Literal["present", "foreground"],
        Option("Dice of", _LOSS, words={"present": "background and present classes", "foreground": "the classes only"}),
    ] = "present"
    """What the Dice is a mean of: background and the classes that the batch has (present), or classes 1 to K without
    background, also where the batch has none of them, as most published code computes it (foreground)."""
    dice_smooth: Annotated[Positive, Option("Dice smoothing", _LOSS, step=0.1)] = 2e-5
    """Added above and below the line of the Dice, ``(2 TP + s) / (P + T + s)``; 1 in much published code."""
    jaccard: Annotated[Weight, Option(group=_LOSS, step=0.1)] = 0.0
    """Weight of 1 - Jaccard."""
    tversky: Annotated[Weight, Option(group=_LOSS, step=0.1)] = 0.0
    """Weight of 1 - Tversky, an overlap that weights false and missed pixels differently."""
    tversky_alpha: Annotated[Share, Option(group=_LOSS)] = 0.3
    """How much false pixels count in the Tversky overlap."""
    tversky_beta: Annotated[Share, Option(group=_LOSS)] = 0.7
    """How much missed pixels count in the Tversky overlap."""
    focal: Annotated[Weight, Option(group=_LOSS, step=0.1)] = 0.0
    """Weight of the focal loss: cross-entropy in which easy pixels count less."""
    focal_gamma: Annotated[Weight, Option(group=_LOSS, step=0.1)] = 2.0
    """How much less easy pixels count in the focal loss; 0: all count the same."""
    boundary: Annotated[Weight, Option(group=_LOSS, step=0.01)] = 0.0
    """Weight of the boundary loss: probability times the signed distance (pixels) from the true outline. It goes below
    zero and has no optimum of its own for empty classes: combine it with an overlap. 0.01 is a usual weight."""
    edge: Annotated[Weight, Option(group=_LOSS, step=0.1)] = 0.0
    """Weight of the edge loss: the difference between the steps of the probabilities from pixel to pixel and the
    truth's."""
    border: Annotated[Weight, Option("Border weight", _LOSS, flag="--border-weight", step=1)] = 0.0
    """How much more weight background between two near objects gets (10 in the U-Net paper); 0: no more."""
    border_sigma: Annotated[Positive, Option("Border width", _LOSS, unit="px", step=1)] = 5.0
    """The distance at which two objects are near, in pixels of the loss's grid."""
    class_weights: Annotated[
        Literal["balanced"] | tuple[Weight, ...] | None,
        Option(group=_LOSS, example="balanced, or numbers with commas, such as 1,0.5"),
    ] = None
    """How much background and each class count: numbers with commas, or balanced, so that classes that are rare in the
    training images count more. Without it, all count the same."""
    branch: Annotated[
        BranchLoss,
        Option(
            "Loss per scale",
            _LOSS,
            flag="--branch-loss",
            words={name: words for name, (words, _) in BRANCH_LOSSES.items()},
            example="off, separate, or numbers with commas, such as 0.4 or 1,0.5",
        ),
    ] = BRANCH_WEIGHT
    """How several scales are trained. off: by one loss on the combined output alone. A weight (joint): by that loss and
    by each scale's own times its weight, one number for all, or one for each scale; at 0 a scale's own output still
    learns, but its loss does not change the features below it. separate: each scale by its own loss alone, what
    combines them by that of the combined output."""
    own_grid: Annotated[bool, Option("On the finest scale's own grid", _LOSS)] = False
    """Where all scales are below 1, compute the loss on the grid of the finest one instead of the model's: faster."""

    @property
    def branch_mode(self) -> Literal["off", "joint", "separate"]:
        """How several scales are trained, by its name in `BRANCH_LOSSES`."""
        return self.branch if isinstance(self.branch, str) else "joint"

    def branch_weights(self, scales: int) -> tuple[float, ...]:
        """The weight of each scale's own loss: 0 where it is off; `ModelError` where their number does not fit."""
        given = _NAMED_WEIGHTS[self.branch] if isinstance(self.branch, str) else self.branch
        weights = given if isinstance(given, tuple) else (given,) * scales
        if len(weights) != scales:
            raise ModelError(
                f"The loss has {len(weights)} branch weights for {scales} scales; give one for all, or one per scale."
            )
        return weights

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return parse_loss(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.terms:
            raise ValueError(
                f"all loss weights are zero: give one of {', '.join(TERMS)} a weight above zero",
            )
        if set(self.terms) <= {"boundary", "edge"}:
            raise ValueError(
                "boundary and edge alone cannot train a network: mix them with another loss, such as "
                '"dice+0.01*boundary"'
            )
        if self.border and not (self.cross_entropy or self.bce or self.focal):
            raise ValueError("the border weight acts on cross_entropy, bce or focal: give one of them a weight")
        if self.tversky and not self.tversky_alpha + self.tversky_beta:
            raise ValueError("tversky_alpha and tversky_beta are both zero: give one of them a value above zero")
        if isinstance(self.class_weights, tuple) and not any(self.class_weights):
            raise ValueError("all class weights are zero: give one of them a value above zero")
        return self

    @property
    def terms(self) -> dict[str, float]:
        """The losses that are summed, with their weights."""
        return {name: getattr(self, name) for name in TERMS if getattr(self, name) > 0}

    @property
    def description(self) -> str:
        """The sum as text that can be read back: ``"cross_entropy + dice"``."""
        return " + ".join(name if weight == 1 else f"{weight:g}*{name}" for name, weight in self.terms.items())


def parse_loss(text: str) -> dict[str, Any]:
    """The weights in a sum such as ``"bce+jaccard+dice"`` or ``"0.5*focal+tversky"``; losses not named get zero.

    The star may be left out, as in the help of the command line.

    Raises
    ------
    ValueError
        If the text is no such sum.
    """
    weights: dict[str, Any] = dict.fromkeys(TERMS, 0.0)
    for part in text.lower().split("+"):
        found = _PART.fullmatch(part.strip())
        name = _SHORT.get(found[2], found[2]) if found else ""
        if not found or name not in TERMS:
            raise ValueError(f"the loss {text!r} cannot be read: give a sum such as bce+dice of {', '.join(TERMS)}")
        try:
            weights[name] += float(found[1] or 1)
        except ValueError:
            raise ValueError(f"{found[1]!r} in the loss {text!r} is no number: write such as 0.5*focal") from None
    return weights


# ----------------------------------------------------------------------------------------------------------------------
# The numbers of a training, and those that decide when it ends and which model is kept.

METRICS = {
    "loss": "loss",
    "iou": "IoU",
    "dice": "Dice",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
}
"""What is measured at each epoch: name and what it is called. Scores are means over the classes; F1 is Dice."""

MetricName: TypeAlias = Literal["loss", "iou", "dice", "f1", "precision", "recall", "accuracy"]

FUSED, MEAN_OF_SCALES = "fused", "mean of scales"
"""The names of the combined output, and of the mean over the scales' own outputs, of which there are several."""

_WATCHED = re.compile(
    rf"(?:(train|validation)[ _])?({'|'.join(METRICS)})(?:[ _]({FUSED}|{MEAN_OF_SCALES}|scale [0-9]+(?:/[0-9]+)?))?"
)


class WatchedMetric(NamedTuple):
    """A number of each epoch that decides.

    Attributes
    ----------
    split : "train" or "validation", optional
        None: the validation, or the training where nothing validates.
    name : str
        One of `METRICS`.
    output : str
        "fused", "mean of scales", or a scale as "scale 1/2".
    """

    split: Literal["train", "validation"] | None
    name: str
    output: str

    @property
    def words(self) -> str:
        """What it is called in a sentence, such as "validation IoU of scale 1/2"."""
        of = (
            ""
            if self.output == FUSED
            else f" of the {self.output}"
            if self.output == MEAN_OF_SCALES
            else f" of {self.output}"
        )
        return f"{'training' if self.split == 'train' else 'validation'} {METRICS[self.name]}{of}"

    def height(self, value: float) -> float:
        """The value so that higher is better."""
        return -value if self.name == "loss" else value


def watched_metric(text: str) -> WatchedMetric:
    """The number of an epoch that a text names: ``"iou"``, ``"dice scale 1/2"``, ``"train_loss_fused"``.

    Raises
    ------
    ValueError
        If there is no such number.
    """
    found = _WATCHED.fullmatch(text.strip().lower())
    if not found:
        raise ValueError(
            f"{text!r} is no metric of a training; give one of {', '.join(METRICS)}, if wanted after train and before "
            f'an output, such as "iou", "dice scale 1/2", "train loss" or "f1 {MEAN_OF_SCALES}"'
        )
    split: Any = found[1]
    return WatchedMetric(split, found[2], found[3] or FUSED)


def _checked_metric(text: str) -> str:
    watched_metric(text)
    return text


# ----------------------------------------------------------------------------------------------------------------------
# The optimiser, its learning rates, and which weights are kept.

OptimiserKind: TypeAlias = Literal["adamw", "adam", "sgd", "rmsprop", "adagrad", "lbfgs"]
Schedule: TypeAlias = Literal["plateau", "cosine", "constant", "restarts", "one_cycle"]
Watched: TypeAlias = Annotated[str, AfterValidator(_checked_metric)]
"""A number of each epoch, as `watched_metric` reads it."""
Precision: TypeAlias = Literal["auto", "32", "bf16", "16"]
Averaging: TypeAlias = Literal["none", "ema", "swa"]

_Decay: TypeAlias = Annotated[float, Field(ge=0, lt=1)]

_LEARNING, _WEIGHTS = "Learning", "Which weights are kept"

_WATCHED_EXAMPLE = f'one of {", ".join(METRICS)}, alone or as in "dice scale 1/2" and "train loss"'


class Optimiser(Frozen):
    """An optimiser with a schedule, and when to stop early."""

    kind: Annotated[OptimiserKind, Option("Optimiser", _LEARNING, flag="--optimiser")] = "adamw"
    """The algorithm that changes the weights from their gradients. lbfgs is for very small sets and networks."""
    learning_rate: Annotated[Positive, Option(group=_LEARNING, step=1e-3)] = 3e-3
    """Size of a learning step after the warm-up; for one_cycle the highest one. Lower it (to a third) when the loss
    jumps; raise it when the loss hardly falls."""
    branch_rates: Annotated[
        tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None,
        Option("Rate per scale", _LEARNING, example="numbers with commas, such as 1,0.5"),
    ] = None
    """Factor on the learning rate of each scale's network, such as 1,0.1. A network with 0 stays as it is; with 0 for
    all, only the fusion learns."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False), Option(group=_LEARNING, step=0.01)] = 1e-2
    """Pull of convolution weights towards zero, against overfitting. Raise it with very little data."""
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
    """For adam and adamw: the decay of the running means of the gradients and of their squares."""
    memory: Annotated[_Decay, Option("RMSprop's memory", _LEARNING, flag="--rmsprop-memory")] = 0.99
    """For rmsprop: the decay of the running mean of the squared gradients (alpha; Keras calls it rho and has 0.9)."""
    iterations: Annotated[int, Option("L-BFGS iterations", _LEARNING, flag="--lbfgs-iterations")] = Field(4, ge=1)
    """For lbfgs: iterations on each batch."""
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
    """For plateau: the factor on the learning rate once the patience is over."""
    patience: Annotated[int, Field(ge=1), Option("Stalled after", _LEARNING, unit="epochs")] = 8
    """For plateau: epochs without a better validation before the learning rate is lowered."""
    threshold: Annotated[float, Field(ge=0), Option("Plateau threshold", _LEARNING, flag="--plateau-threshold")] = 1e-4
    """For plateau: by how much the validation must get better to count, relatively for the loss, absolutely for
    scores."""
    monitor: Annotated[Watched, Option("Plateau watches", _LEARNING, words=METRICS, example=_WATCHED_EXAMPLE)] = "loss"
    """For plateau: the number that it watches, of the validation if nothing else is said."""
    restart_epochs: Annotated[int, Option(group=_LEARNING, unit="epochs")] = Field(10, ge=1)
    """For restarts: epochs to the first restart."""
    restart_factor: Annotated[int, Option(group=_LEARNING)] = Field(2, ge=1)
    """For restarts: how many times as long each period is as the one before."""
    rise: Annotated[float, Field(gt=0, lt=1), Option("One-cycle rise", _LEARNING)] = 0.3
    """For one_cycle: share of the training in which the learning rate rises."""
    warmup: Annotated[int, Option(group=_LEARNING, unit="steps")] = Field(0, ge=0)
    """Steps in which the learning rate rises from nearly zero, with any schedule."""
    clip: Annotated[Positive | None, Option("Clip gradient", _LEARNING)] = None
    """Largest norm of the gradient; a larger one is scaled down."""
    accumulate: Annotated[int, Option(group=_LEARNING, unit="batches")] = Field(1, ge=1)
    """Batches whose gradients are added up for one step of the optimiser."""
    precision: Annotated[Precision, Option(group=_LEARNING, words={"auto": "measured"})] = "32"
    """32, or mixed precision: bf16 or 16 (bfloat16 on a processor). auto: with a time limit, a few steps on the
    processor show whether bf16 is faster; else 32."""
    average: Annotated[Averaging, Option(group=_WEIGHTS)] = "ema"
    """Which weights are validated and kept: those of the last step (none), their exponential moving average (ema), or
    the mean over the ends of the last epochs (swa)."""
    average_decay: Annotated[_Decay, Option(group=_WEIGHTS)] = 0.99
    """For ema: how much of the average stays at each step; less in the first steps."""
    average_from: Annotated[Share, Option(group=_WEIGHTS)] = 0.75
    """For swa: share of the training after which averaging begins."""
    recalibrate: Annotated[bool, Option("Re-estimate batch norm", _WEIGHTS)] = False
    """Re-estimate batch-norm statistics on training windows before each validation. For averaged weights this is always
    done."""
    stop_after: Annotated[
        Annotated[int, Field(ge=1)] | None, Option("Stop after", _WEIGHTS, unit="epochs", none="automatic")
    ] = None
    """Epochs without a better validation before training ends; without it, 25, or with a time limit no number of them
    ends it."""
    stop_metric: Annotated[Watched, Option(group=_WEIGHTS, words=METRICS, example=_WATCHED_EXAMPLE)] = "iou"
    """The number that early stopping watches, of the validation if nothing else is said."""
    min_delta: Annotated[float, Field(ge=0), Option("Least gain", _WEIGHTS)] = 1e-4
    """By how much the validation must get better to count."""
    stop_loss: Annotated[
        Annotated[float, Field(allow_inf_nan=False)] | None,
        Option("Stop below a loss of", _WEIGHTS, none="never", example="a number such as 0.05"),
    ] = None
    """Training ends after an epoch whose loss (of the validation, or of the training where nothing validates) is below
    this, which is a line in the curve of the loss."""
    best_metric: Annotated[Watched, Option("Best model by", _WEIGHTS, words=METRICS, example=_WATCHED_EXAMPLE)] = "iou"
    """The number that decides which epoch's model is kept, of the validation if nothing else is said, a mean over five
    epochs; where two are equal, the one with the lower loss."""

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
