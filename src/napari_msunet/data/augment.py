"""Random changes of training windows: one transform for all scales and the truth, drawn for each window of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from napari_msunet.config import Augmentation
from napari_msunet.data.colours import Colours, coloured, draw_colours
from napari_msunet.data.degrading import Degradation, degraded, draw_degradation
from napari_msunet.data.loader import as_unit
from napari_msunet.data.masks import IGNORED
from napari_msunet.data.mixing import Mix, draw_mix, mixed
from napari_msunet.data.warps import Warp, draw_warp, moved, padding


class Augmented(NamedTuple):
    """A batch after its random changes.

    Attributes
    ----------
    inputs : list of (B, C, h, w) float32 tensors in 0..1
    target : (B, H, W) int64 tensor
    other : (B, H, W) int64 tensor, optional
        The truth of the windows blended in, None where there are none.
    share : float
        How much of each window is the one blended in: its truth has this share of the loss.
    """

    inputs: list[Tensor]
    target: Tensor
    other: Tensor | None = None
    share: float = 0.0


@dataclass(frozen=True)
class Draw:
    """One batch's random numbers; None for what is off."""

    warp: Warp
    colours: Colours
    degradation: Degradation | None = None
    mix: Mix | None = None


@dataclass(frozen=True)
class Views:
    """What the windows of all scales show of a target window.

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
        Whose stain and saturation may change; None: all. Fluorescence has no stain that absorbs light.

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
