"""Where training windows are taken."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from napari_msunet.config.base import Frozen, Share


class Sampling(Frozen):
    """Where training windows are taken. What is left of the shares goes to all images as their size has it.

    Attributes
    ----------
    balance : float
        Share of the windows that lie on a place of a class drawn at random, each class and background as often as the
        others: for rare classes and sparse annotations.
    hard : float
        Share of the windows that are taken again near places where the loss was high. Leave it at 0 where the truth has
        errors: they have the highest loss.
    """

    balance: Share = 0.0
    hard: Share = 0.0

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.balance + self.hard > 1:
            raise ValueError(f"balance {self.balance:g} and hard {self.hard:g} are shares: together at most 1")
        return self
