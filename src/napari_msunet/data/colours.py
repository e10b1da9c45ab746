"""The colour part of an augmentation: one change of light and stain for all scales of a window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from napari_msunet.config import Augmentation

_HAEMATOXYLIN = (0.650, 0.704, 0.286)
_EOSIN = (0.072, 0.990, 0.105)
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Colours:
    """Random numbers of a batch.

    Attributes
    ----------
    brightness, contrast : (B,)
        Factors.
    stain : (B, 3, 3)
        What to multiply optical densities with.
    saturation : (B,), optional
        Factors.
    """

    brightness: Tensor
    contrast: Tensor
    stain: Tensor
    saturation: Tensor | None = None

    def only_for(self, brightfield: Tensor) -> Colours:
        """The same, but stain and saturation stay where a window is no bright field."""
        stain = torch.where(brightfield.cpu()[:, None, None], self.stain, torch.eye(3))
        saturation = self.saturation
        if saturation is not None:
            saturation = torch.where(brightfield.cpu(), saturation, torch.ones_like(saturation))
        return Colours(self.brightness, self.contrast, stain, saturation)


def draw_colours(count: int, options: Augmentation, generator: torch.Generator) -> Colours:
    """Random numbers for `count` windows."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    brightness, contrast = 1 + uniform(options.brightness), 1 + uniform(options.contrast)
    factors = 1 + torch.stack([uniform(options.stain) for _ in range(3)], 1)
    stains = _stains()
    stain = torch.linalg.inv(stains) @ torch.diag_embed(factors) @ stains
    return Colours(brightness, contrast, stain, 1 + uniform(options.saturation) if options.saturation else None)


def _stains() -> Tensor:
    """Optical densities of haematoxylin, eosin and what is left over, a row each (Ruifrok and Johnston 2001)."""
    stains = torch.tensor([_HAEMATOXYLIN, _EOSIN, (0.0, 0.0, 0.0)])
    stains[2] = torch.linalg.cross(stains[0], stains[1])
    lengths: Tensor = torch.linalg.vector_norm(stains, dim=1, keepdim=True)
    return stains / lengths


def coloured(windows: list[Tensor], numbers: Colours, options: Augmentation) -> list[Tensor]:
    """Windows with their stain changed, then saturation, contrast about the finest window's mean, then brightness.

    Parameters
    ----------
    windows : list of (B, C, h, w) tensors in 0..1
        For each scale.
    """
    rgb = windows[0].shape[1] == 3
    if options.stain and rgb and not torch.equal(numbers.stain, torch.eye(3).expand_as(numbers.stain)):
        windows = [_stained(x, numbers.stain.to(x.device)) for x in windows]
    if numbers.saturation is not None and rgb:
        windows = [_saturated(x, numbers.saturation.to(x.device)) for x in windows]
    if options.contrast or options.brightness:
        factor = numbers.contrast.to(windows[0].device)[:, None, None, None]
        brightness = numbers.brightness.to(windows[0].device)[:, None, None, None]
        middle = windows[0].mean((1, 2, 3), keepdim=True)
        windows = [(((x - middle) * factor + middle) * brightness).clamp(0, 1) for x in windows]
    return windows


def _saturated(x: Tensor, factor: Tensor) -> Tensor:
    """RGB moved away from its grey, or towards it."""
    grey = torch.einsum("bchw,c->bhw", x, torch.tensor(_LUMA, device=x.device))[:, None]
    changed = ((x - grey) * factor[:, None, None, None] + grey).clamp(0, 1)
    return torch.where((factor == 1)[:, None, None, None], x, changed)


def _stained(x: Tensor, matrix: Tensor) -> Tensor:
    """RGB with its stains changed: optical density is -log10 of the transmitted light."""
    density = -torch.log10(x.clamp_min(1 / 255))
    changed = torch.einsum("bchw,bcd->bdhw", density, matrix)
    stained = torch.pow(10.0, -changed).clamp(0, 1)
    same = (matrix == torch.eye(3, device=matrix.device)).all(2).all(1)
    return torch.where(same[:, None, None, None], x, stained) if bool(same.any()) else stained
