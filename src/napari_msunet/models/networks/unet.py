"""The U-Net, with all its options."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from napari_msunet.config.branches import UNetConfig
from napari_msunet.models.attention import PixelAttention, WindowAttention
from napari_msunet.models.blocks import Style, UpBlock, block
from napari_msunet.models.networks.context import Context
from napari_msunet.models.networks.nested import Nested
from napari_msunet.models.networks.pyramid import Pyramid


class UNet(nn.Module):
    """A U-Net; it returns its last features, on the grid of its input or, with a space-to-depth stem, on half of it.

    Its output at a place depends on a finite neighbourhood only, and repeats its phase every `config.stride` pixels.

    Parameters
    ----------
    config : UNetConfig
    channels : int
        Image channels.

    References
    ----------
    Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015; with zero
    padding and batch normalisation (Ioffe and Szegedy, ICML 2015). Strided convolutions: Springenberg et al.,
    "Striving for Simplicity", ICLR Workshops 2015. Space to depth and its way back: Shi et al., "Real-Time Single
    Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016.
    """

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        widths = config.widths
        style = Style(config.norm, config.residual, config.separable)
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
        self.pyramid = Pyramid(widths, style) if config.pyramid else None
        self.in_parts = not (config.dense or config.pyramid or config.attention == "self")
        """Whether `frugal.run_within` may compute it block by block, in strips."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)`, sides multiples of the stride, to `(B, features, h / grain, w / grain)`."""
        return self.decoded(x)[0]

    def decoded(
        self, x: Tensor, entering: Mapping[int, Tensor] | None = None, deepest: Tensor | None = None
    ) -> list[Tensor]:
        """The features of the way up at every level, the finest first, the bottleneck last; for joint models.

        Parameters
        ----------
        x : (B, channels, h, w) Tensor
        entering : mapping of int to (B, level_features[l - 1], ...) Tensor, optional
            Added to what enters level l >= 1 of the way down, after pooling (``h / grain / 2**l`` pixels high): copies
            of the image at other scales.
        deepest : (B, level_features[-1], ...) Tensor, optional
            Added to the bottleneck: what other branches found.
        """
        x = self.stem(x)
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
        return found

    def _risen(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps of the way up from those of the way down, the finest first."""
        if self.nested is not None:
            return list(self.nested(maps))
        found = [maps.pop()]
        for up in self.up:
            found.append(up(found[-1], maps.pop()))
        return found[::-1]


def _skip(config: UNetConfig, width: int) -> nn.Module:
    """What is done to skipped features."""
    if config.attention == "self":
        return WindowAttention(width, config.window, config.norm)
    return PixelAttention(width) if config.attention == "light" else nn.Identity()
