"""Normalisation layers: batch, batch renormalisation, slide. All use fixed statistics for inference, so tiles are exact
and convolutions can take them up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.config.branches import Norm

PLAIN_STEPS = 200
"""Training steps in which batch renormalisation is batch normalisation."""

RELAXED_STEPS = 1000
"""Training steps after which its limits are as wide as they get."""

MOST_R, MOST_D = 3.0, 5.0


class BatchRenorm(nn.BatchNorm2d):
    """Batch renormalisation: in training, what the running statistics would give, with the gradients of batch norm.

    The batch's result is multiplied by r = batch deviation / running deviation and d = (batch mean - running mean) /
    running deviation is added, both without gradient and within limits that widen with the steps.

    References
    ----------
    Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models", NeurIPS 2017;
    its limits 3 and 5, reached after fewer steps, since our trainings are shorter.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def limits(self) -> tuple[Tensor, Tensor]:
        """The largest r and d at this step; tensors, so that a GPU need not be waited for."""
        share = ((self.num_batches_tracked - PLAIN_STEPS) / (RELAXED_STEPS - PLAIN_STEPS)).clamp(0, 1)
        return 1 + share * (MOST_R - 1), share * MOST_D

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)`, normalised for each channel."""
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
            most_r, most_d = self.limits()
            deviation = torch.sqrt(self.running_var + self.eps)
            r = (torch.sqrt(var + self.eps) / deviation).clamp(1 / most_r, most_r)
            d = ((mean - self.running_mean) / deviation).clamp(-most_d, most_d)
            r, d = r.to(x.dtype).view(1, -1, 1, 1), d.to(x.dtype).view(1, -1, 1, 1)
        plain = F.batch_norm(x, self.running_mean, self.running_var, None, None, True, self.momentum or 0.1, self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
        weight, bias = self.weight.view(1, -1, 1, 1), self.bias.view(1, -1, 1, 1)
        return plain * (r * weight) + (d * weight + bias)


class SlideNorm(nn.BatchNorm2d):
    """Slide normalisation: as instance normalisation, but of a whole slide.

    In training the statistics are those of the batch, whose windows come from one slide. For a prediction they are
    taken once from a sample of the slide (`infer.slide_statistics`) and become the running statistics; without a slide,
    the running ones are the mean over the training.
    """

    borrowed = False
    """Whether the batch's own statistics are used though nothing is learned: in validation; see `of_the_batch`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)`, normalised for each channel."""
        if self.training or not self.borrowed:
            return super().forward(x)
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


@contextmanager
def of_the_batch(module: nn.Module) -> Iterator[None]:
    """Inside, slide normalisation in evaluation mode uses the statistics of each batch and keeps none of them."""
    layers = [m for m in module.modules() if isinstance(m, SlideNorm)]
    for layer in layers:
        layer.borrowed = True
    try:
        yield
    finally:
        for layer in layers:
            layer.borrowed = False


NORMS: dict[Norm, type[nn.BatchNorm2d]] = {"batch": nn.BatchNorm2d, "renorm": BatchRenorm, "slide": SlideNorm}


def norm_of(name: Norm, channels: int) -> nn.BatchNorm2d:
    """The layer of this name."""
    return NORMS[name](channels)
