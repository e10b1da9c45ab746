"""Fusions inside a network: features of the coarse branches, or copies of the image, enter that of the finest scale."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from napari_msunet.config import ModelConfig
from napari_msunet.models.fusion.rules import Fusion
from napari_msunet.models.meeting import Meeting, meetings

Aligned = Callable[[int, Tensor, Meeting], Tensor]
"""Brings what a scale gives, on the grid where it meets the finest scale's network, onto that network's grid there."""


class Joined(Fusion):
    """What both share: the finest scale's network gives the fused logits.

    Parameters
    ----------
    config : ModelConfig
    networks : sequence
        U-Nets, with `decoded` and `level_features`; one per scale, the same one several times where they share it.
    """

    def __init__(self, config: ModelConfig, networks: Sequence[Any]) -> None:
        super().__init__([n.features for n in networks], len(config.classes) + 1)
        self.finest = config.finest
        self.meetings = meetings(config)
        self.entrances = nn.ModuleDict()
        """By the number of the scale, what brings it into the finest scale's network."""
        for i, meeting in enumerate(self.meetings):
            if meeting:
                self.entrances[str(i)] = self._entrance(config, networks, i, meeting)

    @abstractmethod
    def _entrance(self, config: ModelConfig, networks: Sequence[Any], i: int, meeting: Meeting) -> nn.Module:
        """The way in of one scale."""

    @abstractmethod
    def features_of(self, networks: Sequence[Any], xs: Sequence[Tensor], aligned: Aligned) -> list[Tensor | None]:
        """The last features of each scale's network on its normalised input; None where it has none of its own."""

    def forward(self, zs: Sequence[Tensor]) -> Tensor:
        """The finest scale's logits `(B, K+1, H, W)`."""
        return self.classes(zs[self.finest] if len(zs) > 1 else zs[0])


class Inject(Joined):
    """Features of every coarse branch's way up enter the finest branch's bottleneck, aligned.

    They are taken at the level whose pixels are about as large as the bottleneck's, brought onto its grid, and added by
    a 1x1 convolution each: the same as one convolution over all of them concatenated.

    References
    ----------
    van Rijthoven et al., "HookNet: Multi-resolution convolutional neural networks for semantic segmentation in
    histopathology whole-slide images", Medical Image Analysis 68, 2021; here for any number of scales.
    """

    def _entrance(self, config: ModelConfig, networks: Sequence[Any], i: int, meeting: Meeting) -> nn.Module:
        given, wanted = networks[i].level_features[meeting.level], networks[self.finest].level_features[-1]
        convolution = nn.Conv2d(given, wanted, kernel_size=1, bias=False)
        nn.init.normal_(convolution.weight, std=given**-0.5)
        return convolution

    def features_of(self, networks: Sequence[Any], xs: Sequence[Tensor], aligned: Aligned) -> list[Tensor | None]:
        """The last features of each scale's network."""
        found: list[Tensor | None] = [None] * len(xs)
        deepest: Tensor | None = None
        for i, meeting in enumerate(self.meetings):
            if meeting:
                levels = networks[i].decoded(xs[i])
                found[i] = levels[0]
                entering = self.entrances[str(i)](aligned(i, levels[meeting.level], meeting))
                deepest = entering if deepest is None else deepest + entering
        found[self.finest] = networks[self.finest].decoded(xs[self.finest], deepest=deepest)[0]
        return found


class Pyramid(Joined):
    """One network: copies of the image at the coarser scales enter the level of its way down that fits their pixels.

    Each copy passes a convolution of its own on its own grid.

    References
    ----------
    Fu et al., "Joint Optic Disc and Cup Segmentation Based on Multi-Label Deep Network and Polar Transformation"
    (M-Net), IEEE Transactions on Medical Imaging 37(7), 2018, section III-A; there by concatenation, here by addition.
    """

    def _entrance(self, config: ModelConfig, networks: Sequence[Any], i: int, meeting: Meeting) -> nn.Module:
        wanted = networks[self.finest].level_features[meeting.level - 1]
        convolution = nn.Conv2d(config.channels, wanted, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_in", nonlinearity="relu")
        return nn.Sequential(convolution, nn.BatchNorm2d(wanted), nn.ReLU(inplace=True))

    def features_of(self, networks: Sequence[Any], xs: Sequence[Tensor], aligned: Aligned) -> list[Tensor | None]:
        """The last features of the network, at the finest scale's place; the others have none of their own."""
        entering: dict[int, Tensor] = {}
        for i, meeting in enumerate(self.meetings):
            if meeting:
                x = aligned(i, self.entrances[str(i)](xs[i]), meeting)
                level = meeting.level
                entering[level] = torch.add(entering[level], x) if level in entering else x
        found: list[Tensor | None] = [None] * len(xs)
        found[self.finest] = networks[self.finest].decoded(xs[self.finest], entering=entering)[0]
        return found
