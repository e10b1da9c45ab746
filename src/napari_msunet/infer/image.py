"""Probabilities of an image, or of a window of a slide, in memory: for evaluation, previews and tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from napari_msunet.config import Margin, PredictOptions
from napari_msunet.errors import SlideError
from napari_msunet.geometry import Window
from napari_msunet.infer.engine import Pass
from napari_msunet.infer.fuse import Wanted
from napari_msunet.infer.network import VARIANTS
from napari_msunet.infer.setup import plan_for, set_up
from napari_msunet.infer.slide_statistics import Statistics
from napari_msunet.models import MSUNet
from napari_msunet.slide import Slide


def predict_image(
    model: MSUNet,
    slide: Slide,
    window: Window | None = None,
    device: str = "auto",
    margin: Margin = "exact",
    tile: int | None = None,
    statistics: Statistics | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Probabilities of the fused output and of each scale alone.

    The same exact function of the slide as `predict`, without a store.

    Parameters
    ----------
    window : Window, optional
        Pixels of `slide.grid(model.config.mpp)`; None: all.
    statistics : dict, optional
        For slide normalisation, from `fit_statistics`, such as those of all images of a patient; None: of this image.

    Returns
    -------
    dict
        For each of `model.config.outputs` a `(K+1, h, w)` float32 array over the window; and "weights"
        `(k, h, w)`, what the fusion gives to each scale at each pixel, where it has such weights.
    """
    options = PredictOptions(device=device, margin=margin, tile=tile)
    setup = set_up(slide, [model], options)
    setup = replace(setup, kept=None if statistics is None else [statistics])
    wanted = setup.grid.whole if window is None else window
    plan = plan_for(replace(setup, window=wanted))
    variants = VARIANTS["none"]
    picked = setup.devices[0]
    everything = Wanted(branches=True, weights=True)
    work = Pass(
        setup.networks(picked), slide, plan, setup.grid, everything, variants, setup.channels, scales=setup.scales
    )
    maps: dict[str, npt.NDArray[np.float32]] = {}
    for results in work.run(work.works(None, ())):
        for result in results:
            if result.maps is None:
                raise SlideError(result.failed or "A tile could not be computed.")
            part = result.tile.window.intersection(wanted)
            source = (slice(None), *part.slices((result.tile.window.y, result.tile.window.x)))
            place = (slice(None), *part.slices((wanted.y, wanted.x)))
            found = dict(zip(model.config.outputs, (result.maps.probabilities, *result.maps.branches), strict=True))
            if result.maps.weights is not None:
                found["weights"] = result.maps.weights
            for name, values in found.items():
                target = maps.setdefault(name, np.empty((len(values), *wanted.shape), np.float32))
                target[place] = values[source]
    return maps
