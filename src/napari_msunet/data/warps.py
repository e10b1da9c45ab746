"""The geometric part of an augmentation: one smooth map of places, applied to every scale and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, pi, radians, sin, tan

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from napari_msunet.config import Augmentation

_SPACING = 32.0
"""Target pixels between the points at which an elastic displacement is drawn, at least."""

_FOLD = 4.0  # the displacement of neighbouring points never differs by more than half their distance: no folds


@dataclass(frozen=True)
class Warp:
    """Where each window of a batch is looked at, as a map from places in the result to places that were read.

    A place `(y, x)` is an offset from the windows' common centre, in target pixels. It goes through `matrix`, then
    perspective (`/ (1 + tilt . place)` of the place it started from), then `shift` and `bend` are added.

    Attributes
    ----------
    matrix : (B, 2, 2)
    turns : list of (quarter turns, mirrored)
        The same map where it is made of whole quarter turns only; else empty.
    shift : (B, 2), optional
        Target pixels.
    tilt : (B, 2), optional
        Per target pixel.
    bend : (B, 2, n, n), optional
        Displacements `y, x` in target pixels at points that cover `-extent` to `extent`.
    extent : float
        Target pixels from the centre to the edge of the largest window.
    """

    matrix: Tensor
    turns: list[tuple[int, bool]]
    shift: Tensor | None = None
    tilt: Tensor | None = None
    bend: Tensor | None = None
    extent: float = 0.0

    @property
    def linear(self) -> bool:
        """Whether the matrix is all there is."""
        return self.shift is None and self.tilt is None and self.bend is None


def draw_warp(
    count: int, options: Augmentation, generator: torch.Generator, side: float = 0.0, extent: float = 0.0
) -> Warp:
    """Random maps for `count` windows.

    Parameters
    ----------
    side : float
        Of the result, in target pixels.
    extent : float
        From the centre to the edge of the largest window of any scale, in target pixels.
    """

    def uniform(limit: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator) * 2 - 1) * limit

    quarter = torch.randint(4, (count,), generator=generator)
    mirrored = torch.randint(2, (count,), generator=generator).bool()
    if not options.flip:
        quarter, mirrored = torch.zeros_like(quarter), torch.zeros_like(mirrored)
    if options.mirror:  # drawn only where it is wanted, so that the numbers of earlier trainings stay as they were
        mirrored = mirrored ^ (torch.rand(count, generator=generator) < options.mirror)
    angle = quarter * (pi / 2) + uniform(radians(options.rotate))
    size = (1 + options.scale) ** uniform(1.0)
    c, s = torch.cos(angle) * size, torch.sin(angle) * size
    sign = 1.0 - 2.0 * mirrored
    # Columns take y, x of the result; a mirror image turns x about first.
    matrix = torch.stack([torch.stack([c, -s * sign], 1), torch.stack([s, c * sign], 1)], 1)
    exact = not (options.rotate or options.scale or options.shear or _bends(options))
    turns = [(int(q), bool(m)) for q, m in zip(quarter, mirrored, strict=True)] if exact else []
    shift = tilt = bend = None
    if options.shear:
        lean = torch.eye(2).repeat(count, 1, 1)
        lean[:, 1, 0] = torch.tan(uniform(radians(options.shear)))
        matrix = matrix @ lean
    if options.shift:
        shift = uniform(options.shift * side, 2)
    if options.perspective:
        tilt = uniform(options.perspective / (2 * extent), 2)
    if options.elastic:
        points = ceil(2 * extent / max(_SPACING, _FOLD * options.elastic)) + 1
        bend = uniform(options.elastic, 2, max(2, points), max(2, points))
    return Warp(matrix, turns, shift, tilt, bend, extent)


def _bends(options: Augmentation) -> bool:
    """Whether anything but a matrix moves places."""
    return bool(options.shift or options.perspective or options.elastic)


def reach(options: Augmentation) -> float:
    """How much larger than its result a window must be read for what is no displacement."""
    angle = radians(min(options.rotate, 45.0))
    lean = 1 + tan(radians(options.shear))
    return (cos(angle) + sin(angle)) * (1 + options.scale) * lean / (1 - options.perspective)


def padding(side: int, options: Augmentation, ratio: float = 1.0, target: int = 0) -> int:
    """Pixels to read more on each side of a window, so that nothing beyond its edge is needed.

    Parameters
    ----------
    side : int
        Of the window, in its own pixels.
    ratio : float
        Own pixels per target pixel.
    target : int
        Side of the target window in target pixels.
    """
    if not (options.rotate or options.scale or options.shear or _bends(options)):
        return 0
    displaced = (options.shift * target + options.elastic) * ratio
    return ceil(side * (reach(options) - 1) / 2 + displaced) + 1


def moved(x: Tensor, size: tuple[int, int], warp: Warp, mode: str, ratio: float = 1.0) -> Tensor:
    """Windows looked at through a warp.

    Parameters
    ----------
    x : (B, C, h, w) tensor
        Windows of one scale, read larger than `size` by `padding`.
    size : (h, w)
        Of the result.
    warp : Warp
    mode : str
        "bilinear" (beyond the edge: the edge's value) or "nearest" (beyond the edge: 0).
    ratio : float
        Own pixels per target pixel.
    """
    if warp.turns:
        images = [_turned(image, *turn) for image, turn in zip(centre(x, size), warp.turns, strict=True)]
        return torch.stack(images)
    sides = [from_centre(length, x.device) for length in size]
    offsets = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1)
    places = torch.einsum("bij,hwj->bhwi", warp.matrix.to(x.device), offsets)
    if not warp.linear:
        places = _displaced(places, offsets / ratio, warp, ratio)
    # grid_sample counts x, y from -1 at one edge to 1 at the other.
    scale = torch.tensor([2 / x.shape[2], 2 / x.shape[3]], device=x.device)
    outside = "border" if mode == "bilinear" else "zeros"
    result: Tensor = grid_sample(x, (places * scale).flip(-1), mode, outside, align_corners=False)
    return result


def from_centre(length: int, device: torch.device) -> Tensor:
    """How far the centres of so many pixels lie from the middle of all."""
    return torch.arange(length, device=device) + 0.5 - length / 2


def _displaced(places: Tensor, offsets: Tensor, warp: Warp, ratio: float) -> Tensor:
    """Places after perspective, shift and bend; `offsets` are those of the result in target pixels."""
    if warp.tilt is not None:
        slant = 1 + torch.einsum("bj,hwj->bhw", warp.tilt.to(places.device), offsets)
        places = places / slant[..., None]
    if warp.shift is not None:
        places = places + warp.shift.to(places.device)[:, None, None] * ratio
    if warp.bend is not None:
        where = (offsets / warp.extent).flip(-1).expand(places.shape[0], -1, -1, -1)
        # Cubic between the points overshoots a little, which the padding does not know of.
        bend = grid_sample(warp.bend.to(places.device), where, "bicubic", "border", align_corners=True)
        limit = warp.bend.abs().max()
        places = places + bend.clamp(-limit, limit).permute(0, 2, 3, 1) * ratio
    return places


def centre(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of larger windows."""
    top, left = (x.shape[2] - size[0]) // 2, (x.shape[3] - size[1]) // 2
    return x[:, :, top : top + size[0], left : left + size[1]]


def _turned(image: Tensor, quarter: int, mirrored: bool) -> Tensor:
    """Exactly what the matrix of these turns does, without resampling."""
    turned = torch.rot90(image, -quarter, (1, 2))
    return turned.flip(2) if mirrored else turned
