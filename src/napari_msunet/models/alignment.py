"""Where the branches of a joint model meet inside a network: at which level, and how their grids relate there."""

from __future__ import annotations

from fractions import Fraction
from math import log2
from typing import NamedTuple

from napari_msunet.config import ModelConfig


class Alignment(NamedTuple):
    """Where one scale meets the finest scale's network.

    Attributes
    ----------
    level : int
        Of its own way up for ``fusion="inject"``, of the finest scale's way down for ``"pyramid"``.
    ratio : Fraction
        Its pixels per pixel of the finest scale's network, where they meet.
    step : int
        Pixels of its own grid that are one pixel of what it brings there.
    """

    level: int
    ratio: Fraction
    step: int


def alignments(config: ModelConfig) -> list[Alignment | None]:
    """For each scale where it meets the finest one's network; None for that one, and for other fusions."""
    meet = {"inject": _at_bottleneck, "pyramid": _at_level}.get(config.fusion)
    if meet is None:
        return [None] * len(config.scales)
    return [None if i == config.finest else meet(config, i) for i in range(len(config.scales))]


def _at_bottleneck(config: ModelConfig, i: int) -> Alignment:
    """The coarsest level of a branch's way up whose pixels are not larger than those of the finest's bottleneck."""
    deepest = config.branches[config.finest].depth
    bottleneck = config.ratios[config.finest] / (grain_of(config, config.finest) * 2**deepest)
    grain = grain_of(config, i)
    levels = range(config.branches[i].depth + 1)
    fitting = [level for level in levels if config.ratios[i] / (grain * 2**level) >= bottleneck]
    level = fitting[-1] if fitting else 0
    return Alignment(level, config.ratios[i] / (grain * 2**level) / bottleneck, grain * 2**level)


def _at_level(config: ModelConfig, i: int) -> Alignment:
    """The level of the way down whose pixels are nearest in size to the scale's; never the finest one."""
    finest, grain = config.ratios[config.finest], grain_of(config, config.finest)
    wanted = round(log2(finest / grain / config.ratios[i]))
    level = min(max(1, wanted), config.branches[config.finest].depth)
    return Alignment(level, config.ratios[i] * grain * 2**level / finest, 1)


def grain_of(config: ModelConfig, i: int) -> int:
    """Pixels a side of a branch's own grid that are one pixel of its network's finest features."""
    return int(getattr(config.branches[i], "grain", 1))
