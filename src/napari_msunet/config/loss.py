"""What training makes small."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from napari_msunet.config.base import Frozen, Positive, Share

Weight: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]

TERMS = ("cross_entropy", "bce", "dice", "jaccard", "tversky", "focal", "boundary", "edge")
"""The losses that can be mixed; each is a field of `LossConfig`: its weight."""

_SHORT = {"ce": "cross_entropy"}
_PART = re.compile(r"(?:([0-9.]+(?:e-?[0-9]+)?)\s*\*?\s*)?([a-z_]+)")


class LossConfig(Frozen):
    """A weighted sum of losses on the fused output, and a weight on each branch's own.

    In a job file a sum may stand as text: ``"bce+dice"``, ``"bce+jaccard+dice"``, ``"0.5*focal+tversky"``.

    Attributes
    ----------
    cross_entropy : float
        Weight of the cross-entropy.
    bce : float
        Weight of the binary cross-entropy: each class against all others.
    dice, jaccard : float
        Weights of 1 - Dice and of 1 - Jaccard.
    tversky : float
        Weight of 1 - Tversky, the overlap that counts false pixels by `tversky_alpha` and missed ones by
        `tversky_beta`.
    tversky_alpha, tversky_beta : float
        How much false and how much missed pixels count in the Tversky overlap.
    focal : float
        Weight of the focal loss: cross-entropy that looks away from easy pixels, the more the larger `focal_gamma`.
    focal_gamma : float
        How much the focal loss looks away from easy pixels; 0: not at all.
    boundary : float
        Weight of the boundary loss: probability times the signed distance (pixels) from the true outline. It goes
        below zero and has no own optimum for empty classes: mix it with an overlap; 0.01 is a usual weight.
    edge : float
        Weight of the edge loss: how much the probabilities' steps between neighbours differ from the truth's.
    border : float
        How much more background pixels between two near objects weigh (the U-Net paper has 10); 0: no more.
    border_sigma : float
        How near is near, in pixels of the loss's grid.
    class_weights : "balanced" or tuple of float, optional
        How much each class counts, background first. "balanced": the rarer in the training images, the more.
    branch : float or tuple of float
        Weight of each branch's own loss. At 0 a branch's head still learns, on detached features.
    own_grid : bool
        Where all scales are below 1, compute the loss on the grid of the finest branch instead of the target's: faster.
    """

    cross_entropy: Weight = 1.0
    bce: Weight = 0.0
    dice: Weight = 1.0
    jaccard: Weight = 0.0
    tversky: Weight = 0.0
    tversky_alpha: Share = 0.3
    tversky_beta: Share = 0.7
    focal: Weight = 0.0
    focal_gamma: Weight = 2.0
    boundary: Weight = 0.0
    edge: Weight = 0.0
    border: Weight = 0.0
    border_sigma: Positive = 5.0
    class_weights: Literal["balanced"] | tuple[Weight, ...] | None = None
    branch: Weight | tuple[Weight, ...] = 0.4
    own_grid: bool = False

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
