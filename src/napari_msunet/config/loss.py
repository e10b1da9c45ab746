"""What training makes small."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from napari_msunet.config.base import Frozen


class LossConfig(Frozen):
    """Cross-entropy + Dice on the fused output, and a weight on each branch's own.

    At a weight of 0 a branch's head still learns, on detached features.
    """

    cross_entropy: Annotated[float, Field(ge=0)] = 1.0
    dice: Annotated[float, Field(ge=0)] = 1.0
    branch: Annotated[float, Field(ge=0)] | tuple[Annotated[float, Field(ge=0)], ...] = 0.4

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.cross_entropy + self.dice <= 0:
            raise ValueError("both loss weights are zero: give cross_entropy or dice a weight above zero")
        return self
