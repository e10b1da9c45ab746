"""Optimisers and learning-rate schedules, made from their config."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from napari_msunet.config import Optimiser
from napari_msunet.config.training import watched_metric
from napari_msunet.errors import ModelError
from napari_msunet.models import MSUNet

# ----------------------------------------------------------------------------------------------------------------------
# The weights that are validated and kept: the last ones or an average.


class Average(nn.Module):
    """An average of a model's weights over a training; it is kept in the checkpoint like any other module.

    Parameters
    ----------
    model : MSUNet
        The model in training.
    options : Optimiser
        "ema": after each step, ``average = d * average + (1 - d) * weights`` with ``d = min(average_decay,
        (1 + n) / (10 + n))`` at step n, so that the first steps are soon forgotten. "swa": the mean over the ends of
        epochs (Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018).
    """

    # As `torch.optim.swa_utils.AveragedModel`, under the names that checkpoints of trainings under way have.
    count: Tensor

    def __init__(self, model: MSUNet, options: Optimiser) -> None:
        super().__init__()
        self.options = options
        self.model = deepcopy(model).requires_grad_(False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, model: MSUNet) -> None:
        """Add the present weights to the average."""
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


# ----------------------------------------------------------------------------------------------------------------------
# The optimiser and its learning-rate schedule.

_ONE_CYCLE_START, _ONE_CYCLE_END = 1 / 25, 1 / 250_000
_LBFGS_HISTORY = 10

Number = Callable[[], float]


def make_optimiser(model: MSUNet, options: Optimiser) -> torch.optim.Optimizer:
    """The optimiser of a model's parameters.

    Weight decay is for the weights of convolutions, not for biases and normalisation. A scale whose rate is 0 is frozen
    here: its parameters get no gradient any more.

    Raises
    ------
    ModelError
        If the branch rates do not fit the scales.
    """
    groups = _groups(model, options)
    if not groups:
        raise ModelError(
            f"All branch rates are zero, and the fusion {model.config.fusion!r} has nothing to learn; give a "
            "rate above zero, or another fusion."
        )
    rate, kind = options.learning_rate, options.kind
    if kind == "lbfgs":
        parameters = [p for group in groups for p in group["params"]]
        for parameter in parameters:  # PyTorch's L-BFGS cannot view channels-last gradients as one vector
            parameter.data = parameter.data.contiguous()
        return torch.optim.LBFGS(
            parameters,
            lr=rate,
            max_iter=options.iterations,
            history_size=_LBFGS_HISTORY,
            line_search_fn="strong_wolfe",
        )
    if kind == "sgd":
        momentum = 0.9 if options.momentum is None else options.momentum
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=options.nesterov)
    if kind == "rmsprop":
        return torch.optim.RMSprop(groups, lr=rate, alpha=options.memory, momentum=options.momentum or 0.0)
    if kind == "adagrad":
        return torch.optim.Adagrad(groups, lr=rate)
    if kind == "adam":
        return torch.optim.Adam(groups, lr=rate, betas=options.betas)
    return torch.optim.AdamW(groups, lr=rate, betas=options.betas)


def _groups(model: MSUNet, options: Optimiser) -> list[dict[str, Any]]:
    """Parameters by learning rate and by whether they decay."""
    groups: list[dict[str, Any]] = []
    for factor, parameters in _by_rate(model, options).items():
        for parameter in parameters:
            parameter.requires_grad_(factor > 0)
        if factor == 0:
            continue
        sorts = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
        for some, decay in zip(sorts, (options.weight_decay, 0.0), strict=True):
            if some:
                groups.append({"params": some, "weight_decay": decay, "lr": options.learning_rate * factor})
    return groups


def _by_rate(model: MSUNet, options: Optimiser) -> dict[float, list[nn.Parameter]]:
    """Parameters by the factor on their learning rate."""
    if options.branch_rates is None:
        return {1.0: list(model.parameters())}
    rates, scales = options.branch_rates, len(model.config.scales)
    if len(rates) != scales:
        raise ModelError(f"{len(rates)} branch rates were given for {scales} scales; give one for each scale.")
    if len(model.branches) != scales and len(set(rates)) > 1:
        raise ModelError("The scales share one network, so they have one learning rate; give equal branch rates.")
    of: dict[int, float] = {}
    for branch, rate in zip(model.branches, rates, strict=False):
        of |= {id(p): float(rate) for p in branch.parameters()}
    for i, stem in model.stems.items():
        of |= {id(p): float(rates[int(i)]) for p in stem.parameters()}
    sorted_: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        sorted_.setdefault(of.get(id(parameter), 1.0), []).append(parameter)
    return sorted_


def decay_of(parameters: Iterable[Tensor], options: Optimiser) -> Tensor | float:
    """The term to add to the loss for L-BFGS, which has no weight decay: half the squared norm times the decay."""
    if options.kind != "lbfgs" or not options.weight_decay:
        return 0.0
    return options.weight_decay / 2 * torch.stack([p.square().sum() for p in parameters if p.ndim > 1]).sum()


def make_schedule(
    options: Optimiser, optimiser: torch.optim.Optimizer, fraction: Number, steps_per_epoch: Number
) -> ReduceLROnPlateau | LambdaLR | None:
    """The schedule of the learning rate; None where it never changes.

    Parameters
    ----------
    options : Optimiser
    optimiser : torch Optimizer
        The optimiser, whose rates are multiplied.
    fraction : callable
        Gives the fraction of the training that is over, 0 to 1.
    steps_per_epoch : callable
        Gives the steps of the optimiser in an epoch.
    """
    if options.schedule == "plateau":
        watches_loss = watched_metric(options.monitor).name == "loss"
        return ReduceLROnPlateau(
            optimiser,
            mode="min" if watches_loss else "max",
            factor=options.factor,
            patience=options.patience,
            threshold=options.threshold,
            threshold_mode="rel" if watches_loss else "abs",
        )
    if options.schedule == "constant" and not options.warmup:
        return None

    def factor(step: int) -> float:
        share = warm(step, options.warmup)
        if options.schedule == "cosine":
            return share * falling(fraction())
        if options.schedule == "one_cycle":
            return share * one_cycle(fraction(), options.rise)
        if options.schedule == "restarts":
            return share * restarts(step / steps_per_epoch(), options.restart_epochs, options.restart_factor)
        return share

    return LambdaLR(optimiser, factor)


def warm(step: int, warmup: int) -> float:
    """The factor on the learning rate in a step of the warm-up, which rises linearly to 1."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def falling(fraction: float) -> float:
    """Half a cosine, from 1 at 0 to 0 at 1 (Loshchilov and Hutter, "SGDR", ICLR 2017, eq. 5)."""
    return (1 + cos(pi * fraction)) / 2


def restarts(epochs: float, first: int, factor: int) -> float:
    """Cosines from 1 to 0, one after the other, each `factor` times as long as the one before ("SGDR")."""
    length = float(first)
    while epochs >= length:
        epochs, length = epochs - length, length * factor
    return falling(epochs / length)


def one_cycle(fraction: float, rise: float) -> float:
    """From 1/25 up to 1 in a share `rise` of the time, then down to nearly 0, by cosines (Smith and Topin 2018)."""
    if fraction < rise:
        return 1 - (1 - _ONE_CYCLE_START) * falling(fraction / rise)
    down = falling((fraction - rise) / (1 - rise))
    return _ONE_CYCLE_END + (1 - _ONE_CYCLE_END) * down
