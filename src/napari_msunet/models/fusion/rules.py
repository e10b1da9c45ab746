"""How the branches are combined at each target pixel: rules that are all cheap, none of them over space.

Linear maps commute with upsampling, so whatever a fusion needs of a branch's features is projected to a few channels on
the branch's own grid; only those are brought to the target grid, behind the branch's class logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 8
"""Channels in which attention compares the branches."""


class Fusion(nn.Module):
    """What all fusions share.

    Parameters
    ----------
    features : sequence of int
        Channels of each branch's last features.
    outputs : int
        Classes and background: K + 1.
    details : sequence of int, optional
        For each branch, how many times finer than its features its `z` is, by sub-pixel channels; None: all 1.
    """

    per_scale: tuple[str, ...] = ()
    """Parameters with a row for each scale."""

    def __init__(self, features: Sequence[int], outputs: int, details: Sequence[int] | None = None) -> None:
        super().__init__()
        self.scales = len(features)
        self.outputs = outputs
        self.details = tuple(details or (1,) * self.scales)
        self.projections: nn.ModuleList | None = None
        """For each branch a 1x1 convolution without bias, from its features to what the fusion needs of them; each
        channel ``detail ** 2`` times, one for each sub-pixel."""

    def _project(self, features: Sequence[int], channels: int) -> None:
        self.projections = nn.ModuleList(
            nn.Conv2d(f, channels * d**2, kernel_size=1, bias=False)
            for f, d in zip(features, self.details, strict=True)
        )
        for projection in self.projections:
            # As one convolution over the features of all branches together would be initialised.
            nn.init.normal_(projection.weight, std=sum(features) ** -0.5)  # type: ignore[arg-type]

    def classes(self, z: Tensor) -> Tensor:
        """The class logits `(B, K+1, H, W)` of a branch's `z`."""
        return z[:, : self.outputs]

    def rest(self, z: Tensor) -> Tensor:
        """What the fusion asked for: the channels of `z` behind the class logits."""
        return z[:, self.outputs :]

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)` of the branches' `z`, all on the target grid."""
        raise NotImplementedError

    def weights(self, zs: Sequence[Tensor]) -> Tensor | None:
        """Share of each branch at each pixel, `(B, k, H, W)` with sum 1; None where the rule has no such shares."""
        return None

    def _log_probabilities(self, zs: Sequence[Tensor]) -> Tensor:
        return torch.stack([F.log_softmax(self.classes(z), dim=1) for z in zs])


class Mean(Fusion):
    """The mean of the branches' probabilities, as a logarithm."""

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        return torch.logsumexp(self._log_probabilities(zs), dim=0) - log(self.scales)


class Weighted(Fusion):
    """The mean of probabilities, weighted by the softmax of one learned number per scale."""

    per_scale = ("scores",)

    def __init__(self, features: Sequence[int], outputs: int, details: Sequence[int] | None = None) -> None:
        super().__init__(features, outputs, details)
        self.scores = nn.Parameter(torch.zeros(self.scales))

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        shares = F.log_softmax(self.scores, dim=0).view(-1, 1, 1, 1, 1)
        return torch.logsumexp(self._log_probabilities(zs) + shares, dim=0)

    def weights(self, zs: Sequence[Tensor]) -> Tensor:
        """The same shares at every pixel, `(B, k, H, W)`."""
        batch, _, height, width = zs[0].shape
        return torch.softmax(self.scores, dim=0).view(1, -1, 1, 1).expand(batch, -1, height, width)


class Maximum(Fusion):
    """The largest probability any branch gives to a class, made to sum to 1 again."""

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        return F.log_softmax(self._log_probabilities(zs).amax(dim=0), dim=1)


class Concat(Fusion):
    """A 1x1 convolution over all branches' last features, as the sum of one projection of each, and one bias."""

    def __init__(self, features: Sequence[int], outputs: int, details: Sequence[int] | None = None) -> None:
        super().__init__(features, outputs, details)
        self._project(features, outputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        total = self.rest(zs[0])
        for z in zs[1:]:
            total = total + self.rest(z)
        return total + self.bias.view(1, -1, 1, 1)


class Attention(Fusion):
    """The branches' logits, weighted at each pixel by a softmax over scales.

    The scores of all scales come from all branches' features at that pixel: their projections are summed, and a ReLU
    and a 1x1 convolution follow.

    References
    ----------
    Chen et al., "Attention to Scale: Scale-aware Semantic Image Segmentation", CVPR 2016; here light, and per pixel.
    """

    per_scale = ("score.weight", "score.bias")

    def __init__(self, features: Sequence[int], outputs: int, details: Sequence[int] | None = None) -> None:
        super().__init__(features, outputs, details)
        if self.scales == 1:
            return  # one branch has all the weight: nothing to learn
        self._project(features, HIDDEN)
        self.bias = nn.Parameter(torch.zeros(HIDDEN))
        self.score = nn.Conv2d(HIDDEN, self.scales, kernel_size=1)
        nn.init.normal_(self.score.weight, std=0.1)  # begin close to equal shares
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """Fused logits `(B, K+1, H, W)`."""
        if self.scales == 1:
            return self.classes(zs[0])
        shares = self.weights(zs)
        fused = shares[:, :1] * self.classes(zs[0])
        for i, z in enumerate(zs[1:], start=1):
            fused.addcmul_(shares[:, i : i + 1], self.classes(z))  # in place: a backward pass needs none of the sums
        return fused

    def weights(self, zs: Sequence[Tensor]) -> Tensor:
        """Share of each branch at each pixel, `(B, k, H, W)`."""
        if self.scales == 1:
            return torch.ones_like(zs[0][:, :1])
        hidden = self.rest(zs[0]) + self.bias.view(1, -1, 1, 1)
        for z in zs[1:]:
            hidden += self.rest(z)
        return torch.softmax(self.score(hidden.relu_()), dim=1)
