"""Context of several widths at once, by dilated convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_msunet.models.blocks import Style, convolution
from napari_msunet.models.norms import norm_of

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
        join = nn.Conv2d(inner * len(RATES), channels, kernel_size=1, bias=False)
        self.join = nn.Sequential(join, norm_of(style.norm, channels), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` to the same shape."""
        joined: Tensor = self.join(torch.cat([rate(x) for rate in self.rates], dim=1))
        return joined
