"""What the windows of all scales show of a training window."""

from __future__ import annotations

from napari_msunet.config import ModelConfig
from napari_msunet.data.augment import Views
from napari_msunet.geometry import Window
from napari_msunet.models import input_windows


def window_views(config: ModelConfig, size: int) -> Views:
    """The views of a square target window of `size` pixels a side."""
    windows = input_windows(config, Window(0, 0, size, size))
    ratios = [float(r) for r in getattr(config, "input_ratios", config.ratios)]
    return Views((size, size), [w.shape for w in windows], ratios)
