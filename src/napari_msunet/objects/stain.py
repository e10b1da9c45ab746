"""The stain of objects: optical densities of two stains, summed over each object and over a ring around it.

Colour deconvolution after Ruifrok and Johnston: the decadic optical density of red, green and blue, against the slide's
own glass, is a mixture of the densities of the stains (Beer-Lambert), and is parted by the inverse of their colours.

References
----------
A. C. Ruifrok and D. A. Johnston, "Quantification of histochemical staining by color deconvolution", Analytical and
Quantitative Cytology and Histology 23 (2001) 291-299.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from napari_msunet.config import Stain
from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import SlideError
from napari_msunet.geometry import Grid, Window
from napari_msunet.labels import LabelStore
from napari_msunet.objects.instances import LabelImage
from napari_msunet.slide import Slide
from napari_msunet.slide.tissue import optical_density, slide_glass

Numbers = npt.NDArray[np.float64]

COLOURS = {
    "haematoxylin": (0.650, 0.704, 0.286),
    "eosin": (0.072, 0.990, 0.105),
    "dab": (0.268, 0.570, 0.776),
}
"""Red, green and blue optical density of each stain (Ruifrok and Johnston)."""

HIGH_POSITIVE = 3
"""The strongest grade of a positive object."""


def stain_names(stain: Stain) -> tuple[str, ...]:
    """The two stains, none where none is measured."""
    return () if stain == "none" else tuple(stain.split("-"))


def unmixing(names: Sequence[str]) -> npt.NDArray[np.float32]:
    """The matrix `(3, 2)` from optical densities of red, green and blue to those of two stains.

    The third colour is the residual, at right angles to both. Each stain's colour has length 1.
    """
    first, second = (np.array(COLOURS[name]) / np.linalg.norm(COLOURS[name]) for name in names)
    rest = np.cross(first, second)
    mixed = np.stack([first, second, rest / np.linalg.norm(rest)])
    found: npt.NDArray[np.float32] = np.linalg.inv(mixed)[:, :2].astype(np.float32)
    return found


def stain_densities(
    pixels: npt.NDArray[Any], white: npt.NDArray[np.float64], names: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Decadic optical density `(2, h, w)` of two stains in pixels `(h, w, 3)`; `white` is the colour of glass."""
    density = np.stack(optical_density(pixels, white), -1)
    return np.moveaxis(density @ unmixing(names), -1, 0)


@dataclass(frozen=True)
class StainPlanes:
    """Gives, for a window of labels, planes whose sums over an object's pixels are its stain, and that of its ring.

    The stain of each ring pixel stands at the pixel of an object that is nearest to it, so that the sums over an object
    are those of its ring, whichever windows it lies in.

    Attributes
    ----------
    slide : Slide
    grid : Grid
        The labels' pixels.
    image : LabelImage
        The labels.
    names : tuple of str
        The two stains.
    white : (3,) array
        The colour of glass.
    ring : float
        Width of the ring in the unit of `spacing`; 0: none.
    spacing : (y, x)
        Size of the labels' pixels.
    annotation : bool
        Whether 255 in the labels is background.
    """

    slide: Slide
    grid: Grid
    image: LabelImage
    names: tuple[str, ...]
    white: npt.NDArray[np.float64]
    ring: float
    spacing: tuple[float, float]
    annotation: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The sums, in order: number of pixels, stains; with a ring number of pixels and stains of the ring."""
        own = ("pixels", *self.names)
        return own + tuple(f"ring_{name}" for name in own) if self.ring else own

    def __call__(self, window: Window, labels: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """The planes `(h, w)` of a window."""
        objects = self._objects(labels)
        if not objects.any():
            return [np.zeros(window.shape, np.float32)] * len(self.columns)
        if not self.ring:
            return [objects.astype(np.float32), *self._stains(window)]
        reach = [int(np.ceil(self.ring / size)) for size in self.spacing]
        around = Window.between(
            (window.y - reach[0], window.x - reach[1]), (window.stop[0] + reach[0], window.stop[1] + reach[1])
        )
        around = around.intersection(Window(0, 0, *self.image.shape))
        stains = self._stains(around)
        here = window.slices((around.y, around.x))
        planes = [objects.astype(np.float32), *(plane[here] for plane in stains)]
        empty = ~self._objects(self.image.read(around))
        distance, (y, x) = distance_transform_edt(empty, sampling=self.spacing, return_indices=True)
        inside = (y >= here[0].start) & (y < here[0].stop) & (x >= here[1].start) & (x < here[1].stop)
        ring = empty & (distance <= self.ring) & inside
        nearest = (y[ring] - here[0].start) * window.width + (x[ring] - here[1].start)
        for values in (None, *stains):
            sums = np.bincount(nearest, None if values is None else values[ring], objects.size)
            planes.append(sums.reshape(window.shape))
        return planes

    def _objects(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = labels != 0
        return found & (labels != ANNOTATED_BACKGROUND) if self.annotation else found

    def _stains(self, window: Window) -> npt.NDArray[np.float32]:
        return stain_densities(self.slide.read_window(self.grid, window), self.white, self.names)


def stain_planes(slide: Slide, store: LabelStore, image: LabelImage, stain: Stain, ring: float) -> StainPlanes:
    """What measures the stain of a store's objects; `SlideError` where the slide has none."""
    if slide.kind != "brightfield" or slide.shape[2] != 3:
        raise SlideError(
            f"{slide.name} is no bright-field image in red, green and blue, so no stain can be measured on it; leave "
            "out the stain, or give image_kind='brightfield' where the file says it wrongly."
        )
    white = slide_glass(slide)
    annotation = store.kind == "annotation"
    return StainPlanes(slide, store.grid, image, stain_names(stain), white, ring, store.spacing, annotation)


def means(sums: Numbers, columns: Sequence[str]) -> dict[str, Numbers]:
    """Mean optical density of each stain in each object, and in each ring, by column; NaN where there is no pixel."""
    found = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, values in zip(columns, sums.T, strict=True):
            if name.endswith("pixels"):
                pixels = values
            else:
                found[f"{name}_od"] = values / pixels
    return found


def grades(density: Numbers, thresholds: Sequence[float]) -> npt.NDArray[np.int64]:
    """0 negative, 1 weakly, 2 moderately, 3 strongly positive, by the mean optical density; NaN is negative."""
    found: npt.NDArray[np.int64] = np.searchsorted(np.asarray(thresholds), np.nan_to_num(density), side="right")
    return found


def h_score(counts: Sequence[float]) -> float | None:
    """The H-score, 0..300, from the numbers of objects of grade 0, 1, 2 and 3; None where there are none."""
    total = sum(counts)
    return 100 * sum(grade * count for grade, count in enumerate(counts)) / total if total else None
