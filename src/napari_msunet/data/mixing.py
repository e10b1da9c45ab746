"""What takes parts of windows away or puts those of others in: cut-out, CutMix, MixUp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from napari_msunet.config import Augmentation
from napari_msunet.data.masks import IGNORED

_LEAST, _MOST = 0.2, 0.7
"""Sides of the rectangle of a CutMix, as shares of the window's."""


@dataclass(frozen=True)
class Mix:
    """Random numbers of a batch, None for what is off. Boxes are `(B, 4)`: y, x, y2, x2 about the windows' centre, in
    target pixels; one of no size for a window that stays as it is.

    Attributes
    ----------
    hidden, pasted : (B, 4)
        The boxes of cut-out and CutMix.
    blend : float
        The share of the other window in a MixUp.
    """

    hidden: Tensor | None
    pasted: Tensor | None
    blend: float


def draw_mix(count: int, options: Augmentation, generator: torch.Generator, size: tuple[int, int]) -> Mix | None:
    """Random numbers for `count` windows of a size in target pixels; None where nothing of it is on."""
    if not (options.cutout or options.cutmix or options.mixup):
        return None

    def box(sides: Tensor) -> Tensor:
        room = torch.tensor(size, dtype=torch.float32)
        corner = (torch.rand(count, 2, generator=generator) * (1 - sides) - 0.5) * room
        return torch.cat([corner, corner + sides * room], 1)

    hidden = pasted = None
    if options.cutout:
        hidden = box(torch.rand(count, 1, generator=generator).expand(-1, 2) * options.cutout)
    if options.cutmix:
        sides = torch.rand(count, 2, generator=generator) * (_MOST - _LEAST) + _LEAST
        pasted = box(sides * (torch.rand(count, 1, generator=generator) < options.cutmix))
    blend = float(torch.rand(1, generator=generator)) * options.mixup if options.mixup else 0.0
    return Mix(hidden, pasted, blend)


def mixed(
    windows: list[Tensor], truth: Tensor, numbers: Mix, ratios: Sequence[float]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Windows of all scales and their truth with parts of the batch's next window, then with parts hidden.

    Parameters
    ----------
    windows : list of (B, C, h, w) tensors
    truth : (B, H, W) tensor
    ratios : sequence of float
        Pixels of each scale per target pixel.

    Returns
    -------
    windows, truth
        As given, changed.
    other : (B, H, W) tensor
        The truth of what `Mix.blend` of each window is; the same as `truth` where nothing is blended.
    """
    if numbers.pasted is not None:
        windows = [
            torch.where(_inside(x.shape[2:], numbers.pasted, r, x.device)[:, None], x.roll(1, 0), x)
            for x, r in zip(windows, ratios, strict=True)
        ]
        truth = torch.where(_inside(truth.shape[1:], numbers.pasted, 1.0, truth.device), truth.roll(1, 0), truth)
    other = truth
    if numbers.blend:
        windows = [torch.lerp(x, x.roll(1, 0), numbers.blend) for x in windows]
        other = truth.roll(1, 0)
    if numbers.hidden is not None:
        middle = windows[0].mean((2, 3))
        windows = [
            torch.where(_inside(x.shape[2:], numbers.hidden, r, x.device)[:, None], middle[:, :, None, None], x)
            for x, r in zip(windows, ratios, strict=True)
        ]
        unseen = _inside(truth.shape[1:], numbers.hidden, 1.0, truth.device)
        truth, other = truth.masked_fill(unseen, IGNORED), other.masked_fill(unseen, IGNORED)
    return windows, truth, other


def _inside(shape: Sequence[int], box: Tensor, ratio: float, device: torch.device) -> Tensor:
    """`(B, h, w)`: which pixels of windows about the same centre have their own centre in the box."""
    box = box.to(device)
    sides = []
    for axis in (0, 1):
        at = (torch.arange(shape[axis], device=device) + 0.5 - shape[axis] / 2) / ratio
        sides.append((at >= box[:, axis, None]) & (at < box[:, axis + 2, None]))
    return sides[0][:, :, None] & sides[1][:, None, :]
