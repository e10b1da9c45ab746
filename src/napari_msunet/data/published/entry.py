"""What every family gives: its classes, and an entry for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_msunet.annotation.shape_files import DrawnShape
from napari_msunet.config import PublishedSource
from napari_msunet.slide import Slide, open_slide

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
    """What a family finds in a folder.

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
