"""From a branch's own grid to the target grid: bilinear for coarse scales, exact area average for finer ones.

A branch of scale p/q has p pixels where the target grid has q. Every weight is computed from whole numbers, so that a
pixel's value depends on its place only, not on the size of the window.
"""

from __future__ import annotations

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_msunet.errors import ModelError


def to_target(x: Tensor, scale: Fraction) -> Tensor:
    """Bring `x` from the grid of a scale to the target grid.

    Parameters
    ----------
    x : (B, Z, h, w) Tensor
        A window on the branch's grid; its corner lies on a line of both grids, and its sides are multiples of the
        numerator.
    scale : Fraction
        Branch pixels per target pixel along a side.

    Returns
    -------
    (B, Z, h / scale, w / scale) Tensor
        Scales below 1: bilinear about pixel centres (``align_corners=False``), where the outermost pixels repeat beyond
        the edge; above 1: the mean over each target pixel's footprint.

    Raises
    ------
    ModelError
        If the sides are no multiples of the numerator.
    """
    if scale == 1:
        return x
    height, width = x.shape[-2:]
    if height % scale.numerator or width % scale.numerator:
        raise ModelError(
            f"A window of {height} x {width} pixels on the grid of scale {scale} is no whole number of target pixels; "
            f"give sides that are multiples of {scale.numerator}."
        )
    if scale > 1:
        return _average(_average(x, scale, -2), scale, -1)
    if scale.denominator in (2, 4, 8):  # PyTorch's own float32 positions are then exact
        size = [int(height / scale), int(width / scale)]
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return _interpolate(_interpolate(x, scale, -2), scale, -1)


def part_to_target(x: Tensor, scale: Fraction, corner: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Bring a part of `x` to the target grid, seeing its surroundings in `x`.

    Parameters
    ----------
    x : (B, Z, h, w) Tensor
        On the branch's grid.
    scale : Fraction
        Branch pixels per target pixel along a side.
    corner : tuple of int
        Corner of the part, in pixels of `x`.
    size : tuple of int
        Height and width of the part in target pixels; beyond `x` its outermost pixels repeat.

    Returns
    -------
    (B, Z, height, width) Tensor
    """
    p, q = (scale.numerator, scale.denominator) if scale < 1 else (0, 0)  # the margin that the bilinear filter needs
    height, width = (int(side * scale) for side in size)
    top, left, bottom, right = corner[0] - p, corner[1] - p, corner[0] + height + p, corner[1] + width + p
    beyond = (max(0, -left), max(0, right - x.shape[-1]), max(0, -top), max(0, bottom - x.shape[-2]))
    x = x[..., max(0, top) : bottom, max(0, left) : right]
    x = to_target(F.pad(x, beyond, mode="replicate") if any(beyond) else x, scale)
    return x[..., q : q + size[0], q : q + size[1]]


def _average(x: Tensor, scale: Fraction, dim: int) -> Tensor:
    """Area average along one axis: each pixel repeated q times, then the mean of p at a time."""
    p, q = scale.numerator, scale.denominator
    if q > 1:
        x = x.repeat_interleave(q, dim=dim)
    return F.avg_pool2d(x, (p, 1) if dim == -2 else (1, p))


def _interpolate(x: Tensor, scale: Fraction, dim: int) -> Tensor:
    """Linear interpolation along one axis, with positions computed in whole numbers.

    In float32, as PyTorch computes them, the positions of a scale such as 2/3 are off by 2e-4 pixels at pixel 3000,
    which would make a probability depend on the tile.
    """
    p, q = scale.numerator, scale.denominator
    length = x.shape[dim]
    # Target pixel i has its centre at ((2 i + 1) p - q) / (2 q) branch pixels after the first centre.
    position = (2 * torch.arange(length * q // p, device=x.device) + 1) * p - q
    low = torch.div(position, 2 * q, rounding_mode="floor")
    weight = ((position - low * 2 * q).to(x.dtype) / (2 * q)).view((-1, 1) if dim == -2 else (-1,))
    first = x.index_select(dim, low.clamp(0, length - 1))
    second = x.index_select(dim, (low + 1).clamp(0, length - 1))
    return torch.lerp(first, second, weight)
