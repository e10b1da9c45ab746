"""The branch network: a U-Net on one scale's own grid."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from napari_msunet.config import UNetConfig
from napari_msunet.models.blocks import ConvBlock, UpBlock


class UNet(nn.Module):
    """A U-Net with batch normalisation; it returns its last features, on the grid of its input.

    Its output at a place depends on a finite neighbourhood only, and repeats its phase every `config.stride` pixels.

    Parameters
    ----------
    config : UNetConfig
        Depth, width and dropout.
    channels : int
        Image channels.

    References
    ----------
    Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015; with zero
    padding and batch normalisation (Ioffe and Szegedy, ICML 2015).
    """

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        widths = config.widths
        self.features = widths[0]
        """Channels of the result."""
        self.level_features = widths
        """Channels of `decoded` at each level, the finest first, the bottleneck last."""
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(
            ConvBlock(before, after) for before, after in zip((channels, *widths[:-1]), widths, strict=True)
        )
        self.dropout = nn.Dropout2d(config.dropout)
        self.up = nn.ModuleList(UpBlock(below, here) for here, below in zip(widths[-2::-1], widths[:0:-1], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)`, sides multiples of the stride, to `(B, features, h, w)`."""
        return self.decoded(x)[0]

    def decoded(
        self, x: Tensor, entering: Mapping[int, Tensor] | None = None, deepest: Tensor | None = None
    ) -> list[Tensor]:
        """The features of the way up at every level, the finest first, the bottleneck last; for joint models.

        Parameters
        ----------
        x : (B, channels, h, w) Tensor
        entering : mapping of int to (B, level_features[l - 1], h / 2**l, w / 2**l) Tensor, optional
            Added to what enters level l >= 1 of the way down, after pooling: copies of the image at other scales.
        deepest : (B, level_features[-1], h / stride, w / stride) Tensor, optional
            Added to the bottleneck: what other branches found.
        """
        skips = []
        for level, block in enumerate(self.down):
            x = self.pool(x) if level else x
            if entering and level in entering:
                x = x + entering[level]
            x = block(x)
            skips.append(x)
        x = self.dropout(skips.pop())
        if deepest is not None:
            x = x + deepest
        found = [x]
        for block in self.up:
            x = block(x, skips.pop())
            found.append(x)
        return found[::-1]
