"""The losses by name, each from a `Scene` to a number; all means over the pixels (or pairs of pixels) that count.

With p_c the probability and t_c the truth (0 or 1) of class c, t the true class, w_c the class's weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from napari_msunet.models.losses.scene import TINY, Scene

SMOOTH = 1e-5
"""Keeps overlaps defined; small against one pixel."""


def cross_entropy(scene: Scene) -> Tensor:
    """``-log p_t``, weighted by the true class and the border map."""
    return -scene.mean(scene.at_target, scene.pixel_weights)


def focal(scene: Scene, gamma: float) -> Tensor:
    """``-(1 - p_t)^gamma log p_t``, weighted as the cross-entropy, which it is at gamma 0.

    References
    ----------
    Lin et al., "Focal loss for dense object detection", ICCV 2017, eq. 5 (the class weights are its alpha).
    """
    easy = -torch.expm1(scene.at_target)  # 1 - p_t, precise where p_t is nearly 1
    return -scene.mean(easy.clamp_min(TINY) ** gamma * scene.at_target, scene.pixel_weights)


def binary_cross_entropy(scene: Scene) -> Tensor:
    """``-(t_c log p_c + (1 - t_c) log(1 - p_c))``, mean over classes 1..K by their weights.

    With one class it is the cross-entropy.
    """
    log_p = scene.log_probabilities
    best = log_p.argmax(1, keepdim=True)
    top = torch.zeros_like(log_p, dtype=torch.bool).scatter_(1, best, True)
    # 1 - p is small only for the largest p; there it is the sum of the others.
    others = log_p.masked_fill(top, -torch.inf).logsumexp(1, keepdim=True)
    rest = torch.where(top, others, torch.log1p(-torch.where(top, 0.0, scene.probabilities)))
    losses = -torch.where(scene.one_hot > 0, log_p, rest)[:, 1:]
    return scene.mean(losses, _of_classes(scene, scene.near))


def overlap(scene: Scene, alpha: float, beta: float) -> Tensor:
    """1 - Tversky index: ``TP / (TP + alpha FP + beta FN)`` with ``TP = sum p_c t_c`` and so on over the whole batch.

    Its mean by class weights goes over background and those classes that have pixels in the batch. At alpha = beta =
    1/2 it is Dice, at 1 it is Jaccard.

    References
    ----------
    Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional deep networks", MLMI
    2017. Dice: Milletari et al., "V-Net", 3DV 2016, with the denominator not squared. Jaccard: Rahman and Wang,
    "Optimizing intersection-over-union in deep neural networks for image segmentation", ISVC 2016.
    """
    outputs = scene.log_probabilities.shape[1]
    counted = scene.counted.flatten().to(scene.log_probabilities.dtype)
    zeros = scene.log_probabilities.new_zeros(outputs)
    pixels = zeros.index_add(0, scene.target.flatten(), counted)
    common = zeros.index_add(0, scene.target.flatten(), scene.at_target.exp().flatten() * counted)
    predicted = torch.where(scene.counted.unsqueeze(1), scene.probabilities, 0.0).sum(dim=(0, 2, 3))
    index = (common + SMOOTH) / (common + alpha * (predicted - common) + beta * (pixels - common) + SMOOTH)
    weights = (pixels > 0) * scene.class_weights
    return ((1 - index) * weights).sum() / weights.sum().clamp_min(TINY)


def boundary(scene: Scene, distances: Tensor) -> Tensor:
    """``phi_c p_c``, mean over classes 1..K by their weights; phi is the signed distance from the true outline.

    References
    ----------
    Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019, eq. 5.
    """
    return scene.mean(scene.probabilities[:, 1:] * distances, _of_classes(scene))


def edge(scene: Scene) -> Tensor:
    """``| |p_c(x') - p_c(x)| - |t_c(x') - t_c(x)| |`` over pairs of pixels one below or beside the other.

    References
    ----------
    Mathieu, Couprie and LeCun, "Deep multi-scale video prediction beyond mean square error", ICLR 2016, eq. 6 with
    an exponent of 1 (gradient difference loss).
    """
    p, t = scene.probabilities[:, 1:], scene.one_hot[:, 1:]
    classes = _of_classes(scene)
    total, pairs = p.new_zeros(()), p.new_zeros(())
    for axis in (2, 3):
        weights = torch.minimum(classes.narrow(axis, 1, p.shape[axis] - 1), classes.narrow(axis, 0, p.shape[axis] - 1))
        differ = (p.diff(dim=axis).abs() - t.diff(dim=axis).abs()).abs()
        total = total + torch.where(weights > 0, differ * weights, 0.0).sum()
        pairs = pairs + weights.sum()
    return total / pairs.clamp_min(TINY)


def _of_classes(scene: Scene, near: Tensor | None = None) -> Tensor:
    """`(B, K, H, W)`: weights of classes 1..K at each pixel that counts, times 1 + a border map."""
    pixels = scene.counted.to(scene.log_probabilities.dtype)
    if near is not None:
        pixels = pixels * (1 + near)
    return pixels.unsqueeze(1) * scene.class_weights[1:, None, None]
