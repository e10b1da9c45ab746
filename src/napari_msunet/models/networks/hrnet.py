"""HRNet: several resolutions side by side, which exchange their features again and again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.config.branches import HRNetConfig
from napari_msunet.models.blocks import ConvBlock, ResidualBlock, Style, convolution, has_bias, norm_of


class HRNet(nn.Module):
    """Parallel resolutions, with one more at each stage; at the end all are combined at the finest one.

    Parameters
    ----------
    config : HRNetConfig
    channels : int
        Image channels.

    References
    ----------
    Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", IEEE TPAMI 2021: its exchange
    between resolutions and the head of HRNetV2, smaller; its stem of two strided convolutions is ours.
    """

    def __init__(self, config: HRNetConfig, channels: int) -> None:
        super().__init__()
        widths, style = config.widths, Style(config.norm)
        self.features = widths[0]
        """Channels of the result."""
        self.grain = config.grain
        """Pixels of the input a side that are one of the result."""
        self.stem = nn.PixelUnshuffle(self.grain) if self.grain > 1 else nn.Identity()
        self.first = ConvBlock(channels * self.grain**2, widths[0], style)
        self.begin = nn.ModuleList(
            nn.Sequential(*convolution(a, b, style, stride=2), nn.ReLU(inplace=True)) for a, b in pairwise(widths)
        )
        self.stages = nn.ModuleList(
            _Stage(widths[: count + 1], style, config.blocks) for count in range(1, config.depth + 1)
        )
        self.project = nn.ModuleList(nn.Conv2d(width, widths[0], kernel_size=1, bias=False) for width in widths)
        self.norm = norm_of(config.norm, widths[0])

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)`, sides multiples of the stride, to `(B, features, h / grain, w / grain)`."""
        streams = [self.first(self.stem(x))]
        for begin, stage in zip(self.begin, self.stages, strict=True):
            streams = stage([*streams, begin(streams[-1])])
        total: Tensor = self.project[0](streams[0])
        for level, (project, stream) in enumerate(zip(self.project, streams, strict=True)):
            if level:
                total = total + F.interpolate(project(stream), scale_factor=float(2**level), mode="bilinear")
        return torch.relu(self.norm(total))


class _Stage(nn.Module):
    """Residual blocks at each resolution, after which each resolution gets the features of all others."""

    def __init__(self, widths: Sequence[int], style: Style, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, width, style) for _ in range(blocks))) for width in widths
        )
        self.exchange = nn.ModuleList(
            nn.ModuleList(_path(widths, source, target, style) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """From features to features of the same shapes, the finest first."""
        found = [blocks(x) for blocks, x in zip(self.blocks, streams, strict=True)]
        results = []
        for paths in self.exchange:
            assert isinstance(paths, nn.ModuleList)  # for the type checker
            parts = [path(x) for path, x in zip(paths, found, strict=True)]
            results.append(torch.relu(sum(parts[1:], parts[0])))
        return results


def _path(widths: Sequence[int], source: int, target: int, style: Style) -> nn.Module:
    """From one resolution to another: strided convolutions down, a projection and repeated pixels up."""
    if source == target:
        return nn.Identity()
    if source > target:
        project = nn.Conv2d(widths[source], widths[target], kernel_size=1, bias=has_bias(style.norm))
        return nn.Sequential(
            project, norm_of(style.norm, widths[target]), nn.Upsample(scale_factor=2 ** (source - target))
        )
    layers: list[nn.Module] = []
    for level in range(source, target):
        last = level + 1 == target
        layers += convolution(widths[source], widths[target] if last else widths[source], style, stride=2)
        layers += [] if last else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
