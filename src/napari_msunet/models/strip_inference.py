"""Faster inference of a U-Net: only the wanted pixels are computed, in strips, with batch norm folded into
convolutions.

The results are those of the plain network, because each strip or cropped window is read with a margin that is at least
as wide as its convolutions reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from fractions import Fraction
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_msunet.geometry import Window
from napari_msunet.models.blocks import NORMS, ConvBlock, arrange
from napari_msunet.models.networks.unet import UNet

STRIP = 96
"""Rows that are computed at once on the CPU, which needs the memory of a strip only and keeps it in the caches."""

REACH = ConvBlock.reach
"""The radius of the receptive field of any block of a U-Net, in pixels."""

FOLDED = set(NORMS.values())
"""Normalisations that are folded into convolutions; exactly these types, since a subclass may do more."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def in_strips(
    body: Callable[..., Tensor], inputs: Sequence[Tensor], keep: Window, halo: int, rows: int | None, detail: int = 1
) -> Tensor:
    """Apply a function whose receptive field has a radius of at most `halo` pixels, a few rows at a time.

    Parameters
    ----------
    body : callable
        From parts of the inputs to a map of the size of the last input, or `detail` times as fine.
    inputs : sequence of (B, C, h, w) Tensor
        The last one at the resolution of the result, the others coarser by a whole factor.
    keep : Window
        The wanted part, in pixels of the last input.
    halo : int
        The radius, in pixels of the last input.
    rows : int, optional
        Rows that are computed at once; None: all.
    detail : int
        Pixels of the result a side for one of the last input.

    Returns
    -------
    (B, n, detail * keep.height, detail * keep.width) Tensor
    """
    height, width = inputs[-1].shape[-2:]
    factors = [height // x.shape[-2] for x in inputs]
    step = max(factors)
    whole = Window(0, 0, height, width)
    out: Tensor | None = None
    for top in range(keep.y, keep.stop[0], rows or keep.height):
        own = Window.between((top, keep.x), (min(top + (rows or keep.height), keep.stop[0]), keep.stop[1]))
        seen = own.padded(halo).aligned(step).intersection(whole)
        parts = []
        for x, factor in zip(inputs, factors, strict=True):
            y0, x0, y1, x1 = (v // factor for v in (seen.y, seen.x, *seen.stop))
            parts.append(x[..., y0:y1, x0:x1])
        result = body(*parts)[(..., *own.times(Fraction(detail)).slices((detail * seen.y, detail * seen.x)))]
        if own == keep:
            return result
        if out is None:
            out = torch.empty(
                (result.shape[0], result.shape[1], detail * keep.height, detail * keep.width),
                dtype=result.dtype,
                device=result.device,
                memory_format=torch.channels_last,
            )
        out[(..., *own.times(Fraction(detail)).slices((detail * keep.y, detail * keep.x)))] = result
    if out is None:
        raise ValueError(f"Nothing is to be kept of a map of {height} x {width} pixels: {keep}.")
    return out


def run_within(network: nn.Module, x: Tensor, keep: Window, project: Callable[[Tensor], Tensor]) -> Tensor:
    """A network's projected output in a part of its window.

    The way up of a plain U-Net computes only what the wanted pixels depend on, which saves about a tenth of the work of
    a tile with a margin; on the CPU its maps of fine resolutions are made in strips. Other networks, and U-Nets whose
    blocks look at more than their neighbours, compute all of the window.

    Parameters
    ----------
    network : Module
        As `build_network` gives it.
    x : (B, C, h, w) Tensor
        Normalised; sides multiples of the stride.
    keep : Window
        The wanted part, in pixels of `x`.
    project : callable
        A pointwise map from the last features to the wanted channels, with ``network.grain`` pixels a side for one.

    Returns
    -------
    (B, Z, keep.height, keep.width) Tensor
    """
    if isinstance(network, UNet) and network.shrinks:
        return _without_mirror(network, x, keep, project)
    if not (isinstance(network, UNet) and network.in_parts):
        return project(network(x))[(..., *keep.slices())]
    grain = network.grain
    around = keep.aligned(grain)
    inner = Window(around.y // grain, around.x // grain, around.height // grain, around.width // grain)
    found = _rise(network, network.stem(x), inner, project)
    return found[(..., *keep.slices((around.y, around.x)))] if around != keep else found


def _without_mirror(network: UNet, x: Tensor, keep: Window, project: Callable[[Tensor], Tensor]) -> Tensor:
    """`run_within` for valid convolutions: where the window reaches far enough around the wanted part, nothing is
    mirrored."""
    middle = keep.aligned(network.grain * network.period)
    seen = middle.padded(network.grain * network.shrinks)
    if seen.intersection(Window(0, 0, *x.shape[-2:])) != seen:
        return project(network(x))[(..., *keep.slices())]
    features = network.inside(network.stem(x[(..., *seen.slices())]))
    return project(features)[(..., *keep.slices((middle.y, middle.x)))]


def _rise(network: UNet, x: Tensor, keep: Window, project: Callable[[Tensor], Tensor]) -> Tensor:
    """`run_within` for a U-Net; all but the result is on the grid behind its stem."""
    rows = STRIP if x.device.type in ("cpu", "meta") else None
    skips: list[Tensor] = []
    for level, block in enumerate(network.down):
        x = network.halve[level - 1](x) if level else x
        x = in_strips(block, [x], Window(0, 0, *x.shape[-2:]), REACH, rows)
        skips.append(x)
    wanted = [keep]
    for skip, up in zip(skips[:-1], reversed(network.up), strict=True):
        seen = wanted[-1].padded(_reach(up)).aligned(2).intersection(Window(0, 0, *skip.shape[-2:]))
        wanted.append(Window(seen.y // 2, seen.x // 2, seen.height // 2, seen.width // 2))
    x = network.context(skips.pop())[(..., *wanted[-1].slices())]
    for level in reversed(range(len(skips))):
        up, here, below = network.up[-1 - level], wanted[level], wanted[level + 1]
        skip = skips.pop()[..., 2 * below.y : 2 * below.stop[0], 2 * below.x : 2 * below.stop[1]]
        body = _step(up, network.skip[level], None if level else project)
        local = Window(here.y - 2 * below.y, here.x - 2 * below.x, *here.shape)
        x = in_strips(body, [x, skip], local, _reach(up), rows, 1 if level else network.grain)
    return x


def _reach(block: nn.Module) -> int:
    """The radius of the receptive field of an `UpBlock`, in pixels."""
    reach = block.reach
    assert isinstance(reach, int)  # for the type checker
    return reach


def _step(up: nn.Module, skip: nn.Module, project: Callable[[Tensor], Tensor] | None) -> Callable[..., Tensor]:
    """A step up as one function, with the attention on its skip, and the projection behind the last step."""

    def body(coarse: Tensor, skipped: Tensor) -> Tensor:
        found: Tensor = up(coarse, skip(skipped))
        return found if project is None else project(found)

    return body


def folded(model: ModuleT) -> ModuleT:
    """A copy for inference whose batch normalisations have become part of the convolutions before them.

    This saves a quarter of the time on the CPU, where each normalisation would read and write a whole map.
    """
    copy = deepcopy(model).eval().requires_grad_(False)
    for module in copy.modules():
        if not isinstance(module, nn.Sequential):
            continue
        names = list(module._modules)
        for first, second in pairwise(names):
            convolution, norm = module._modules[first], module._modules[second]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and type(norm) in FOLDED:
                module._modules[first] = fuse_conv_bn_eval(convolution, norm)
                module._modules[second] = nn.Identity()
    return arrange(copy)
