"""CAMELYON16: lymph nodes with breast cancer, whole slides with outlines by ASAP (Ehteshami Bejnordi et al. 2017).

``tumor_001.tif``, ``normal_001.tif``, ``test_001.tif`` and ``tumor_001.xml``, in any folders. Outlines of the groups
``_0``, ``_1`` and ``Tumor`` are tumour, those of ``_2`` and ``Exclusion`` are not. Each slide is a group.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from napari_msunet.annotation.formats import read_shapes
from napari_msunet.annotation.shapes import DrawnShape
from napari_msunet.config import PublishedSource
from napari_msunet.data.published.entry import Contents, Entry, has_outlines, opened, place_of, with_outlines

CLASSES = {1: "tumor"}
_EXCLUDED = {"_2", "exclusion"}


def found(folder: Path) -> bool:
    """Whether there are outlines by ASAP."""
    return has_outlines(folder, b"ASAP_Annotations")


def contents(folder: Path, source: PublishedSource) -> Contents:
    """Slides with outlines, and those called normal, which need none."""
    entries, alone = [], 0
    for image, drawn in with_outlines(folder):
        if drawn is None and "normal" not in image.stem.lower():
            alone += 1
            continue
        entries.append(
            Entry(
                name=image.stem,
                place=place_of(image, folder),
                open=opened(image),
                shapes=partial(_shapes, drawn),
                group=image.stem,
                path=image,
            )
        )
    notes = (
        (f"{alone} slides in {folder} have no outlines and are not called normal: they are left out.",) if alone else ()
    )
    return Contents(CLASSES, entries, notes=notes)


def _shapes(drawn: Path | None) -> list[tuple[int, DrawnShape]]:
    """The outlines of a slide; excluded areas become holes."""
    found = [] if drawn is None else read_shapes(drawn)
    return [(1, replace(shape, hole=shape.name.lower() in _EXCLUDED)) for shape in found]
