"""Attention inside a branch: local, or in windows of a grid that is fixed to the slide, so that tiles stay exact."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.config.branches import Norm
from napari_msunet.models.norms import norm_of

PER_HEAD = 8
"""Channels of a head of self-attention."""


class AttentionGate(nn.Module):
    """Weighs skipped features at each pixel by what the coarser level found there.

    Parameters
    ----------
    skipped, coarse : int
        Channels of both, at the same resolution.
    norm : str

    References
    ----------
    Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018.
    """

    def __init__(self, skipped: int, coarse: int, norm: Norm) -> None:
        super().__init__()
        inner = max(1, coarse // 2)
        self.skipped = nn.Sequential(nn.Conv2d(skipped, inner, kernel_size=1, bias=False), norm_of(norm, inner))
        self.coarse = nn.Sequential(nn.Conv2d(coarse, inner, kernel_size=1, bias=False), norm_of(norm, inner))
        self.score = nn.Conv2d(inner, 1, kernel_size=1)

    def forward(self, skipped: Tensor, coarse: Tensor) -> Tensor:
        """`skipped`, each pixel times a number of 0..1."""
        hidden = torch.relu(self.skipped(skipped) + self.coarse(coarse))
        return skipped * torch.sigmoid(self.score(hidden))


class PixelAttention(nn.Module):
    """Each pixel weighs its own channels.

    References
    ----------
    Zhao et al., "Efficient Image Super-Resolution Using Pixel Attention", ECCV Workshops 2020.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)`, each number times one of 0..1."""
        return x * torch.sigmoid(self.score(x))


class WindowAttention(nn.Module):
    """The pixels of a window look at each other; windows lie on a grid that begins at the map's corner.

    Tiles begin and end on multiples of the branch's stride, and that is a multiple of the window, so the grid is the
    same in every tile.

    Parameters
    ----------
    channels : int
    window : int
        Pixels a side.
    norm : str

    References
    ----------
    Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021; here without the
    shift, with the relative position bias.
    """

    def __init__(self, channels: int, window: int, norm: Norm) -> None:
        super().__init__()
        self.window = window
        self.heads = channels // PER_HEAD if channels % PER_HEAD == 0 else 1
        self.norm = norm_of(norm, channels)
        self.expand = nn.Conv2d(channels, 3 * channels, kernel_size=1, bias=False)
        self.project = nn.Conv2d(channels, channels, kernel_size=1)
        self.bias = nn.Parameter(torch.zeros(self.heads, (2 * window - 1) ** 2))

    def _positions(self, device: torch.device) -> Tensor:
        """For each pair of pixels of a window, where its bias stands."""
        place = torch.arange(self.window, device=device)
        y, x = (v.flatten() for v in torch.meshgrid(place, place, indexing="ij"))
        across = 2 * self.window - 1
        return (y[:, None] - y[None] + self.window - 1) * across + x[:, None] - x[None] + self.window - 1

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)`, sides multiples of the window, plus what the other pixels of its window add to each."""
        batch, channels, height, width = x.shape
        w, rows, columns = self.window, height // self.window, width // self.window
        parts = self.expand(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, rows, w, columns, w)
        q, k, v = parts.permute(1, 0, 4, 6, 2, 5, 7, 3).flatten(5, 6).flatten(1, 3).unbind(0)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[:, self._positions(x.device)].to(q.dtype))
        found = found.reshape(batch, rows, columns, self.heads, w, w, channels // self.heads)
        found = found.permute(0, 3, 6, 1, 4, 2, 5).reshape(batch, channels, height, width)
        added: Tensor = self.project(found.contiguous(memory_format=torch.channels_last))
        return x + added
