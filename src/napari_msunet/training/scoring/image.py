"""Scoring one image at the resolution of its truth, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from napari_msunet.constants import IGNORED
from napari_msunet.data import Item
from napari_msunet.data.sampling import known_cells
from napari_msunet.data.truth import own_instances
from napari_msunet.geometry import Grid, Window, round_up
from napari_msunet.inference.image import predict_image
from napari_msunet.inference.own_grid import on_grid, target_window
from napari_msunet.inference.postprocess.instances import Instances
from napari_msunet.inference.postprocess.split_touching import SplitTouching
from napari_msunet.models import MSUNet
from napari_msunet.objects.components import ArrayPlane, Walk, connected
from napari_msunet.training.scoring.instance_scores import Overlaps, instance_scores
from napari_msunet.training.scoring.metrics import Confusion
from napari_msunet.training.scoring.outlines import outline_scores
from napari_msunet.training.scoring.uncertainty import Calibration

# ----------------------------------------------------------------------------------------------------------------------
# The scores of one image.

_MEMORY = 256e6
_LARGEST = 2048
_BAND = 256

WHOLE = 36_000_000
"""Largest image, in pixels, that is held whole, which outlines and instances need."""

Objects = Literal["connected", "parted"]


@dataclass
class ImageScores:
    """The counts and scores of one image.

    Attributes
    ----------
    counts : dict of str to Confusion
        Confusion matrices of "fused" and of each scale.
    calibration : Calibration
        The calibration of the fused output.
    predicted, truth : (h, w) uint8, optional
        Class numbers of the fused output and of the truth; None for an image too large to hold.
    outlines : dict
        Outline scores of the fused output, by class.
    instances : dict
        Instance scores of the fused output; empty where they were not requested.
    """

    counts: dict[str, Confusion]
    calibration: Calibration = field(default_factory=Calibration)
    predicted: npt.NDArray[np.uint8] | None = None
    truth: npt.NDArray[np.uint8] | None = None
    outlines: dict[str, dict[str, float]] = field(default_factory=dict)
    instances: dict[str, float] = field(default_factory=dict)


def score_item(model: MSUNet, item: Item, device: str = "auto", whole: bool = False) -> ImageScores:
    """Count predicted against true classes at pixels with truth.

    A large image is processed window by window, so that memory does not grow with its size.

    Parameters
    ----------
    model : MSUNet
    item : Item
    device : str
    whole : bool
        Whether to keep the prediction and the truth of an image that is small enough.
    """
    outputs = len(model.config.classes) + 1
    found = ImageScores({name: Confusion(outputs) for name in model.config.outputs})
    shape = item.truth.grid.shape
    if whole and shape[0] * shape[1] <= WHOLE:
        found.predicted = np.zeros(shape, np.uint8)
        found.truth = np.full(shape, IGNORED, np.uint8)
    size = int(min(_LARGEST, (_MEMORY / 4 / outputs / len(found.counts)) ** 0.5))
    size = min(size, round_up(max(item.grid.shape), 2))
    for cell in known_cells(item, size):
        own = item.truth.grid.centres(item.grid.region(cell)).intersection(item.truth.grid.whole)
        if own.empty:
            continue
        truth = item.truth.read(own)
        if found.truth is not None:
            found.truth[own.slices()] = truth
        if (truth == IGNORED).all():
            continue
        _score_window(model, item, own, truth, device, found)
    return found


def _score_window(
    model: MSUNet, item: Item, own: Window, truth: npt.NDArray[np.uint8], device: str, found: ImageScores
) -> None:
    """Predict a window of the truth, and count it band by band."""
    needed = target_window(own, item.truth.grid, item.grid)
    maps = predict_image(model, item.slide, window=needed, device=device)
    for name, confusion in found.counts.items():
        for top in range(0, own.height, _BAND):
            band = Window(own.y + top, own.x, min(_BAND, own.height - top), own.width)
            probabilities = on_grid(maps[name], needed, item.grid, item.truth.grid, band)
            predicted = probabilities.argmax(0)
            here = truth[top : top + band.height]
            confusion.add(torch.from_numpy(predicted), torch.from_numpy(here))
            if name == "fused":
                found.calibration.add(probabilities, here)
                if found.predicted is not None:
                    found.predicted[band.slices()] = predicted


def add_shapes(found: ImageScores, item: Item, classes: Sequence[str], objects: Objects | None) -> None:
    """Add the outline scores, and on request those of instances, of an image that was kept whole.

    Parameters
    ----------
    objects : str, optional
        How the prediction becomes instances: "connected" pieces, or these split where objects touch ("parted", by a
        watershed).
    """
    if found.predicted is None or found.truth is None:
        return
    found.outlines = outline_scores(found.truth, found.predicted, classes, pixel_size(item))
    if objects is not None:
        predicted = connected(found.predicted) if objects == "connected" else parted(found.predicted)
        numbers = own_instances(item.truth)
        known = (found.truth != IGNORED) & (numbers >= 0)
        found.instances = instance_scores(Overlaps.of(np.maximum(numbers, 0), predicted, known))


def parted(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """The instances of an image of class numbers: connected pieces, split where objects touch."""
    out = np.zeros(labels.shape, np.uint32)
    whole = Window(0, 0, *labels.shape)
    work = Instances(Walk(labels.shape, [whole]), SplitTouching())
    for _ in work.steps(ArrayPlane(labels), ArrayPlane(out)):
        pass
    return out


def pixel_size(item: Item) -> tuple[float, float]:
    """The size of a pixel of the truth in µm, or in pixels of the image where its µm are not known."""
    mpp: Any = item.slide.mpp or (1.0, 1.0)
    grid: Grid = item.truth.grid
    return grid.pixel[0] * mpp[0], grid.pixel[1] * mpp[1]
