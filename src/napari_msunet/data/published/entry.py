"""The interface of every family: its classes, and an entry for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_msunet.annotation.shapes import DrawnShape
from napari_msunet.config import PublishedSource
from napari_msunet.errors import SourceError
from napari_msunet.slide import Slide, open_slide
from napari_msunet.slide.slide import SLIDES

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Entry:
    """One image of a set.

    Attributes
    ----------
    name : str
    place : str
        Its path inside the set's folder, for `PublishedSource.part`.
    open : callable
        From µm per pixel (None: the file's own) to the `Slide`.
    mask : callable, optional
        Gives `(h, w)` whole numbers, 0 background and the others as in `Family.classes`.
    shapes : callable, optional
        Instead of a mask, for slides of any size: gives outlines, each with its number in `Contents.classes`.
    objects : callable, optional
        Gives `(h, w)` the objects' own numbers, 0 outside, where the set has them: touching ones are told apart.
    mpp : float or pair, optional
        µm per pixel that the set says.
    group : str, optional
    path : Path, optional
        The image's own file.
    extent : (height, width), optional
        Where it is known without opening; then of all images only the first is opened to check it.
    """

    name: str
    place: str
    open: Callable[[Any], Slide]
    mask: Callable[[], Pixels] | None = None
    shapes: Callable[[], list[tuple[int, DrawnShape]]] | None = None
    mpp: float | tuple[float, float] | None = None
    group: str | None = None
    path: Path | None = None
    extent: tuple[int, int] | None = None
    objects: Callable[[], Pixels] | None = None


@dataclass(frozen=True)
class Contents:
    """The classes and images that a family finds in a folder.

    Attributes
    ----------
    classes : mapping of int to str
        The set's own class numbers and names.
    entries : iterable of Entry
    rest : frozenset of str
        Classes that are background where the model has none of this name.
    notes : tuple of str
        What the user should know.
    """

    classes: Mapping[int, str]
    entries: Iterable[Entry]
    rest: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


class Family(Protocol):
    """A module that reads one family of sets."""

    def found(self, folder: Path) -> bool:
        """Whether the folder looks like this family."""

    def contents(self, folder: Path, source: PublishedSource) -> Contents:
        """The set in a folder; `SourceError` where it is not complete."""


def opened(path: Path) -> Callable[[Any], Slide]:
    """How to open an image's file."""
    return lambda mpp: open_slide(path, mpp=mpp)


def place_of(path: Path, folder: Path) -> str:
    """A path inside a folder, with slashes."""
    return path.relative_to(folder).as_posix()


def files_in(folder: Path, *endings: str) -> list[Path]:
    """All files of these endings below a folder, by name; hidden ones are left out."""
    found = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in endings and p.is_file())
    return [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def whole_numbers(values: Any) -> Pixels:
    """Values as integers of their own size."""
    array = np.asarray(values)
    return array if array.dtype.kind in "iu" else array.astype(np.int64)


# ----------------------------------------------------------------------------------------------------------------------
# What CAMELYON16 and MoNuSeg share: images with outlines of the same name beside them or in a folder of their own.

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


# ----------------------------------------------------------------------------------------------------------------------
# What CoNSeP and Lizard share: nuclei as MATLAB files, one beside each image.


def read_mat(path: Path, *names: str) -> dict[str, Any]:
    """Some variables of a MATLAB file.

    Raises
    ------
    SourceError
        If it cannot be read or one is not in it.
    """
    from scipy.io import loadmat

    try:
        found: dict[str, Any] = loadmat(path, variable_names=names)
    except (OSError, ValueError, NotImplementedError, TypeError) as error:
        raise SourceError(f"{path} cannot be read as a MATLAB file ({error}); unpack the set again.") from error
    if missing := [n for n in names if n not in found]:
        raise SourceError(f"{path} has no variable {missing[0]}; give the set's own label files.")
    return found


@lru_cache(maxsize=64)
def variables(path: Path) -> frozenset[str]:
    """Names of the variables in a MATLAB file; none where it is no such file."""
    from scipy.io import whosmat

    try:
        return frozenset(name for name, _, _ in whosmat(path))
    except (OSError, ValueError, NotImplementedError, TypeError):
        return frozenset()


def has_labels(folder: Path, name: str) -> bool:
    """Whether the first MATLAB file below a folder has a variable of this name."""
    first = next(iter(files_in(folder, ".mat")), None)
    return first is not None and {"inst_map", name} <= variables(first)


def paired(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Images and their MATLAB files: of one name, and where several have it, with the most of their path in common."""
    labels: dict[str, list[Path]] = {}
    for path in files_in(folder, ".mat"):
        labels.setdefault(path.stem, []).append(path)
    for image in files_in(folder, ".png", ".tif", ".tiff"):
        near = labels.get(image.stem)
        if near and not any("overlay" in part.lower() for part in image.relative_to(folder).parts):
            yield image, max(near, key=lambda p: sum(a == b for a, b in zip(p.parts, image.parts, strict=False)))


def mat_entries(folder: Path, mask: Callable[[Path], Pixels], mpp: float) -> list[Entry]:
    """All images with the numbers of their objects (``inst_map``) and what `mask` reads of the same file."""
    return [
        Entry(
            image.stem,
            place_of(image, folder),
            opened(image),
            partial(mask, labels),
            mpp=mpp,
            path=image,
            objects=partial(_objects, labels),
        )
        for image, labels in paired(folder)
    ]


def _objects(path: Path) -> Pixels:
    return whole_numbers(read_mat(path, "inst_map")["inst_map"])


def by_class(instances: Pixels, numbers: Any, classes: Any) -> Pixels:
    """The class of each pixel: that of its object, whose number and class stand at the same place of two lists."""
    table = np.zeros(int(instances.max(initial=0)) + 1, np.int64)
    listed = np.asarray(numbers).ravel().astype(np.int64)
    inside = (listed >= 0) & (listed < len(table))
    table[listed[inside]] = np.asarray(classes).ravel().astype(np.int64)[inside]
    table[0] = 0
    return table[instances.astype(np.int64)]
