"""LinkNet: residual blocks on the way down, thin steps up, and skips that are added."""

from __future__ import annotations

from torch import Tensor, nn

from napari_msunet.config.branches import LinkNetConfig
from napari_msunet.models.blocks import ResidualBlock, Style, has_bias, norm_of


class LinkNet(nn.Module):
    """A LinkNet, which begins at half the resolution.

    In the layout "thin" it goes down one resolution less, and ends at the full resolution. In the layout "published" it
    has the layers of the paper up to the last one, a transposed 2x2 convolution that doubles the resolution: that is
    the head, whose logits are twice as fine as these features.

    Parameters
    ----------
    config : LinkNetConfig
    channels : int
        Image channels.

    References
    ----------
    Chaurasia and Culurciello, "LinkNet: Exploiting Encoder Representations for Efficient Semantic Segmentation", VCIP
    2017: figures 1 and 2, table 1. Where they leave it open, as in the authors' code: the decoder of the finest level
    keeps the resolution, and its result is added to what the first encoder got.
    """

    def __init__(self, config: LinkNetConfig, channels: int) -> None:
        super().__init__()
        style, self.published = Style(config.norm), config.layout == "published"
        finest, *widths = config.widths
        if self.published:  # pooling has no convolution of its own
            widths = widths[1:]
        self.features = finest
        """Channels of the result."""
        self.grain = config.grain
        """Pixels of the input a side that are one of the result."""
        first = nn.Conv2d(channels, widths[0], kernel_size=7, stride=2, padding=3, bias=has_bias(config.norm))
        self.first = nn.Sequential(first, norm_of(config.norm, widths[0]), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if self.published else nn.Identity()
        before = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(ResidualBlock(a, b, style, stride=2 if level else 1), ResidualBlock(b, b, style))
            for level, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        self.up = nn.ModuleList(
            _rise(below, here, style, 3 if self.published else 4)
            for here, below in zip(before[:0:-1], widths[:0:-1], strict=True)
        )
        if self.published:
            self.even = _rise(widths[0], widths[0], style, 3, stride=1)
            last = nn.ConvTranspose2d(widths[0], finest, 3, 2, 1, output_padding=1, bias=has_bias(config.norm))
            smooth = nn.Conv2d(finest, finest, kernel_size=3, padding=1, bias=has_bias(config.norm))
            self.last: nn.Module = nn.Sequential(
                *(last, norm_of(config.norm, finest), nn.ReLU(inplace=True)),
                *(smooth, norm_of(config.norm, finest), nn.ReLU(inplace=True)),
            )
        else:
            self.last = _rise(widths[0], finest, style, 4)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)`, sides multiples of the stride, to `(B, features, h / grain, w / grain)`."""
        start = x = self.pool(self.first(x))
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = skips.pop()
        for up in self.up:
            x = up(x) + skips.pop()
        found: Tensor = self.last(self.even(x) + start if self.published else x)
        return found


def _rise(inputs: int, outputs: int, style: Style, kernel: int, stride: int = 2) -> nn.Sequential:
    """A step up: a projection to few channels, a doubling of the resolution, and a projection to many channels."""
    inner, bias, odd = max(1, inputs // 4), has_bias(style.norm), kernel % 2 and stride == 2
    return nn.Sequential(
        nn.Conv2d(inputs, inner, kernel_size=1, bias=bias),
        norm_of(style.norm, inner),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(inner, inner, kernel, stride, padding=1, output_padding=int(odd), bias=bias),
        norm_of(style.norm, inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, outputs, kernel_size=1, bias=bias),
        norm_of(style.norm, outputs),
        nn.ReLU(inplace=True),
    )
