"""Random changes of training windows: one transform for all scales and the truth, drawn for each window of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from napari_msunet.config import Augmentation
from napari_msunet.constants import EOSIN, HAEMATOXYLIN, IGNORED, LUMA
from napari_msunet.data.degrading import Degradation, degraded, draw_degradation
from napari_msunet.data.loader import as_unit
from napari_msunet.data.warps import Warp, draw_warp, from_centre, moved, padding

# ----------------------------------------------------------------------------------------------------------------------
# The colour part of an augmentation: one change of light and stain for all scales of a window.


@dataclass(frozen=True)
class Colours:
    """Random numbers of a batch.

    Attributes
    ----------
    brightness, contrast : (B,)
        Factors.
    stain : (B, 3, 3)
        Matrices that optical densities are multiplied with.
    saturation : (B,), optional
        Factors.
    """

    brightness: Tensor
    contrast: Tensor
    stain: Tensor
    saturation: Tensor | None = None

    def only_for(self, brightfield: Tensor) -> Colours:
        """The same numbers, but windows that are not bright field keep their stain and saturation."""
        stain = torch.where(brightfield.cpu()[:, None, None], self.stain, torch.eye(3))
        saturation = self.saturation
        if saturation is not None:
            saturation = torch.where(brightfield.cpu(), saturation, torch.ones_like(saturation))
        return Colours(self.brightness, self.contrast, stain, saturation)


def draw_colours(count: int, options: Augmentation, generator: torch.Generator) -> Colours:
    """Random numbers for `count` windows."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    brightness, contrast = 1 + uniform(options.brightness), 1 + uniform(options.contrast)
    factors = 1 + torch.stack([uniform(options.stain) for _ in range(3)], 1)
    stains = _stains()
    stain = torch.linalg.inv(stains) @ torch.diag_embed(factors) @ stains
    return Colours(brightness, contrast, stain, 1 + uniform(options.saturation) if options.saturation else None)


def _stains() -> Tensor:
    """Optical densities of haematoxylin, eosin and the residual, a row each (Ruifrok and Johnston 2001)."""
    stains = torch.tensor([HAEMATOXYLIN, EOSIN, (0.0, 0.0, 0.0)])
    stains[2] = torch.linalg.cross(stains[0], stains[1])
    lengths: Tensor = torch.linalg.vector_norm(stains, dim=1, keepdim=True)
    return stains / lengths


def coloured(windows: list[Tensor], numbers: Colours, options: Augmentation) -> list[Tensor]:
    """Windows with their stain changed, then saturation, contrast about the finest window's mean, then brightness.

    Parameters
    ----------
    windows : list of (B, C, h, w) tensors in 0..1
        For each scale.
    """
    rgb = windows[0].shape[1] == 3
    if options.stain and rgb and not torch.equal(numbers.stain, torch.eye(3).expand_as(numbers.stain)):
        windows = [_stained(x, numbers.stain.to(x.device)) for x in windows]
    if numbers.saturation is not None and rgb:
        windows = [_saturated(x, numbers.saturation.to(x.device)) for x in windows]
    if options.contrast or options.brightness:
        factor = numbers.contrast.to(windows[0].device)[:, None, None, None]
        brightness = numbers.brightness.to(windows[0].device)[:, None, None, None]
        middle = windows[0].mean((1, 2, 3), keepdim=True)
        windows = [(((x - middle) * factor + middle) * brightness).clamp(0, 1) for x in windows]
    return windows


def _saturated(x: Tensor, factor: Tensor) -> Tensor:
    """RGB moved away from its grey, or towards it."""
    grey = torch.einsum("bchw,c->bhw", x, torch.tensor(LUMA, device=x.device))[:, None]
    changed = ((x - grey) * factor[:, None, None, None] + grey).clamp(0, 1)
    return torch.where((factor == 1)[:, None, None, None], x, changed)


def _stained(x: Tensor, matrix: Tensor) -> Tensor:
    """RGB with its stains changed: optical density is -log10 of the transmitted light."""
    density = -torch.log10(x.clamp_min(1 / 255))
    changed = torch.einsum("bchw,bcd->bdhw", density, matrix)
    stained = torch.pow(10.0, -changed).clamp(0, 1)
    same = (matrix == torch.eye(3, device=matrix.device)).all(2).all(1)
    return torch.where(same[:, None, None, None], x, stained) if bool(same.any()) else stained


# ----------------------------------------------------------------------------------------------------------------------
# Changes that remove parts of windows or replace them by parts of others: cut-out, CutMix, MixUp.

_LEAST, _MOST = 0.2, 0.7
"""Sides of the rectangle of a CutMix, as shares of the window's."""


@dataclass(frozen=True)
class Mix:
    """Random numbers of a batch, None for a change that is off. Boxes are `(B, 4)`: y, x, y2, x2 about the windows'
    centre, in target pixels; a window that stays as it is has a box without size.

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
    """Random numbers for `count` windows of a size in target pixels; None where all these changes are off."""
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
        at = from_centre(shape[axis], device) / ratio
        sides.append((at >= box[:, axis, None]) & (at < box[:, axis + 2, None]))
    return sides[0][:, :, None] & sides[1][:, None, :]


# ----------------------------------------------------------------------------------------------------------------------
# The augmentation of a training window: drawn once, applied at all scales.


class Augmented(NamedTuple):
    """A batch after its random changes.

    Attributes
    ----------
    inputs : list of (B, C, h, w) float32 tensors in 0..1
    target : (B, H, W) int64 tensor
    other : (B, H, W) int64 tensor, optional
        The truth of the windows blended in, None where there are none.
    share : float
        Share of the window that was blended in; its truth has this share of the loss.
    """

    inputs: list[Tensor]
    target: Tensor
    other: Tensor | None = None
    share: float = 0.0


@dataclass(frozen=True)
class Draw:
    """One batch's random numbers; None for a change that is off."""

    warp: Warp
    colours: Colours
    degradation: Degradation | None = None
    mix: Mix | None = None


@dataclass(frozen=True)
class Views:
    """The geometry of the windows of all scales around a target window.

    Attributes
    ----------
    size : (H, W)
        Of the target window, in target pixels.
    sizes : sequence of (h, w)
        Of each scale's window in its own pixels.
    ratios : sequence of float
        Pixels of each scale per target pixel.
    """

    size: tuple[int, int]
    sizes: Sequence[tuple[int, int]]
    ratios: Sequence[float]

    @property
    def extent(self) -> float:
        """Target pixels from the centre to the edge of the largest window."""
        return max(max(s) / r for s, r in zip(self.sizes, self.ratios, strict=True)) / 2

    @property
    def same_field(self) -> bool:
        """Whether all windows show the same field."""
        fields = {round(max(s) / r) for s, r in zip(self.sizes, self.ratios, strict=True)}
        return fields == {max(self.size)}

    def pads(self, options: Augmentation) -> tuple[list[int], int]:
        """Pixels to read more on each side of each scale's window, and of the truth."""
        side = max(self.size)
        own = [padding(max(s), options, r, side) for s, r in zip(self.sizes, self.ratios, strict=True)]
        return own, padding(side, options, 1.0, side)


def draw(count: int, options: Augmentation, seed: int, views: Views) -> Draw:
    """Random numbers for `count` windows; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    warp = draw_warp(count, options, generator, max(views.size), views.extent)
    colours = draw_colours(count, options, generator)
    degradation = draw_degradation(count, options, generator)
    return Draw(warp, colours, degradation, draw_mix(count, options, generator, views.size))


def augment(
    inputs: Sequence[Tensor],
    target: Tensor,
    views: Views,
    options: Augmentation,
    seed: int,
    brightfield: Tensor | None = None,
) -> Augmented:
    """Change a batch at random; all scales and the truth stay registered.

    Parameters
    ----------
    inputs : sequence of (B, C, h, w) tensors
        uint8, or float in 0..1, read larger than `views.sizes` by `views.pads`, around the same centre.
    target : (B, H, W) tensor
        Class numbers, 255 ignored, read larger than `views.size` likewise.
    views : Views
        What is wanted; square where quarter turns are drawn.
    options : Augmentation
    seed : int
    brightfield : (B,) bool tensor, optional
        Windows whose stain and saturation may change; None: all. Fluorescence has no stain that absorbs light.

    Returns
    -------
    Augmented
    """
    numbers = draw(target.shape[0], options, seed, views)
    windows = [
        moved(as_unit(x), s, numbers.warp, "bilinear", r)
        for x, s, r in zip(inputs, views.sizes, views.ratios, strict=True)
    ]
    # Shifted so that 0, with which grid_sample fills what lies outside, means ignored.
    placed = moved((target.float() - IGNORED)[:, None], views.size, numbers.warp, "nearest")[:, 0] + IGNORED
    truth = placed.round().long()
    colours = numbers.colours if brightfield is None else numbers.colours.only_for(brightfield)
    windows = coloured(windows, colours, options)
    if numbers.degradation is not None:
        windows = degraded(windows, numbers.degradation, views.ratios, views.same_field)
    if numbers.mix is None:
        return Augmented(windows, truth)
    windows, truth, other = mixed(windows, truth, numbers.mix, views.ratios)
    return Augmented(windows, truth, other if numbers.mix.blend else None, numbers.mix.blend)
