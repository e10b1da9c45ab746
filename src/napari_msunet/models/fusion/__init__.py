"""How the branches are combined: rules at each pixel, attention over scales, or inside a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari_msunet.config import Fusion as FusionName
from napari_msunet.config import ModelConfig
from napari_msunet.models.fusion.joined import Inject, Joined, Pyramid
from napari_msunet.models.fusion.multihead import MultiHead
from napari_msunet.models.fusion.rules import HIDDEN, Attention, Concat, Fusion, Maximum, Mean, Weighted

FUSIONS: dict[FusionName, type[Fusion]] = {
    "mean": Mean,
    "weighted": Weighted,
    "max": Maximum,
    "concat": Concat,
    "attention": Attention,
    "multihead": MultiHead,
}
"""The class of each rule in `ModelConfig.fusion` that combines what branches give."""

JOINS: dict[FusionName, type[Joined]] = {"inject": Inject, "pyramid": Pyramid}
"""The class of each that works inside the network."""


def build_fusion(config: ModelConfig, networks: Sequence[Any], details: Sequence[int]) -> Fusion:
    """The fusion of a config.

    Parameters
    ----------
    networks : sequence
        One for each scale, the same one where they share it.
    details : sequence of int
        How many times finer than its features each branch's output is.
    """
    if config.fusion in JOINS:
        return JOINS[config.fusion](config, networks)
    return FUSIONS[config.fusion]([n.features for n in networks], len(config.classes) + 1, details)


__all__ = ["FUSIONS", "HIDDEN", "JOINS", "Fusion", "Inject", "Joined", "Pyramid", "build_fusion"]
