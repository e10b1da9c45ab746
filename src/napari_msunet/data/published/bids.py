"""Microscopy in the Brain Imaging Data Structure, with manual segmentations as a derivative, such as AxonDeepSeg's SEM.

``sub-*/micr/*.png`` beside ``*.json`` with ``PixelSize``, and for each class
``derivatives/labels/sub-*/micr/*_seg-NAME-manual.png`` (Bourget et al. 2022). A mask that is the union of two others is
left out; a subject is a group.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_msunet.config import PublishedSource
from napari_msunet.data.masks import read_mask
from napari_msunet.data.published.entry import Contents, Entry, Pixels, files_in, place_of
from napari_msunet.errors import SourceError
from napari_msunet.slide import Slide, open_slide, slide_from_array
from napari_msunet.slide.pixel_size import believed

_MASK = re.compile(r"(?P<image>.+)_seg-(?P<name>[A-Za-z0-9]+)(?:-[A-Za-z0-9]+)?$")
_UNITS = {"mm": 1e3, "um": 1.0, "µm": 1.0, "nm": 1e-3}
_LARGEST = 2**26  # pixels that are looked at for colours
_ENDINGS = (".png", ".tif", ".tiff")


def found(folder: Path) -> bool:
    """Whether there is a BIDS description and a folder of derivatives."""
    return (folder / "dataset_description.json").is_file() and (folder / "derivatives").is_dir()


def contents(folder: Path, source: PublishedSource) -> Contents:
    """All images that have a manual segmentation of each class."""
    masks: dict[str, dict[str, Path]] = {}
    for path in files_in(folder / "derivatives", *_ENDINGS):
        if match := _MASK.match(path.stem):
            masks.setdefault(match["image"], {})[match["name"]] = path
    names = sorted({name for own in masks.values() for name in own})
    names = [n for n in names if not any(n in (a + b, b + a) for a in names for b in names)]
    images = {p.stem: p for p in files_in(folder, *_ENDINGS) if "derivatives" not in p.relative_to(folder).parts}
    entries: list[Entry] = []
    notes: dict[str, None] = {}
    for stem, path in images.items():
        own = masks.get(stem, {})
        if own and not set(names) <= set(own):
            raise SourceError(f"{path} has masks of {', '.join(sorted(own))}, but not of all of {', '.join(names)}.")
        if own:
            mpp, note = believed(_mpp(path, folder), f"The JSON of {path.name}")
            notes[note] = None
            entries.append(
                Entry(
                    name=stem,
                    place=place_of(path, folder),
                    open=partial(_open, path),
                    mask=partial(_mask, [own[n] for n in names]),
                    mpp=mpp,
                    group=path.relative_to(folder).parts[0],
                    path=path,
                )
            )
    return Contents(dict(enumerate(names, start=1)), entries, notes=tuple(filter(None, notes)))


def _open(path: Path, mpp: Any) -> Slide:
    """An image; one whose colours are all grey has one channel."""
    slide = open_slide(path, mpp=mpp)
    if slide.shape[2] != 3 or slide.shape[0] * slide.shape[1] > _LARGEST:
        return slide
    pixels = slide.read_window(slide.grid(), slide.grid().whole)
    if (pixels != pixels[..., :1]).any():
        return slide
    with slide:
        return slide_from_array(pixels[..., 0], mpp=slide.mpp)


def _mask(paths: list[Path]) -> Pixels:
    """Class numbers; masks are grey, and some have values between, so half of white is the limit."""
    parts = [np.asarray(read_mask(path)) for path in paths]
    if len({p.shape for p in parts}) > 1:
        raise SourceError(f"{paths[0]} and {paths[1]} have different sizes: {parts[0].shape} and {parts[1].shape}.")
    values = np.zeros(parts[0].shape, np.uint8)
    for number, part in enumerate(parts, start=1):
        values[part > part.max(initial=1) / 2] = number
    return values


def _mpp(image: Path, folder: Path) -> tuple[float, float] | None:
    """µm per pixel `(y, x)` from the JSON with the image's name, or from one in a folder above whose parts are in
    it."""
    own = set(image.stem.split("_"))
    for place in (image.parent, *image.parents):
        fitting = [p for p in place.glob("*.json") if set(p.stem.split("_")) <= own]
        for path in sorted(fitting, key=lambda p: -len(p.stem)):
            try:
                said = json.loads(path.read_text(encoding="utf-8"))
                factor = _UNITS[said["PixelSizeUnits"]]
                x, y = (float(v) * factor for v in said["PixelSize"][:2])
            except KeyError:
                continue
            except (OSError, ValueError, TypeError) as error:
                raise SourceError(f"{path} does not give PixelSize as numbers ({error}); correct it.") from error
            return y, x
        if place == folder:
            break
    return None
