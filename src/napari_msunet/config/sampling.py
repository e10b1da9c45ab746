"""Where training windows are taken."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import model_validator

from napari_msunet.config.base import Frozen, Share
from napari_msunet.config.option import Option

_GROUP = "Windows"


class Sampling(Frozen):
    """Where training windows are taken. What is left of the shares goes to all images as their size has it."""

    balance: Annotated[Share, Option("Balanced classes", _GROUP)] = 0.0
    """Share (0 to 1) of the windows that lie on a place of a class drawn at random, each class and background as often
    as the others: for rare classes and sparse annotations."""
    hard: Annotated[Share, Option("Hard examples", _GROUP)] = 0.0
    """Share (0 to 1) of the windows that are taken again near places where the loss was high. Leave it at 0 where the
    truth has errors: they have the highest loss."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.balance + self.hard > 1:
            raise ValueError(f"balance {self.balance:g} and hard {self.hard:g} are shares: together at most 1")
        return self
