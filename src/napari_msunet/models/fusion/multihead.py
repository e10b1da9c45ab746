"""Multi-head attention over scales at each pixel: the tokens are the scales there, never pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.models.fusion.rules import Fusion

HEADS, DIMENSIONS = 4, 2
"""Heads, and the channels in which each compares a query with a key."""


class MultiHead(Fusion):
    """Each head weighs the branches' logits by its own softmax over scales; a learned matrix per head, and the sum.

    With features f_i and logits l_i of branch i at a pixel: one query ``q = sum_j Q_j f_j + b``, keys
    ``k_i = K_i f_i + c_i``, shares of head m ``a_m = softmax_i(q_m . k_mi / sqrt(d))``, and
    ``fused = sum_m W_m sum_i a_mi l_i``. Q, K are projections on the branch's own grid.

    References
    ----------
    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.2; here with one query for all tokens, and
    the branches' logits as values.
    """

    per_scale = ("places",)

    def __init__(self, features: Sequence[int], outputs: int, details: Sequence[int] | None = None) -> None:
        super().__init__(features, outputs, details)
        if self.scales == 1:
            return  # one branch has all the weight: nothing to learn
        size = HEADS * DIMENSIONS
        self._project(features, 2 * size)
        self.bias = nn.Parameter(torch.zeros(size))
        self.places = nn.Parameter(torch.randn(self.scales, size) * 0.1)
        """c_i: which scale a token is."""
        self.mix = nn.Parameter(torch.eye(outputs).repeat(HEADS, 1, 1) / HEADS)
        """W_m: at first each head has the same say in each class."""

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        if self.scales == 1:
            return self.classes(zs[0])
        logits, shares = self._shares(zs)
        mixed = shares[:, 0, :, None] * logits[0][:, None]
        for i, own in enumerate(logits[1:], start=1):
            mixed = torch.addcmul(mixed, shares[:, i, :, None], own[:, None])
        # sum_m W_m x_m is one 1x1 convolution over what all heads give
        mix = self.mix.transpose(0, 1).reshape(self.outputs, -1, 1, 1)
        return F.conv2d(mixed.flatten(1, 2), mix)

    def weights(self, zs: Sequence[Tensor]) -> Tensor:
        """Share of each branch at each pixel, the mean over heads, `(B, k, H, W)`."""
        return torch.ones_like(zs[0][:, :1]) if self.scales == 1 else self._shares(zs)[1].mean(dim=2)

    def _shares(self, zs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The branches' logits, and the share of each scale in each head at each pixel, `(B, k, heads, H, W)`."""
        size = HEADS * DIMENSIONS
        # Split at once: one gradient for each z, not one for each part.
        logits, queries, keys = zip(*(torch.split(z, [self.outputs, size, size], dim=1) for z in zs), strict=True)
        query = self.bias.view(1, -1, 1, 1) + queries[0]
        for other in queries[1:]:
            query = query + other
        scores = [
            torch.unflatten(query * (key + place.view(1, -1, 1, 1)), 1, (HEADS, DIMENSIONS)).sum(dim=2)
            for key, place in zip(keys, self.places, strict=True)
        ]
        return list(logits), torch.softmax(torch.stack(scores, dim=1) * DIMENSIONS**-0.5, dim=1)
