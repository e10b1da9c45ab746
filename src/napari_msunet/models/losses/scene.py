"""What all losses look at: probabilities, the truth, and how much each pixel and class counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_msunet.constants import IGNORED

"""Value of target pixels that carry no loss."""

TINY = 1e-6
"""Keeps a mean over nothing at zero; small against one pixel."""


@dataclass
class Scene:
    """One output and its truth.

    Attributes
    ----------
    log_probabilities : (B, K+1, H, W) float32 Tensor
    target : (B, H, W) int64 Tensor
        Ignored pixels hold 0 here.
    counted : (B, H, W) bool Tensor
        Where the truth is known.
    class_weights : (K+1,) float32 Tensor
        Ones where all classes count the same.
    near : (B, H, W) float32 Tensor, optional
        The U-Net paper's border map: how much more a pixel weighs than its class.
    """

    log_probabilities: Tensor
    target: Tensor
    counted: Tensor
    class_weights: Tensor
    near: Tensor | None = None

    @classmethod
    def of(
        cls, logits: Tensor, target: Tensor, class_weights: Tensor | None = None, near: Tensor | None = None
    ) -> Scene:
        """From logits (or log-probabilities: those are the same to it) and a target with ignored pixels."""
        counted = target != IGNORED
        if class_weights is None:
            class_weights = torch.ones(logits.shape[1], device=logits.device)
        log_probabilities = F.log_softmax(logits.float(), dim=1)
        return cls(log_probabilities, torch.where(counted, target, 0), counted, class_weights, near)

    @cached_property
    def at_target(self) -> Tensor:
        """`(B, H, W)`: log-probability of the true class."""
        return self.log_probabilities.gather(1, self.target.unsqueeze(1)).squeeze(1)

    @cached_property
    def probabilities(self) -> Tensor:
        """`(B, K+1, H, W)`."""
        return self.log_probabilities.exp()

    @cached_property
    def one_hot(self) -> Tensor:
        """`(B, K+1, H, W)`: 1 at the true class of pixels that count."""
        truth = torch.zeros_like(self.log_probabilities)
        return truth.scatter_(1, self.target.unsqueeze(1), self.counted.unsqueeze(1).to(truth.dtype))

    @cached_property
    def pixel_weights(self) -> Tensor:
        """`(B, H, W)`: the class's weight plus the border map; 0 where ignored."""
        weights = self.class_weights[self.target]
        if self.near is not None:
            weights = weights + self.near
        return weights * self.counted

    def mean(self, values: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean of values over the pixels that count; zero with a gradient of zero where none does."""
        return torch.where(weights > 0, values * weights, 0.0).sum() / weights.sum().clamp_min(TINY)
