"""Models to start from, for who does not leave the choice to the recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from napari_msunet.config import ModelConfig, UNetConfig


def one_scale(classes: tuple[str, ...], mpp: float | None) -> ModelConfig:
    """One scale: the least work per step, which decides in the first minutes."""
    return ModelConfig(classes=classes, mpp=mpp, scales=(1.0,), fusion="mean", branch=UNetConfig(depth=4, width=16))


def two_scales(classes: tuple[str, ...], mpp: float | None) -> ModelConfig:
    """Two scales: detail, and by a smaller network what is around it."""
    fine = UNetConfig(depth=3, width=16)
    return ModelConfig(
        classes=classes,
        mpp=mpp,
        scales=(1.0, 0.5),
        fusion="attention",
        field="concentric",
        branch=(fine, fine.model_copy(update={"depth": 2})),
    )


def three_scales(classes: tuple[str, ...], mpp: float | None) -> ModelConfig:
    """Three scales: for objects that only their surroundings explain."""
    return ModelConfig(
        classes=classes, mpp=mpp, scales=(1.0, 0.5, 0.25), fusion="attention", branch=UNetConfig(depth=4, width=16)
    )


@dataclass(frozen=True)
class Preset:
    """A model to start from: `name`, a `sentence` about it, and what makes it of classes and µm per pixel."""

    name: str
    sentence: str
    make: Callable[[tuple[str, ...], float | None], ModelConfig]

    def fits(self, config: ModelConfig) -> bool:
        """Whether a model is this preset, at whatever resolution and with whatever classes."""
        made = self.make(config.classes, config.mpp)
        free = {"channels": made.channels, "pixel": 1.0, "normalisation": None, "trained_on": None}
        return made == config.model_copy(update=free)


RESOLUTIONS = {"Nuclei": 0.5, "Glands": 2.5, "Regions": 4.0}
"""µm per pixel to start with, by what is looked for."""

AUTOMATIC = "Automatic"
AUTOMATIC_SENTENCE = "Resolution, network and windows are chosen from your objects and images; the Train step says why."

PRESETS = (
    Preset("One scale", "The least work per step. A first result in minutes without a graphics card.", one_scale),
    Preset("Two scales", "Detail, and more surroundings. Each step costs half as much again.", two_scales),
    Preset("Three scales", "For what only wide surroundings explain. Takes longest.", three_scales),
)
