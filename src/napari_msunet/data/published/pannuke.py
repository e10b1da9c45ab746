"""PanNuke: folds of 256 x 256 patches of nuclei in 19 tissues, as NumPy arrays (Gamper et al. 2019 and 2020).

``Fold 1/images/fold1/images.npy`` (n, 256, 256, 3) and ``Fold 1/masks/fold1/masks.npy`` (n, 256, 256, 6): a channel of
instance numbers for each of five classes, and one of background. 0.25 µm/px.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_msunet.config import PublishedSource
from napari_msunet.data.published.entry import Contents, Entry, Pixels, place_of
from napari_msunet.errors import SourceError
from napari_msunet.slide import Slide, slide_from_array

CLASSES = {1: "neoplastic", 2: "inflammatory", 3: "connective", 4: "dead", 5: "epithelial"}
MPP = 0.25


def found(folder: Path) -> bool:
    """Whether there are arrays of images and of masks."""
    return any(folder.rglob("images.npy")) and any(folder.rglob("masks.npy"))


def contents(folder: Path, source: PublishedSource) -> Contents:
    """All folds in the folder; a fold is a group where there are several."""
    images = sorted(folder.rglob("images.npy"))
    folds = [(p.parent.name, p, _masks(p, folder)) for p in images]
    entries = [e for fold in folds for e in _entries(*fold, folder, grouped=len(folds) > 1)]
    return Contents(CLASSES, entries)


def _masks(images: Path, folder: Path) -> Path:
    """The masks of a file of images: the same fold's."""
    inside = images.relative_to(folder)
    path = folder / Path(*("masks" if part == "images" else part for part in inside.parent.parts)) / "masks.npy"
    if not path.is_file():
        path = images.with_name("masks.npy")
    if not path.is_file():
        raise SourceError(
            f"{images} has no masks.npy in a folder masks beside its folder images; unpack the whole fold."
        )
    return path


def _entries(fold: str, images: Path, masks: Path, folder: Path, grouped: bool) -> Iterator[Entry]:
    pixels, truth = _array(images, 3), _array(masks, 6)
    if pixels.shape[:3] != truth.shape[:3]:
        raise SourceError(f"{images} holds {pixels.shape[:3]} pixels and {masks} {truth.shape[:3]}; unpack them again.")
    for index in range(pixels.shape[0]):
        yield Entry(
            name=f"{fold}_{index:04}",
            place=f"{place_of(images, folder)}/{index}",
            open=partial(_open, pixels, index),
            mask=partial(_mask, truth, index),
            mpp=MPP,
            group=fold if grouped else None,
            extent=(pixels.shape[1], pixels.shape[2]),
            objects=partial(_objects, truth, index),
        )


def _array(path: Path, channels: int) -> Any:
    """A file's array, memory-mapped so that only the requested part is read."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as a plain NumPy array ({error}); unpack it again.") from error
    if array.ndim != 4 or array.shape[3] != channels or not len(array):
        raise SourceError(f"{path} has the shape {array.shape}; PanNuke's has (n, 256, 256, {channels}).")
    return array


def _open(pixels: Any, index: int, mpp: Any) -> Slide:
    return slide_from_array(np.asarray(pixels[index]).clip(0, 255).astype(np.uint8), mpp=mpp)


def _objects(truth: Any, index: int) -> Pixels:
    """The numbers of the objects; each channel counts its own."""
    numbers = np.asarray(truth[index][..., :5]).astype(np.int64)
    most = numbers.max(initial=0) + 1
    first = (numbers > 0).argmax(-1)
    own = np.take_along_axis(numbers, first[..., None], -1)[..., 0]
    return np.where(own > 0, own + first * most, 0)


def _mask(truth: Any, index: int) -> Pixels:
    """The class of the first channel that is not 0."""
    objects = np.asarray(truth[index][..., :5]) > 0
    return np.where(objects.any(-1), objects.argmax(-1) + 1, 0)
