"""Models whose output varies: an untrained network gives one class everywhere and passes every test of tiling."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_msunet.config import ModelConfig, UNetConfig
from napari_msunet.geometry import Window
from napari_msunet.models import MSUNet, build_model, input_windows


def noise(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Images with structure at every size, in 0..1."""
    image = torch.zeros(batch, channels, height, width)
    for step in (1, 3, 8, 20, 50):
        coarse = torch.randn(batch, channels, -(-height // step) + 1, -(-width // step) + 1)
        image += F.interpolate(coarse, scale_factor=step, mode="bilinear")[..., :height, :width]
    return (0.5 + 0.15 * image).clamp(0, 1)


@pytest.fixture
def images() -> Callable[..., list[Tensor]]:
    """`images(config, height, width, batch=2, field="same")`: one input per scale, each of its own noise."""

    def make(config: ModelConfig, height: int, width: int, batch: int = 2, field: str = "same") -> list[Tensor]:
        windows = input_windows(config, Window(0, 0, height, width), field)
        return [noise(batch, config.channels, *w.shape) for w in windows]

    return make


@pytest.fixture
def calibrated(images: Callable[..., list[Tensor]]) -> Callable[..., MSUNet]:
    """`calibrated(**config)`: a model in evaluation mode with real batch statistics and clear opinions."""

    def make(**changes: object) -> MSUNet:
        settings = {"classes": ("a", "b"), "mpp": 0.5, "branch": UNetConfig(depth=2, width=4), **changes}
        config = ModelConfig(**settings)
        torch.manual_seed(1)
        model = build_model(config)
        side = -(-96 // config.size_multiple) * config.size_multiple
        with torch.no_grad():
            for _ in range(4):
                model(images(config, side, side), field="same")
            for name, parameter in model.named_parameters():
                if "head" in name or "projections" in name or "entrances" in name:
                    parameter.mul_(3)
        return model.eval()

    return make
