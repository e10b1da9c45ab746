"""Probabilities of an image, or of a window of a slide, in memory: for evaluation, previews and tests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from napari_msunet.config import Margin
from napari_msunet.geometry import Window
from napari_msunet.infer.engine import check_fits, pick_device, run_plan
from napari_msunet.infer.plan import make_plan
from napari_msunet.models import MSUNet
from napari_msunet.slide import Slide


def predict_image(
    model: MSUNet,
    slide: Slide,
    window: Window | None = None,
    device: str = "auto",
    margin: Margin = "exact",
    tile: int | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Probabilities of the fused output and of each scale alone.

    The same exact function of the slide as `predict`, without a store.

    Parameters
    ----------
    window : Window, optional
        Pixels of `slide.grid(model.config.mpp)`; None: all.

    Returns
    -------
    dict
        For each of `model.config.outputs` a `(K+1, h, w)` float32 array over the window; and "weights"
        `(k, h, w)`, what the fusion gives to each scale at each pixel, where it has such weights.
    """
    grid = check_fits(model, slide)
    wanted = grid.whole if window is None else window
    picked = pick_device(device)
    plan = make_plan(model.config, model.branch_margins, wanted, margin, tile, 1, str(picked), torch.get_num_threads())
    network = model.to(picked, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    maps: dict[str, npt.NDArray[np.float32]] = {}
    for results in run_plan(network, slide, plan, branches=True):
        for result in results:
            part = result.tile.window.intersection(wanted)
            source = (slice(None), *part.slices((result.tile.window.y, result.tile.window.x)))
            place = (slice(None), *part.slices((wanted.y, wanted.x)))
            found = dict(zip(model.config.outputs, (result.probabilities, *result.branches), strict=True))
            if result.weights is not None:
                found["weights"] = result.weights
            for name, values in found.items():
                target = maps.setdefault(name, np.empty((len(values), *wanted.shape), np.float32))
                target[place] = values.numpy()[source]
    return maps
