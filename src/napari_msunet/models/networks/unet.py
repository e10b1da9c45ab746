"""The U-Net, with all its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.config.branches import UNetConfig
from napari_msunet.models.blocks import (
    PixelAttention,
    Style,
    UpBlock,
    WindowAttention,
    block,
    convolution,
    cropped,
    has_bias,
    mirrored,
    norm_of,
)

# ----------------------------------------------------------------------------------------------------------------------
# Context at several distances, by dilated convolutions.

RATES = (1, 2, 4)


class Context(nn.Module):
    """Convolutions of several dilations side by side, joined by a 1x1 convolution; the size stays.

    Parameters
    ----------
    channels : int
    style : Style

    References
    ----------
    Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, without its pooling over the
    whole image, which would make a result depend on the tile.
    """

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        inner = max(1, channels // 4)
        self.rates = nn.ModuleList(
            nn.Sequential(*convolution(channels, inner, style, dilation=rate), nn.ReLU(inplace=True)) for rate in RATES
        )
        join = nn.Conv2d(inner * len(RATES), channels, kernel_size=1, bias=has_bias(style.norm))
        self.join = nn.Sequential(join, norm_of(style.norm, channels), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` to the same shape."""
        joined: Tensor = self.join(torch.cat([rate(x) for rate in self.rates], dim=1))
        return joined


# ----------------------------------------------------------------------------------------------------------------------
# Dense skips: blocks at every level and step between the way down and the way up.


class Nested(nn.Module):
    """The nested way up of U-Net++: block j of a level gets all earlier blocks of its level, and block j - 1 of the
    next.

    Parameters
    ----------
    widths : sequence of int
        Channels of each level, the finest first.
    style : Style
    resize, gated : bool
        See `UpBlock`.

    References
    ----------
    Zhou et al., "UNet++: Redesigning Skip Connections to Exploit Multiscale Features in Image Segmentation", IEEE
    Transactions on Medical Imaging 2020; without its deep supervision.
    """

    def __init__(self, widths: Sequence[int], style: Style, resize: bool, gated: bool) -> None:
        super().__init__()
        self.depth = len(widths) - 1
        self.steps = nn.ModuleList(
            nn.ModuleList(
                UpBlock(widths[level + 1], widths[level], style, resize, gated, skips=step)
                for level in range(self.depth - step + 1)
            )
            for step in range(1, self.depth + 1)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """From the maps of the way down, `(B, widths[l], h / 2**l, w / 2**l)` each, to the last map of each level."""
        rows = [[m] for m in maps]
        for blocks in self.steps:
            assert isinstance(blocks, nn.ModuleList)  # for the type checker
            below = [row[-1] for row in rows]
            for level, up in enumerate(blocks):
                rows[level].append(up(below[level + 1], torch.cat(rows[level], dim=1)))
        return [row[-1] for row in rows]


# ----------------------------------------------------------------------------------------------------------------------
# A feature pyramid, whose result is made from all resolutions.


class FeaturePyramid(nn.Module):
    """Joins maps of all resolutions at the finest one: each is projected, doubled in size and added to the next finer.

    Parameters
    ----------
    widths : sequence of int
        Channels of the maps, the finest first; the result has those of the finest.
    style : Style

    References
    ----------
    Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017; one output, at the finest level.
    """

    def __init__(self, widths: Sequence[int], style: Style) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, widths[0], kernel_size=1) for width in widths)
        self.smooth = nn.Sequential(*convolution(widths[0], widths[0], style), nn.ReLU(inplace=True))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """`(B, widths[l], h / 2**l, w / 2**l)` for each level to `(B, widths[0], h, w)`."""
        total: Tensor = self.lateral[-1](maps[-1])
        for level in reversed(range(len(maps) - 1)):
            total = F.interpolate(total, scale_factor=2.0) + self.lateral[level](maps[level])
        smoothed: Tensor = self.smooth(total)
        return smoothed


# ----------------------------------------------------------------------------------------------------------------------
# The U-Net.


class UNet(nn.Module):
    """A U-Net; it returns its last features, on the grid of its input or, with a space-to-depth stem, on half of it.

    Its output at a place depends on a finite neighbourhood only, and has a period of `config.stride` pixels.

    Parameters
    ----------
    config : UNetConfig
    channels : int
        Image channels.

    References
    ----------
    Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015; with zero
    padding and batch normalisation (Ioffe and Szegedy, ICML 2015), which the options "mirror" and "none" leave out. Its
    overlap-tile strategy (figure 2) is the option "mirror". Strided convolutions: Springenberg et al.,
    "Striving for Simplicity", ICLR Workshops 2015. Space to depth and its way back: Shi et al., "Real-Time Single
    Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016.
    """

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        widths = config.widths
        style = Style(config.norm, config.residual, config.separable, config.block_dropout, config.mirrored)
        self.shrinks = around_valid(config.depth) if config.mirrored else 0
        """Pixels of the grid behind the stem that valid convolutions need on each side; 0 with zero padding."""
        self.period = 2**config.depth
        """Pixels of that grid after which pooling repeats."""
        self.features = widths[0]
        """Channels of the result."""
        self.grain = config.grain
        """Pixels of the input a side that are one of the result."""
        self.level_features = widths
        """Channels of `decoded` at each level, the finest first, the bottleneck last."""
        self.stem = nn.PixelUnshuffle(self.grain) if self.grain > 1 else nn.Identity()
        self.halve = nn.ModuleList(
            nn.MaxPool2d(2) if config.down == "pool" else nn.Conv2d(width, width, kernel_size=2, stride=2)
            for width in widths[:-1]
        )
        before = (channels * self.grain**2, *widths[:-1])
        self.down = nn.ModuleList(block(a, b, style) for a, b in zip(before, widths, strict=True))
        self.context = Context(widths[-1], style) if config.context else nn.Identity()
        self.dropout = nn.Dropout2d(config.dropout)
        self.skip = nn.ModuleList(_skip(config, width) for width in widths[:-1])
        resize = config.up == "resize"
        self.nested = Nested(widths, style, resize, config.gates) if config.dense else None
        steps = () if config.dense else zip(widths[-2::-1], widths[:0:-1], strict=True)
        self.up = nn.ModuleList(UpBlock(below, here, style, resize, config.gates) for here, below in steps)
        self.pyramid = FeaturePyramid(widths, style) if config.pyramid else None
        self.in_parts = not (config.dense or config.pyramid or config.attention == "self" or config.mirrored)
        """Whether `strip_inference.run_within` may compute it block by block, in strips."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)`, sides multiples of the stride, to `(B, features, h / grain, w / grain)`.

        With ``padding="mirror"`` the input is continued by its mirror image, so that the result keeps its size.
        """
        return self.decoded(x)[0]

    def decoded(
        self, x: Tensor, entering: Mapping[int, Tensor] | None = None, deepest: Tensor | None = None
    ) -> list[Tensor]:
        """The features of the way up at every level, the finest first, the bottleneck last; for joint models.

        Parameters
        ----------
        x : (B, channels, h, w) Tensor
        entering : mapping of int to (B, level_features[l - 1], ...) Tensor, optional
            Copies of the image at other scales, which are added to the input of level l >= 1 of the way down, after
            pooling (``h / grain / 2**l`` pixels high).
        deepest : (B, level_features[-1], ...) Tensor, optional
            Features of other branches, which are added to the bottleneck.
        """
        x = self.stem(x)
        if self.shrinks:
            x = mirrored(x, *(self.shrinks,) * 4)
        return self._decoded(x, entering, deepest)

    def inside(self, x: Tensor) -> Tensor:
        """The last features of the middle of a window, from the real pixels around it instead of mirrored ones.

        Parameters
        ----------
        x : (B, C, h, w) Tensor
            Behind the stem; its middle, without `shrinks` pixels on each side, has sides that are multiples of
            `period`.
        """
        return self._decoded(x, None, None)[0]

    def _decoded(self, x: Tensor, entering: Mapping[int, Tensor] | None, deepest: Tensor | None) -> list[Tensor]:
        """As `decoded`, behind the stem, with what valid convolutions need around it."""
        size = [side - 2 * self.shrinks for side in x.shape[-2:]]
        maps: list[Tensor] = []
        for level, down in enumerate(self.down):
            x = self.halve[level - 1](x) if level else x
            if entering and level in entering:
                x = x + entering[level]
            x = down(x)
            maps.append(x)
        maps = [skip(m) for skip, m in zip(self.skip, maps, strict=False)]
        x = self.dropout(self.context(x))
        found = self._risen([*maps, x if deepest is None else x + deepest])
        if self.pyramid is not None:
            found[0] = self.pyramid(found)
        if self.shrinks:
            found = [cropped(m, size[0] // 2**level, size[1] // 2**level) for level, m in enumerate(found)]
        return found

    def _risen(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps of the way up from those of the way down, the finest first."""
        if self.nested is not None:
            return list(self.nested(maps))
        found = [maps.pop()]
        for up in self.up:
            found.append(up(found[-1], maps.pop()))
        return found[::-1]


def around_valid(depth: int) -> int:
    """Pixels on each side that valid convolutions need around a window of whole strides, to give all of it.

    Each block takes two pixels off each side at its level: at depth 4 these are 94, with which a window of 384 becomes
    the 572 of the paper, and comes out as 388.
    """
    around = 2 if depth > 1 else 1  # of the bottleneck's own pixels, behind its block
    for _ in range(depth):
        around = 2 * (around + 2)
    return around + 2


def _skip(config: UNetConfig, width: int) -> nn.Module:
    """The attention that is applied to skipped features, if there is any."""
    if config.attention == "self":
        return WindowAttention(width, config.window, config.norm)
    return PixelAttention(width) if config.attention == "light" else nn.Identity()
