"""ISBI 2012: a stack of 30 electron micrographs with cell membranes (Arganda-Carreras et al. 2015).

``train-volume.tif`` and ``train-labels.tif`` (0 membrane, 255 cell); 4 nm/px. Slices of one stack are alike: scores on
other slices look better than on other tissue.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_msunet.config import PublishedSource
from napari_msunet.data.published.entry import Contents, Entry, Pixels
from napari_msunet.errors import SourceError
from napari_msunet.slide import Slide, slide_from_array

CLASSES = {1: "membrane", 2: "cell"}
IMAGES, LABELS = "train-volume.tif", "train-labels.tif"
MPP = 0.004


def found(folder: Path) -> bool:
    """Whether the two stacks are there."""
    return (folder / IMAGES).is_file() and (folder / LABELS).is_file()


def contents(folder: Path, source: PublishedSource) -> Contents:
    """The slices of the training stack; cells are background unless the model has a class of this name."""
    counts = [_pages(folder / name) for name in (IMAGES, LABELS)]
    if counts[0] != counts[1]:
        raise SourceError(f"{folder / IMAGES} has {counts[0][0]} slices of {counts[0][1]}, {LABELS} has {counts[1]}.")
    count, shape = counts[0]
    entries = [
        Entry(
            name=f"slice{index:02}",
            place=f"{IMAGES}/{index}",
            open=partial(_open, folder / IMAGES, index),
            mask=partial(_mask, folder / LABELS, index),
            mpp=MPP,
            extent=shape,
        )
        for index in range(count)
    ]
    return Contents(CLASSES, entries, frozenset({"cell"}))


def _pages(path: Path) -> tuple[int, tuple[int, int]]:
    try:
        with tifffile.TiffFile(path) as tiff:
            height, width = tiff.pages[0].shape[:2]
            return len(tiff.pages), (height, width)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise SourceError(f"{path} cannot be read as a stack of images ({error}); unpack the set again.") from error


def _page(path: Path, index: int) -> Pixels:
    return np.asarray(tifffile.imread(path, key=index))


def _open(path: Path, index: int, mpp: Any) -> Slide:
    return slide_from_array(_page(path, index), mpp=mpp)


def _mask(path: Path, index: int) -> Pixels:
    return np.where(_page(path, index) < 128, 1, 2)
