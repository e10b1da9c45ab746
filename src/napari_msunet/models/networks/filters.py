"""Fixed filters as a branch's network: colour, edges and textures of each pixel's neighbourhood, without training."""

from __future__ import annotations

from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_msunet.config.branches import FiltersConfig

PER_CHANNEL = 4
"""Features of each channel at each width: smoothed, slope, and the two curvatures."""


class Filters(nn.Module):
    """Each channel smoothed by Gaussians, its slope there, and its largest and smallest curvature.

    These are the features of trainable pixel classifiers; the eigenvalues of the Hessian tell lines, blobs and saddles
    apart.

    Parameters
    ----------
    config : FiltersConfig
    channels : int

    References
    ----------
    Sommer et al., "ilastik: Interactive learning and segmentation toolkit", ISBI 2011.
    """

    grain = 1

    def __init__(self, config: FiltersConfig, channels: int) -> None:
        super().__init__()
        self.sigmas, self.knots = config.sigmas, config.knots
        plain = PER_CHANNEL * channels * len(config.sigmas)
        self.features = plain * (1 + len(config.knots))
        if config.knots:
            self.register_buffer("mean", torch.zeros(plain))
            self.register_buffer("std", torch.ones(plain))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` to `(B, features, h, w)`."""
        found = self.plain(x)
        if not self.knots:
            return found
        found = (found - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)  # type: ignore[operator]
        return torch.cat([found, *(torch.relu(found - knot) for knot in self.knots)], dim=1)

    def follow(self, x: Tensor) -> None:
        """Take mean and standard deviation of the features from an image `(B, C, h, w)`; only with knots."""
        found = self.plain(x)
        self.mean.copy_(found.mean((0, 2, 3)))  # type: ignore[operator]
        self.std.copy_(found.std((0, 2, 3)).clamp(min=1e-4))  # type: ignore[operator]

    def plain(self, x: Tensor) -> Tensor:
        """The features without knots."""
        found: list[Tensor] = []
        for sigma in self.sigmas:
            smooth = blurred(x, sigma)
            p = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
            above, below, left, right = p[..., :-2, 1:-1], p[..., 2:, 1:-1], p[..., 1:-1, :-2], p[..., 1:-1, 2:]
            slope = torch.hypot(below - above, right - left) / 2
            down, across = below + above - 2 * smooth, right + left - 2 * smooth
            mixed = (p[..., 2:, 2:] - p[..., 2:, :-2] - p[..., :-2, 2:] + p[..., :-2, :-2]) / 4
            mean, spread = (down + across) / 2, torch.hypot((down - across) / 2, mixed)
            found += [smooth, slope, mean + spread, mean - spread]
        return torch.cat(found, dim=1)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Each channel under a Gaussian, cut at three standard deviations; at the edges the outermost pixels repeat."""
    radius = ceil(3 * sigma)
    line = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(line**2) / (2 * sigma**2))
    weight = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), weight, groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), weight.mT, groups=x.shape[1])
