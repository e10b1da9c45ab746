"""What each scale and the fusion see in a region, as maps in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr

from napari_msunet.config import PreviewJob
from napari_msunet.errors import OutputError
from napari_msunet.events import Event, Message, Result
from napari_msunet.geometry import Grid, Window
from napari_msunet.infer.image import predict_image
from napari_msunet.infer.kept import KEPT
from napari_msunet.infer.setup import matched_channels, wanted_window
from napari_msunet.models import MSUNet
from napari_msunet.slide.appearance import seen_by

LARGEST = 64_000_000
"""Target pixels that a preview may have: it is held in memory."""


def preview_events(job: PreviewJob) -> Iterator[Event]:
    """Run a preview job; see `napari_msunet.run`."""
    model = KEPT.model(job.model)
    with KEPT.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
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
    """What a viewer needs to place and name the maps."""
    return {
        "mpp": model.config.target_mpp,
        "pixel": grid.pixel,
        "window": (window.y, window.x, window.height, window.width),
        "classes": model.config.classes,
        "outputs": model.config.outputs,
    }


def _write(out: Path, maps: dict[str, Any], description: dict[str, Any]) -> None:
    """Write the maps beside their place, then put them there."""
    aside = out.with_name(f".{out.name}.{uuid4().hex[:8]}.part")
    try:
        group = zarr.open_group(aside, mode="w", zarr_format=3, attributes=description)
        for name, values in maps.items():
            # A slash would make a folder of its own.
            group.create_array(
                name.replace("/", ":"), data=values.astype(np.float16), chunks=(1, 512, 512), attributes={"name": name}
            )
        if out.exists():
            shutil.rmtree(out)
        aside.replace(out)
    except OSError as error:
        raise OutputError(f"The preview cannot be written to {out} ({error.strerror}); give another folder.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
