"""Places where the training loss was high, so that they are drawn again: a bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_msunet.data.masks import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

Place = tuple[int, int, int]
"""Number of the item, and y, x of a window's corner in pixels of its target grid."""

_FADES = 0.995  # of what was seen n batches ago counts this to the power of n: the model has learned since


class HardPlaces:
    """The windows with the highest losses, at most `limit`.

    A window that is drawn again gets the loss it has then, so what was learned goes out by itself.

    Parameters
    ----------
    limit : int
    """

    def __init__(self, limit: int = 2048) -> None:
        self.limit = limit
        self._losses: dict[Place, float] = {}
        self._scale = 1.0  # instead of fading all at each batch, what is new weighs more

    def __len__(self) -> int:
        return len(self._losses)

    def add(self, places: Sequence[Place], losses: Sequence[float]) -> None:
        """Take note of the windows of a batch; losses that are no number (nothing was known) are left out."""
        self._scale /= _FADES
        for place, loss in zip(places, losses, strict=True):
            if np.isfinite(loss) and loss > 0:
                self._losses[place] = loss * self._scale
        if len(self._losses) > self.limit:
            kept = sorted(self._losses.items(), key=lambda entry: -entry[1])[: self.limit]
            self._losses = dict(kept)
        if self._scale > 1e100:
            self._losses = {place: loss / self._scale for place, loss in self._losses.items()}
            self._scale = 1.0

    def draw(self, rng: np.random.Generator, items: Sequence[int] | None = None) -> Place | None:
        """A place, the likelier the higher its loss, of some items only where they are given; None where there is none.

        Places whose loss is below the mean are not drawn: what is drawn should be hard.
        """
        wanted = None if items is None else set(items)
        known = [(p, v) for p, v in self._losses.items() if wanted is None or p[0] in wanted]
        if not known:
            return None
        losses = np.array([v for _, v in known])
        losses = np.where(losses >= losses.mean() - 1e-12, losses, 0.0)
        return known[int(rng.choice(len(known), p=losses / losses.sum()))][0]


def window_losses(logits: Tensor, target: Tensor) -> list[float]:
    """The mean cross-entropy of each window's known pixels; NaN where nothing is known.

    Parameters
    ----------
    logits : (B, K+1, H, W) tensor
    target : (B, H, W) tensor
    """
    import torch
    from torch.nn.functional import cross_entropy

    with torch.no_grad():
        losses = cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="none").sum((1, 2))
        found: list[float] = (losses / (target != IGNORED).sum((1, 2))).tolist()
    return found
