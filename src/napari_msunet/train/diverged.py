"""A loss that is no number any more: at which step, and why."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from napari_msunet.config import Optimiser
from napari_msunet.errors import MsunetError

_LOOK_EVERY = 16
"""On a GPU, looking at each loss would wait for all work under way."""


class DivergedError(MsunetError):
    """The loss is no number any more."""


class Guard:
    """Looks at the loss of each step, and says what is wrong when it is no number.

    Parameters
    ----------
    model : nn.Module
    options : Optimiser
    """

    def __init__(self, model: nn.Module, options: Optimiser) -> None:
        self.model = model
        self.options = options
        self._waiting: list[tuple[int, Tensor]] = []

    def add(self, step: int, epoch: int, loss: Tensor, inputs: Sequence[Tensor]) -> None:
        """Look at a step's loss: at once on a CPU, else with the next ones.

        Raises
        ------
        DivergedError
            If it, or one before it, is infinite or no number.
        """
        self._waiting.append((step, loss.detach()))
        if loss.device.type == "cpu" or len(self._waiting) >= _LOOK_EVERY:
            self.look(epoch, inputs)

    def look(self, epoch: int, inputs: Sequence[Tensor] = ()) -> None:
        """Look at what waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        losses = torch.stack([loss for _, loss in waiting]).cpu()
        if bool(losses.isfinite().all()):
            return
        first = int((~losses.isfinite()).nonzero()[0, 0])
        raise DivergedError(
            f"The loss became {float(losses[first])} at step {waiting[first][0]} (epoch {epoch}): {self._why(inputs)}. "
            "Training stopped, and the best model before is kept."
        )

    def _why(self, inputs: Sequence[Tensor]) -> str:
        """The reason and the remedy, as a part of a sentence."""
        if any(not bool(x.isfinite().all()) for x in inputs):
            return "an image of this batch holds values that are no numbers; look for damaged images"
        rate = self.options.learning_rate
        if any(not bool(p.isfinite().all()) for p in self.model.parameters()):
            return (
                "the weights had stopped being numbers in the step before; try a smaller learning rate than "
                f"{rate:g}, or clip the gradient"
            )
        precision = ", or precision 32 or bf16" if self.options.precision == "16" else ""
        return (
            "the images and the weights are numbers, but the network's output is too large for them; try a smaller "
            f"learning rate than {rate:g}{precision}, and look for images unlike the others"
        )
