"""Probabilities of an image or a window of a slide, in memory; and maps of each scale as a preview."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from napari_msunet._io import aside
from napari_msunet.config import Margin, PredictOptions, PreviewJob
from napari_msunet.errors import OutputError
from napari_msunet.events import Event, Message, Result
from napari_msunet.geometry import Grid, Window
from napari_msunet.inference.engine import Pass, RequestedMaps
from napari_msunet.inference.model_cache import MODEL_CACHE
from napari_msunet.inference.network import VARIANTS
from napari_msunet.inference.own_grid import gathered
from napari_msunet.inference.setup import matched_channels, plan_for, set_up, wanted_window
from napari_msunet.inference.slide_statistics import Statistics
from napari_msunet.models import MSUNet
from napari_msunet.slide import Slide
from napari_msunet.slide.appearance import seen_by

# ----------------------------------------------------------------------------------------------------------------------
# Probabilities of an image, or of a window of a slide, in memory, for evaluation, previews and tests.


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

    The result is the same exact function of the slide as that of `predict`, but it needs no store.

    Parameters
    ----------
    window : Window, optional
        Pixels of `slide.grid(model.config.target)`; None: all.
    statistics : dict, optional
        For slide normalisation, from `fit_statistics`, such as those of all images of a patient; None: of this image.

    Returns
    -------
    dict
        For each of `model.config.outputs` a `(K+1, h, w)` float32 array over the window; and "weights"
        `(k, h, w)`, the weight that the fusion gives to each scale at each pixel, where it has such weights.
    """
    options = PredictOptions(device=device, margin=margin, tile=tile)
    setup = set_up(slide, [model], options)
    setup = replace(setup, kept=None if statistics is None else [statistics])
    wanted = setup.grid.whole if window is None else window
    plan = plan_for(replace(setup, window=wanted))
    variants = VARIANTS["none"]
    picked = setup.devices[0]
    everything = RequestedMaps(branches=True, weights=True)
    work = Pass(
        setup.networks(picked), slide, plan, setup.grid, everything, variants, setup.channels, scales=setup.scales
    )
    found = gathered(work, wanted)
    each = ("probabilities", *(f"branch {i}" for i in range(len(model.config.own))))
    maps = {output: found[name] for output, name in zip(model.config.outputs, each, strict=True)}
    return maps | ({"weights": found["weights"]} if "weights" in found else {})


# ----------------------------------------------------------------------------------------------------------------------
# The preview job, which writes the maps of a region.

LARGEST = 64_000_000
"""Most target pixels of a preview, which is held in memory."""


def preview_events(job: PreviewJob) -> Iterator[Event]:
    """Run a preview job; see `napari_msunet.run`."""
    model = MODEL_CACHE.model(job.model)
    with MODEL_CACHE.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
        matched_channels(model, slide)
        grid = slide.grid(model.config.target)
        window = wanted_window(slide, grid, job.region)
        if window.height * window.width > LARGEST:
            raise OutputError(
                f"A preview of {window.height} x {window.width} pixels would not fit in memory; zoom in, or predict "
                "the slide with outputs=('labels', 'probabilities')."
            )
        for text in seen_by(model.config.trained_on, slide).doubts:
            yield Message(level="warning", text=text)
        maps = predict_image(model, slide, window, device=job.device)
    _write(job.out, maps, _description(model, grid, window))
    learned = [float(v) for v in maps["weights"].mean((1, 2))] if "weights" in maps else None
    yield Result(values={"mean_weights": learned}, files={"maps": str(job.out)})


def _description(model: MSUNet, grid: Grid, window: Window) -> dict[str, Any]:
    """The description by which a viewer places and names the maps."""
    return {
        "mpp": model.config.target_mpp,
        "pixel": grid.pixel,
        "window": (window.y, window.x, window.height, window.width),
        "classes": model.config.classes,
        "outputs": model.config.outputs,
    }


def _write(out: Path, maps: dict[str, Any], description: dict[str, Any]) -> None:
    """Write the maps beside their place, then put them there."""
    with aside(out, overwrite=True) as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=3, attributes=description)
        for name, values in maps.items():
            # A slash in the name would make another folder.
            group.create_array(
                name.replace("/", ":"), data=values.astype(np.float16), chunks=(1, 512, 512), attributes={"name": name}
            )
