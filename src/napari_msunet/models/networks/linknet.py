"""LinkNet: residual blocks on the way down, thin steps up, and skips that are added."""

from __future__ import annotations

from torch import Tensor, nn

from napari_msunet.config.branches import LinkNetConfig
from napari_msunet.models.blocks import ResidualBlock, Style, norm_of


class LinkNet(nn.Module):
    """A LinkNet, which begins at half the resolution and ends at the full one.

    Parameters
    ----------
    config : LinkNetConfig
    channels : int
        Image channels.

    References
    ----------
    Chaurasia and Culurciello, "LinkNet: Exploiting Encoder Representations for Efficient Semantic Segmentation", VCIP
    2017; without the pooling behind its first convolution.
    """

    def __init__(self, config: LinkNetConfig, channels: int) -> None:
        super().__init__()
        finest, *widths = config.widths
        style = Style(config.norm)
        self.features = finest
        """Channels of the result."""
        self.grain = config.grain
        """Pixels of the input a side that are one of the result."""
        first = nn.Conv2d(channels, widths[0], kernel_size=7, stride=2, padding=3, bias=False)
        self.first = nn.Sequential(first, norm_of(config.norm, widths[0]), nn.ReLU(inplace=True))
        before = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(ResidualBlock(a, b, style, stride=2 if level else 1), ResidualBlock(b, b, style))
            for level, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        self.up = nn.ModuleList(
            _rise(below, here, style) for here, below in zip(before[:0:-1], widths[:0:-1], strict=True)
        )
        self.last = _rise(widths[0], finest, style)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)`, sides multiples of the stride, to `(B, features, h, w)`."""
        x = self.first(x)
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = skips.pop()
        for up in self.up:
            x = up(x) + skips.pop()
        found: Tensor = self.last(x)
        return found


def _rise(inputs: int, outputs: int, style: Style) -> nn.Sequential:
    """A step up: a projection to few channels, a doubling of the resolution, and a projection to many channels."""
    inner = max(1, inputs // 4)
    return nn.Sequential(
        nn.Conv2d(inputs, inner, kernel_size=1, bias=False),
        norm_of(style.norm, inner),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(inner, inner, kernel_size=4, stride=2, padding=1, bias=False),
        norm_of(style.norm, inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, outputs, kernel_size=1, bias=False),
        norm_of(style.norm, outputs),
        nn.ReLU(inplace=True),
    )
