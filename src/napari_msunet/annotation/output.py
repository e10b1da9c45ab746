"""What all exports share: which pixels of a store, what its values mean, and files that are whole or absent."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from napari_msunet.errors import OutputError, StoreError
from napari_msunet.geometry import Grid, Region, Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.files import output_errors, sync_path
from napari_msunet.labels.metadata import ANNOTATED_BACKGROUND, BACKGROUND_COLOUR

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassLook:
    """Name and colour of a class."""

    name: str
    colour: Colour


def class_looks(store: LabelStore) -> dict[int, ClassLook]:
    """What the values of a class store mean, 0 left out; in an annotation 255 is background.

    Raises
    ------
    StoreError
        If the values are numbers of objects, not of classes.
    """
    if store.info.instances:
        raise StoreError(
            f"{store.path} holds numbers of objects ({store.dtype}), not of classes; give a label store of classes."
        )
    pairs = zip(store.classes, store.colours, strict=True)
    looks = {value: ClassLook(name, colour) for value, (name, colour) in enumerate(pairs, 1)}
    if store.kind == "annotation":
        looks[ANNOTATED_BACKGROUND] = ClassLook("background", BACKGROUND_COLOUR)
    return looks


def window_of(store: LabelStore, region: tuple[float, float, float, float] | None) -> Window:
    """The pixels of a region of a store (`y, x, height, width` in its level-0 pixels), what sticks out cut off.

    Raises
    ------
    StoreError
        If no pixel of the store is in it.
    """
    whole = Window(0, 0, *store.shape)
    if region is None:
        return whole
    window = Grid(store.shape, (1.0, 1.0)).window(Region(*region)).intersection(whole)
    if window.empty:
        raise StoreError(
            f"The region {region} lies outside of {store.path}, which has {store.shape[0]} x {store.shape[1]} pixels; "
            "give y, x, height, width in its own pixels."
        )
    return window


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or folder to; it becomes `path` when the block ends well.

    A file that was there is replaced, a folder is not. When the block fails, or is closed, nothing is left: neither
    what was written nor folders made for it.

    Raises
    ------
    OutputError
        If `path` is a folder or lies below a file, or the system refuses (no room, no right).
    """
    if path.is_dir():
        raise OutputError(f"{path} exists already and is a folder; choose another name, or remove it first.")
    missing = [folder for folder in path.parents if not folder.exists()]
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise OutputError(f"{path} cannot be written: {nearest} is a file, not a folder; choose another name.")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    done = False
    try:
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync_path(temporary)
            temporary.replace(path)
            done = True
    finally:
        if not done:
            _remove(temporary, missing)


def _remove(temporary: Path, folders: list[Path]) -> None:
    """Take away what was written, then the folders (innermost first) that were made for it."""
    import shutil

    with suppress(OSError):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
