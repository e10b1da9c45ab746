"""MoNuSeg and the set of Kumar et al. (2017) it grew from: nuclei of several organs, outlines by ImageScope.

``Tissue Images/NAME.tif`` and ``Annotations/NAME.xml`` (or side by side), names of TCGA slides: their first 12
characters are the patient. 40x, about 0.25 µm/px; most files say it exactly.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from napari_msunet.annotation.formats import read_shape_file
from napari_msunet.annotation.painting import ShapePainter
from napari_msunet.config import PublishedSource
from napari_msunet.data.published.entry import Contents, Entry, Pixels, has_outlines, opened, place_of, with_outlines
from napari_msunet.geometry import Window
from napari_msunet.slide import open_slide
from napari_msunet.slide.pixel_size import believed_text

CLASSES = {1: "nucleus"}
MPP = 0.25
_PATIENT = 12
_START = 1024


def found(folder: Path) -> bool:
    """Whether there are outlines by ImageScope."""
    return has_outlines(folder, b"Annotations")


def contents(folder: Path, source: PublishedSource) -> Contents:
    """All images with outlines."""
    entries = []
    alone = unsaid = 0
    for image, drawn in with_outlines(folder):
        if drawn is None:
            alone += 1
            continue
        name = image.stem
        group = name[:_PATIENT] if name.startswith("TCGA-") else None
        mpp = _mpp(drawn)
        unsaid += mpp is None
        nuclei = _Nuclei(image, drawn)
        entries.append(
            Entry(
                name,
                place_of(image, folder),
                opened(image),
                nuclei,
                None,
                mpp or MPP,
                group,
                image,
                objects=nuclei.objects,
            )
        )
    notes = []
    if alone:
        notes.append(f"{alone} images in {folder} have no outlines and are left out.")
    if unsaid:
        notes.append(
            f"{unsaid} outline files say no µm per pixel that can be believed; {MPP} was taken, as the set is said to "
            "have."
        )
    return Contents(CLASSES, entries, notes=tuple(notes))


class _Nuclei:
    """The mask of an image; it is painted once, since large XML files take seconds to read."""

    def __init__(self, image: Path, drawn: Path) -> None:
        self._image, self._drawn = image, drawn
        self._extent = (0, 0)
        self._bits: Pixels | None = None

    def __call__(self) -> Pixels:
        if self._bits is None:
            self._bits = np.packbits(self.objects() > 0)
        return np.unpackbits(self._bits, count=self._extent[0] * self._extent[1]).reshape(self._extent)

    def objects(self) -> Pixels:
        """The nuclei's numbers: each outline is one, also where two touch."""
        with open_slide(self._image) as slide:
            self._extent = (slide.shape[0], slide.shape[1])
        shapes = [(1, shape) for shape in read_shape_file(self._drawn).shapes]
        return ShapePainter(shapes).read_objects(Window(0, 0, *self._extent))


def _mpp(drawn: Path) -> float | None:
    """µm per pixel as given at the beginning of the file."""
    with drawn.open("rb") as file:
        said = re.search(rb'MicronsPerPixel="([^"]+)"', file.read(_START))
    return believed_text(said[1].decode()) if said else None
