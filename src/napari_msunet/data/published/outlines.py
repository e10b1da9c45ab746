"""What CAMELYON16 and MoNuSeg share: images with outlines of the same name beside them or in a folder of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from napari_msunet.data.published.entry import files_in
from napari_msunet.slide.opening import SLIDES

IMAGES = (*SLIDES, ".png")
_START = 512


def has_outlines(folder: Path, tag: bytes) -> bool:
    """Whether the first XML file below a folder begins with this tag."""
    first = next(iter(files_in(folder, ".xml")), None)
    if first is None:
        return False
    with first.open("rb") as file:
        return b"<" + tag in file.read(_START)


def with_outlines(folder: Path) -> Iterator[tuple[Path, Path | None]]:
    """Images below a folder, each with its XML file; masks as images (``*_mask.tif``) are none."""
    drawn = {p.stem.lower(): p for p in files_in(folder, ".xml")}
    for image in files_in(folder, *IMAGES):
        parts = [part.lower() for part in image.relative_to(folder).parts]
        if not image.stem.lower().endswith("_mask") and not any("mask" in part for part in parts[:-1]):
            yield image, drawn.get(image.stem.lower())
