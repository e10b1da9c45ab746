"""What the windows of all scales show of a training window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from napari_msunet.config import ModelConfig
from napari_msunet.data.augment import Views
from napari_msunet.data.hard import HardPlaces
from napari_msunet.data.loader import Batch
from napari_msunet.geometry import Window
from napari_msunet.models import input_windows


def window_views(config: ModelConfig, size: int) -> Views:
    """The views of a square target window of `size` pixels a side."""
    windows = input_windows(config, Window(0, 0, size, size))
    ratios = [float(r) for r in config.input_ratios]
    return Views((size, size), [w.shape for w in windows], ratios)


@dataclass(frozen=True)
class Windows:
    """What a training sees of its images.

    Attributes
    ----------
    config : ModelConfig
        The model's, or (with the loss on the finest branch's own grid) the same with that grid as its target.
    size, border : int
        Side of a window, and what carries no loss at its edge, in target pixels of `config`.
    class_weights : tuple of float, optional
        For the loss; None: those of the job.
    calibration : callable
        Gives batches of unchanged training windows, for the statistics of batch normalisation.
    hard : HardPlaces, optional
        Takes note of windows with a high loss.
    """

    config: ModelConfig
    size: int
    border: int = 0
    class_weights: tuple[float, ...] | None = None
    calibration: Callable[[], Sequence[Batch]] = tuple
    hard: HardPlaces | None = None
