"""What training makes small."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from napari_msunet.config.base import Frozen, Positive, Share
from napari_msunet.config.option import Option
from napari_msunet.errors import ModelError

Weight: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]

TERMS = ("cross_entropy", "bce", "dice", "jaccard", "tversky", "focal", "boundary", "edge")
"""The losses that can be mixed; each is a field of `LossConfig`: its weight."""

_SHORT = {"ce": "cross_entropy"}
_PART = re.compile(r"(?:([0-9.]+(?:e-?[0-9]+)?)\s*\*?\s*)?([a-z_]+)")

_GROUP = "Loss"


class LossConfig(Frozen):
    """A weighted sum of losses on the fused output, and a weight on each branch's own.

    In a job file a sum may stand as text: ``"bce+dice"``, ``"bce+jaccard+dice"``, ``"0.5*focal+tversky"``.
    """

    cross_entropy: Annotated[Weight, Option("Cross-entropy", _GROUP, step=0.1)] = 1.0
    """Weight of the cross-entropy, the loss that counts each pixel."""
    bce: Annotated[Weight, Option("Binary CE", _GROUP, step=0.1)] = 0.0
    """Weight of the binary cross-entropy: each class against all others."""
    dice: Annotated[Weight, Option("Dice", _GROUP, step=0.1)] = 1.0
    """Weight of 1 - Dice, the loss that counts overlap. Raise it for rare, small objects."""
    jaccard: Annotated[Weight, Option(group=_GROUP, step=0.1)] = 0.0
    """Weight of 1 - Jaccard."""
    tversky: Annotated[Weight, Option(group=_GROUP, step=0.1)] = 0.0
    """Weight of 1 - Tversky, the overlap that counts false and missed pixels differently."""
    tversky_alpha: Annotated[Share, Option(group=_GROUP)] = 0.3
    """How much false pixels count in the Tversky overlap."""
    tversky_beta: Annotated[Share, Option(group=_GROUP)] = 0.7
    """How much missed pixels count in the Tversky overlap."""
    focal: Annotated[Weight, Option(group=_GROUP, step=0.1)] = 0.0
    """Weight of the focal loss: cross-entropy that looks away from easy pixels."""
    focal_gamma: Annotated[Weight, Option(group=_GROUP, step=0.1)] = 2.0
    """How much the focal loss looks away from easy pixels; 0: not at all."""
    boundary: Annotated[Weight, Option(group=_GROUP, step=0.01)] = 0.0
    """Weight of the boundary loss: probability times the signed distance (pixels) from the true outline. It goes below
    zero and has no own optimum for empty classes: mix it with an overlap; 0.01 is a usual weight."""
    edge: Annotated[Weight, Option(group=_GROUP, step=0.1)] = 0.0
    """Weight of the edge loss: how much the probabilities' steps between neighbours differ from the truth's."""
    border: Annotated[Weight, Option("Border weight", _GROUP, flag="--border-weight", step=1)] = 0.0
    """How much more background between two near objects weighs (the U-Net paper has 10); 0: no more."""
    border_sigma: Annotated[Positive, Option("Border width", _GROUP, unit="px", step=1)] = 5.0
    """How near is near, in pixels of the loss's grid."""
    class_weights: Annotated[
        Literal["balanced"] | tuple[Weight, ...] | None,
        Option(group=_GROUP, example="balanced, or numbers with commas, such as 1,0.5"),
    ] = None
    """How much background and each class count: numbers with commas, or balanced: the rarer in the training images, the
    more. Without it all count the same."""
    branch: Annotated[
        Weight | tuple[Weight, ...],
        Option("Loss per scale", _GROUP, flag="--branch-loss", example="numbers with commas, such as 1,0.5"),
    ] = 0.4
    """Weight of each scale's own loss beside the fused one's: one number for all, or one for each scale. At 0 a scale's
    own output still learns, but only from features that it does not change."""
    own_grid: Annotated[bool, Option("On the finest scale's own grid", _GROUP)] = False
    """Where all scales are below 1, compute the loss on the grid of the finest one instead of the model's: faster."""

    def branch_weights(self, scales: int) -> tuple[float, ...]:
        """The weight of each of so many scales' own loss; `ModelError` where there are not as many."""
        weights = self.branch if isinstance(self.branch, tuple) else (self.branch,) * scales
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
    """The weights in a sum such as ``"bce+jaccard+dice"`` or ``"0.5*focal+tversky"``; those not named are zero.

    The star may be left out, as command-line help does.

    Raises
    ------
    ValueError
        If it is no such sum.
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
