"""A learned enlargement before a network, for scales finer than the image's own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 16


class Stem(nn.Module):
    """Enlarges an image: each pixel repeated, plus what two convolutions add to each sub-pixel.

    Parameters
    ----------
    channels : int
        Image channels.
    factor : int
        Times as many pixels a side.

    References
    ----------
    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
    Network", CVPR 2016.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.first = nn.Conv2d(channels, HIDDEN, kernel_size=3, padding=1)
        self.second = nn.Conv2d(HIDDEN, channels * factor**2, kernel_size=3, padding=1)
        nn.init.kaiming_normal_(self.first.weight, mode="fan_in", nonlinearity="relu")
        nn.init.normal_(self.second.weight, std=0.02)  # begin close to plain repetition
        for convolution in (self.first, self.second):
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)` to `(B, channels, factor * h, factor * w)`."""
        detail = F.pixel_shuffle(self.second(F.relu(self.first(x))), self.factor)
        return detail + x.repeat_interleave(self.factor, dim=-2).repeat_interleave(self.factor, dim=-1)
