"""Which weights are validated and kept: the last ones or an average, with batch-norm statistics that fit them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from napari_msunet.config import Optimiser
from napari_msunet.models import MSUNet

_FOLLOWING = (nn.BatchNorm2d, nn.SyncBatchNorm)
"""Layers whose statistics follow the batches and change nothing else in training."""

Inputs = Sequence[Sequence[Tensor]]
"""Batches of inputs, each one tensor per scale."""


class Average(nn.Module):
    """An average of a model's weights over a training; kept in the checkpoint as any other module.

    Parameters
    ----------
    model : MSUNet
        In training.
    options : Optimiser
        "ema": after each step, ``average = d * average + (1 - d) * weights`` with ``d = min(average_decay,
        (1 + n) / (10 + n))`` at step n, so that the first steps are soon forgotten. "swa": the mean over the ends of
        epochs (Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018).
    """

    count: Tensor

    def __init__(self, model: MSUNet, options: Optimiser) -> None:
        super().__init__()
        self.options = options
        self.model = deepcopy(model).requires_grad_(False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, model: MSUNet) -> None:
        """Take in the weights as they are now."""
        number = int(self.count)
        if self.options.average == "swa":
            new = 1 / (number + 1)
        else:
            new = 1 - min(self.options.average_decay, (1 + number) / (10 + number))
        mean = [p.detach() for p in self.model.parameters()]
        weights = [p.detach() for p in model.parameters()]
        if number == 0:
            torch._foreach_copy_(mean, weights)
        else:
            torch._foreach_lerp_(mean, weights, new)
        for kept, now in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(now)
        self.count += 1


@torch.no_grad()
def recalibrate(model: MSUNet, batches: Inputs, run: Callable[[MSUNet, Sequence[Tensor]], object]) -> int:
    """Set the running statistics of batch normalisation to the means over these batches, at the weights as they are.

    In training, statistics follow weights that change at each step; after few steps, or for averages of weights that
    never saw an image, they do not fit.

    Parameters
    ----------
    model : MSUNet
        Its modes are put back.
    batches : sequence of sequences of tensors
    run : callable
        Puts a batch through the model.

    Returns
    -------
    int
        How many layers have new statistics.
    """
    modes = {module: module.training for module in model.modules()}
    layers = [m for m in modes if isinstance(m, _BatchNorm) and type(m) in _FOLLOWING]
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over the batches
        layer.train()
    try:
        for inputs in batches:
            run(model, inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return len(layers)
