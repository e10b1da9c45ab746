"""The margin of exact tiling, measured: how far a NaN outside a tile gets into it.

A tile of a branch always begins and ends on a multiple of the branch's stride, so this is measured for such edges: NaN
goes beyond the edge, and what stays finite inside cannot depend on anything out there. Zero weights hide nothing, since
0 times NaN is NaN. A layer whose output depends on the extent of the tile (instance norm, global pooling, attention
over space) turns the whole tile into NaN, and so is found out.
"""

from __future__ import annotations

from copy import deepcopy
from math import inf, nan

import torch
from torch import Tensor, nn

STRIDES = (8, 40)
"""Clean strides in from each edge to try; a network that reaches further counts as depending on the whole tile."""


def measure_reach(network: nn.Module, channels: int, stride: int) -> float:
    """Largest number of pixels that the outside of a stride-aligned tile reaches into its output, on any side.

    Parameters
    ----------
    network : Module
        Maps `(B, channels, h, w)` to `(B, n, h, w)`, for sides that are multiples of the stride. It is not changed.
    channels : int
        Image channels.
    stride : int
        Pixels after which the network repeats its phase.

    Returns
    -------
    float
        Whole pixels, or `math.inf` for a network whose output depends on the extent of the tile.
    """
    # Float64 on the CPU: no Winograd or FFT convolution, whose sums of products would carry a NaN to pixels that do not
    # depend on it. Training may have broken a weight; that must not look like an endless reach.
    probe = deepcopy(network).to("cpu", torch.float64).eval()
    with torch.no_grad():
        for tensor in (*probe.parameters(), *probe.buffers()):
            tensor.nan_to_num_(nan=0.0, posinf=1.0, neginf=-1.0)
        return max(_reach_along(probe, channels, stride, dim) for dim in (-2, -1))


def _reach_along(probe: nn.Module, channels: int, stride: int, dim: int) -> float:
    """The larger reach from the two ends of a narrow strip along one axis."""
    for strides in STRIDES:
        length, across = 2 * (strides + 1) * stride, 2 * stride
        shape = (length, across) if dim == -2 else (across, length)
        strip = torch.full((1, channels, *shape), 0.5, dtype=torch.float64)
        strip.narrow(dim, 0, stride).fill_(nan)
        strip.narrow(dim, length - stride, stride).fill_(nan)
        clean = _finite(probe(strip), dim)[stride : length - stride]
        half = len(clean) // 2
        if bool(clean[half - 1 : half + 1].all()):
            before = torch.nonzero(~clean[:half]).flatten()
            after = torch.nonzero(~clean[half:].flip(0)).flatten()
            return max(int(side.max()) + 1 if len(side) else 0 for side in (before, after))
    return inf


def _finite(output: Tensor, dim: int) -> Tensor:
    """Along the axis, whether a line across the strip has nothing but finite numbers."""
    other = -1 if dim == -2 else -2
    return torch.isfinite(output).all(dim=1).all(dim=other).flatten()
