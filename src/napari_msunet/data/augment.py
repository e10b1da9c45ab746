"""Random changes of training windows: one transform for all scales and the truth, drawn for each window of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, pi, radians, sin

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from napari_msunet.config import Augmentation
from napari_msunet.data.loader import as_unit
from napari_msunet.data.masks import IGNORED

_HAEMATOXYLIN = (0.650, 0.704, 0.286)
_EOSIN = (0.072, 0.990, 0.105)


@dataclass(frozen=True)
class Draw:
    """One batch's random numbers.

    Attributes
    ----------
    matrix : (B, 2, 2)
        From offsets `(y, x)` from the centre of the result to offsets in the window that was read.
    turns : list of (quarter turns, mirrored)
        The same transform where it is made of whole quarter turns only; else empty.
    brightness, contrast : (B,)
        Factors.
    stain : (B, 3, 3)
        What to multiply optical densities with.
    """

    matrix: Tensor
    turns: list[tuple[int, bool]]
    brightness: Tensor
    contrast: Tensor
    stain: Tensor


def reach(options: Augmentation) -> float:
    """How much larger than its result a window must be read, so that nothing beyond its edge is needed."""
    angle = radians(min(options.rotate, 45.0))
    return (cos(angle) + sin(angle)) * (1 + options.scale)


def padding(side: int, options: Augmentation) -> int:
    """Pixels to read more on each side of a window of this side."""
    if not options.rotate and not options.scale:
        return 0
    return ceil(side * (reach(options) - 1) / 2) + 1


def draw(count: int, options: Augmentation, seed: int) -> Draw:
    """Random numbers for `count` windows; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    quarter = torch.randint(4, (count,), generator=generator)
    mirrored = torch.randint(2, (count,), generator=generator).bool()
    if not options.flip:
        quarter, mirrored = torch.zeros_like(quarter), torch.zeros_like(mirrored)
    angle = quarter * (pi / 2) + uniform(radians(options.rotate))
    size = (1 + options.scale) ** uniform(1.0)
    c, s = torch.cos(angle) * size, torch.sin(angle) * size
    sign = 1.0 - 2.0 * mirrored
    # Columns take y, x of the result; a mirror image turns x about first.
    matrix = torch.stack([torch.stack([c, -s * sign], 1), torch.stack([s, c * sign], 1)], 1)
    exact = not options.rotate and not options.scale
    turns = [(int(q), bool(m)) for q, m in zip(quarter, mirrored, strict=True)] if exact else []
    brightness, contrast = 1 + uniform(options.brightness), 1 + uniform(options.contrast)
    factors = 1 + torch.stack([uniform(options.stain) for _ in range(3)], 1)
    stains = _stains()
    return Draw(matrix, turns, brightness, contrast, torch.linalg.inv(stains) @ torch.diag_embed(factors) @ stains)


def _stains() -> Tensor:
    """Optical densities of haematoxylin, eosin and what is left over, a row each (Ruifrok and Johnston 2001)."""
    stains = torch.tensor([_HAEMATOXYLIN, _EOSIN, (0.0, 0.0, 0.0)])
    stains[2] = torch.linalg.cross(stains[0], stains[1])
    lengths: Tensor = torch.linalg.vector_norm(stains, dim=1, keepdim=True)
    return stains / lengths


def augment(
    inputs: Sequence[Tensor],
    target: Tensor,
    sizes: Sequence[tuple[int, int]],
    size: tuple[int, int],
    options: Augmentation,
    seed: int,
) -> tuple[list[Tensor], Tensor]:
    """Change a batch at random; all scales and the truth stay registered.

    Parameters
    ----------
    inputs : sequence of (B, C, h, w) tensors
        uint8, or float in 0..1, read larger than `sizes` by `padding`, around the same centre.
    target : (B, H, W) tensor
        Class numbers, 255 ignored, read larger than `size` likewise.
    sizes, size : (h, w)
        What is wanted, for each input and for the target; square where quarter turns are drawn.
    options : Augmentation
    seed : int

    Returns
    -------
    inputs : list of (B, C, h, w) float32 tensors in 0..1
    target : (B, H, W) int64 tensor
    """
    numbers = draw(target.shape[0], options, seed)
    windows = [_moved(as_unit(x), s, numbers, "bilinear") for x, s in zip(inputs, sizes, strict=True)]
    # Shifted so that 0, with which grid_sample fills what lies outside, means ignored.
    truth = _moved((target.float() - IGNORED)[:, None], size, numbers, "nearest")[:, 0] + IGNORED
    return _coloured(windows, numbers, options), truth.round().long()


def _moved(x: Tensor, size: tuple[int, int], numbers: Draw, mode: str) -> Tensor:
    """Windows under the geometric part of a draw."""
    if numbers.turns:
        images = [_turned(image, *turn) for image, turn in zip(_centre(x, size), numbers.turns, strict=True)]
        return torch.stack(images)
    rows = torch.arange(size[0], device=x.device) + 0.5 - size[0] / 2
    columns = torch.arange(size[1], device=x.device) + 0.5 - size[1] / 2
    offsets = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
    places = torch.einsum("bij,hwj->bhwi", numbers.matrix.to(x.device), offsets)
    # grid_sample counts x, y from -1 at one edge to 1 at the other.
    scale = torch.tensor([2 / x.shape[2], 2 / x.shape[3]], device=x.device)
    outside = "border" if mode == "bilinear" else "zeros"
    moved: Tensor = grid_sample(x, (places * scale).flip(-1), mode, outside, align_corners=False)
    return moved


def _centre(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of larger windows."""
    top, left = (x.shape[2] - size[0]) // 2, (x.shape[3] - size[1]) // 2
    return x[:, :, top : top + size[0], left : left + size[1]]


def _turned(image: Tensor, quarter: int, mirrored: bool) -> Tensor:
    """Exactly what the matrix of these turns does, without resampling."""
    turned = torch.rot90(image, -quarter, (1, 2))
    return turned.flip(2) if mirrored else turned


def _coloured(windows: list[Tensor], numbers: Draw, options: Augmentation) -> list[Tensor]:
    """Windows under the colour part of a draw: stain, then contrast about the finest window's mean, then brightness."""
    if options.stain and windows[0].shape[1] == 3:
        windows = [_stained(x, numbers.stain.to(x.device)) for x in windows]
    if options.contrast or options.brightness:
        factor = numbers.contrast.to(windows[0].device)[:, None, None, None]
        brightness = numbers.brightness.to(windows[0].device)[:, None, None, None]
        middle = windows[0].mean((1, 2, 3), keepdim=True)
        windows = [(((x - middle) * factor + middle) * brightness).clamp(0, 1) for x in windows]
    return windows


def _stained(x: Tensor, matrix: Tensor) -> Tensor:
    """RGB with its stains changed: optical density is -log10 of the transmitted light."""
    density = -torch.log10(x.clamp_min(1 / 255))
    changed = torch.einsum("bchw,bcd->bdhw", density, matrix)
    return torch.pow(10.0, -changed).clamp(0, 1)
