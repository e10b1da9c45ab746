"""A feature pyramid: the result takes part in all resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.models.blocks import Style, convolution


class Pyramid(nn.Module):
    """Maps of all resolutions as one at the finest: each is projected, doubled and added to the next finer.

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
