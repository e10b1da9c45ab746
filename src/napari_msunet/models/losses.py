"""Cross-entropy and soft Dice on the fused output and on each branch's own, without the ignored pixels."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.config import LossConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import as_scale

IGNORED = 255
"""Value of target pixels that carry no loss."""

SMOOTH = 1e-5
"""Keeps Dice defined; small against one pixel."""


def segmentation_loss(logits: Tensor, target: Tensor, cross_entropy: float = 1.0, dice: float = 1.0) -> Tensor:
    """``cross_entropy * CE + dice * (1 - Dice)`` over the pixels that are not ignored.

    CE is the mean over pixels. Dice of a class c is ``2 sum(p_c t_c) / (sum(p_c) + sum(t_c))`` over all pixels of the
    batch; its mean goes over background and those classes that have pixels in the batch.

    Parameters
    ----------
    logits : (B, K+1, H, W) Tensor
        Logits, or log-probabilities: those are the same to it.
    target : (B, H, W) int64 Tensor
        0 background, 1..K classes, `IGNORED` no loss.
    cross_entropy, dice : float
        Weights of the two terms.

    Returns
    -------
    () Tensor
        Zero, with a gradient of zero, if all pixels are ignored.

    References
    ----------
    Milletari et al., "V-Net", 3DV 2016, with the denominator not squared.
    """
    counted = target != IGNORED
    safe = torch.where(counted, target, 0)
    log_probabilities = F.log_softmax(logits.float(), dim=1)
    at_target = log_probabilities.gather(1, safe.unsqueeze(1)).squeeze(1)
    total = log_probabilities.new_zeros(())
    if cross_entropy > 0:
        mean = torch.where(counted, at_target, 0.0).sum() / counted.sum().clamp(min=1)
        total = total - cross_entropy * mean
    if dice > 0:
        total = total + dice * _dice_loss(log_probabilities, at_target, safe, counted)
    return total


def _dice_loss(log_probabilities: Tensor, at_target: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """1 - the mean soft Dice of the classes that have pixels."""
    outputs = log_probabilities.shape[1]
    weights = counted.flatten().to(log_probabilities.dtype)
    zeros = log_probabilities.new_zeros(outputs)
    pixels = zeros.index_add(0, target.flatten(), weights)
    common = zeros.index_add(0, target.flatten(), at_target.exp().flatten() * weights)
    predicted = (log_probabilities.exp() * counted.unsqueeze(1)).sum(dim=(0, 2, 3))
    dice = (2 * common + SMOOTH) / (predicted + pixels + SMOOTH)
    present = (pixels > 0).to(dice.dtype)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


class SegmentationLoss(nn.Module):
    """The loss of a multi-scale model: the fused output's, plus each branch's times its weight.

    A branch of weight 0 counts fully, on logits from detached features (give `detach` to `MSUNet.outputs`): then only
    its head learns from it, and its scores always mean something.

    Parameters
    ----------
    config : LossConfig
        Weights of cross-entropy and Dice, and of the branches (one for all, or one each).
    scales : sequence of float or Fraction
        The model's.
    """

    def __init__(self, config: LossConfig, scales: Sequence[float | Fraction]) -> None:
        super().__init__()
        weights = config.branch if isinstance(config.branch, tuple) else (config.branch,) * len(scales)
        if len(weights) != len(scales):
            raise ModelError(
                f"The loss has {len(weights)} branch weights for {len(scales)} scales; give one for all, or one "
                "per scale."
            )
        self.config = config
        self.weights = tuple(float(w) or 1.0 for w in weights)
        self.detach = tuple(w == 0 for w in weights)
        """For each branch: whether its own logits are to come from detached features."""
        self.names = tuple(f"scale {as_scale(s)}" for s in scales)

    def forward(self, fused: Tensor, branches: Sequence[Tensor], target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and its parts.

        Parameters
        ----------
        fused : (B, K+1, H, W) Tensor
            The model's output.
        branches : sequence of (B, K+1, H, W) Tensor
            Each branch's own, on the target grid.
        target : (B, H, W) int64 Tensor
            0 background, 1..K classes, `IGNORED` no loss.

        Returns
        -------
        total : () Tensor
            With gradient.
        parts : dict of str to () Tensor
            "fused" and "scale 1/2" and so on: each output's own loss before weighing, detached.

        Raises
        ------
        ModelError
            If the target has another shape or type than the logits ask for, or a number that is no class.
        """
        self._check(fused, branches, target)
        weights = self.config.cross_entropy, self.config.dice
        total = segmentation_loss(fused, target, *weights)
        parts = {"fused": total.detach()}
        for name, weight, logits in zip(self.names, self.weights, branches, strict=True):
            loss = segmentation_loss(logits, target, *weights)
            parts[name] = loss.detach()
            total = total + weight * loss
        return total, parts

    def _check(self, fused: Tensor, branches: Sequence[Tensor], target: Tensor) -> None:
        shape = (fused.shape[0], *fused.shape[2:])
        if target.dtype != torch.int64 or tuple(target.shape) != shape or len(branches) != len(self.names):
            raise ModelError(
                f"The loss was given {len(branches)} branches and a target of shape {tuple(target.shape)} and type "
                f"{target.dtype}; it needs {len(self.names)} branches and an int64 target of shape {shape}."
            )
        if target.device.type == "cpu":  # on a GPU looking would wait for all work under way
            worst = int(torch.where(target == IGNORED, 0, target).max())
            if worst >= fused.shape[1] or int(target.min()) < 0:
                raise ModelError(
                    f"The target holds {worst if worst >= fused.shape[1] else int(target.min())}; with "
                    f"{fused.shape[1] - 1} classes it may hold 0 to {fused.shape[1] - 1}, and {IGNORED} for ignored."
                )
