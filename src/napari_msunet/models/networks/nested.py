"""Dense skips: between the way down and the way up there is a block at every level and step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from napari_msunet.models.blocks import Style, UpBlock


class Nested(nn.Module):
    """The nested way up of U-Net++: block j of a level sees all blocks before it there, and block j - 1 of the next.

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
        """The maps of the way down, `(B, widths[l], h / 2**l, w / 2**l)` each, to the last of each level."""
        rows = [[m] for m in maps]
        for blocks in self.steps:
            assert isinstance(blocks, nn.ModuleList)  # for the type checker
            below = [row[-1] for row in rows]
            for level, up in enumerate(blocks):
                rows[level].append(up(below[level + 1], torch.cat(rows[level], dim=1)))
        return [row[-1] for row in rows]
