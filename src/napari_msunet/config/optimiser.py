"""How training makes it small: the optimiser, its schedule, and when to stop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from napari_msunet.config.base import Frozen, Positive


class Optimiser(Frozen):
    """AdamW with a schedule, and when to stop early.

    Attributes
    ----------
    schedule : str
        "plateau" (halve the learning rate after `patience` epochs without a better validation loss), "cosine" or
        "constant".
    stop_after : int
        Epochs without a better validation IoU before training stops.
    """

    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    schedule: Literal["plateau", "cosine", "constant"] = "plateau"
    patience: Annotated[int, Field(ge=1)] = 8
    stop_after: Annotated[int, Field(ge=1)] = 25
