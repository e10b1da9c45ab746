"""Models to start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from napari_msunet.config import ModelConfig, Optimiser, UNetConfig


def fast(classes: tuple[str, ...], mpp: float) -> ModelConfig:
    """One scale: the least work per step, which decides in the first minutes."""
    return ModelConfig(classes=classes, mpp=mpp, scales=(1.0,), fusion="mean", branch=UNetConfig(depth=3, width=16))


def balanced(classes: tuple[str, ...], mpp: float) -> ModelConfig:
    """Two scales: detail, and by a smaller network what is around it; chosen by `benchmarks/presets.py`."""
    fine = UNetConfig(depth=3, width=16)
    coarse = fine.model_copy(update={"depth": 2})
    return ModelConfig(classes=classes, mpp=mpp, scales=(1.0, 0.5), fusion="attention", branch=(fine, coarse))


def three_scales(classes: tuple[str, ...], mpp: float) -> ModelConfig:
    """Three scales: for objects that only their surroundings explain."""
    return ModelConfig(
        classes=classes, mpp=mpp, scales=(1.0, 0.5, 0.25), fusion="attention", branch=UNetConfig(depth=4, width=16)
    )


@dataclass(frozen=True)
class Preset:
    """A model to start from: `name`, a `sentence` about it, what makes it of classes and µm per pixel, and a `rate`."""

    name: str
    sentence: str
    make: Callable[[tuple[str, ...], float], ModelConfig]
    rate: float = Optimiser().learning_rate
    """Learning rate to begin with."""

    def fits(self, config: ModelConfig) -> bool:
        """Whether a model is this preset, at whatever resolution and with whatever classes."""
        made = self.make(("any",), config.mpp).model_copy(update={"classes": config.classes})  # of an old file
        return made == config.model_copy(update={"channels": made.channels, "normalisation": None})


RESOLUTIONS = {"Nuclei": 0.5, "Glands": 2.5, "Regions": 4.0}
"""µm per pixel to start with, by what is looked for."""

BALANCED = Preset("Balanced", "Two scales: detail, and more surroundings. A good start.", balanced, rate=3e-3)

PRESETS = (
    Preset("Fast on a laptop", "One scale. A first result in minutes without a graphics card.", fast),
    BALANCED,
    Preset("As in the method", "Three scales: for what only wide surroundings explain. Takes longest.", three_scales),
)
