"""The objects that are measured or exported: connected pieces of one class, or instances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_msunet.config import Damaged
from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Grid, Region, Window
from napari_msunet.labels import LabelStore, Run
from napari_msunet.labels.corrupt_chunks import places
from napari_msunet.labels.levels import tiles
from napari_msunet.labels.metadata import BACKGROUND_COLOUR, default_colours
from napari_msunet.labels.store import check_run, check_store, sound_runs

# ----------------------------------------------------------------------------------------------------------------------
# Shared by all exports: the region of a store, the meaning of its values, and files that are whole or absent.

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassLook:
    """Name and colour of a class."""

    name: str
    colour: Colour


def class_looks(store: LabelStore) -> dict[int, ClassLook]:
    """The meaning of the values of a class store, without 0; in an annotation 255 is background.

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
    """The pixels of a region of a store (`y, x, height, width` in its level-0 pixels); parts that stick out are cut
    off.

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


# ----------------------------------------------------------------------------------------------------------------------
# What an export or a measurement reads: labels or instances, window by window.

NEWEST = "newest"
SIDE = 2048


class LabelImage(Protocol):
    """Labels that can be read by windows, with their pyramid: a label store, or the instances of a run."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def mpp(self) -> tuple[float, float] | None: ...

    @property
    def pixel(self) -> tuple[float, float]: ...

    def read(self, region: Window, level: int = 0) -> npt.NDArray[Any]: ...


@dataclass(frozen=True)
class RunInstances:
    """The instances of a run, read as a label store is."""

    run: Run

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return np.dtype(np.uint32)

    @property
    def shape(self) -> tuple[int, int]:
        """`(height, width)` of level 0."""
        return self.run.info.shape

    @property
    def mpp(self) -> tuple[float, float] | None:
        """µm per pixel `(y, x)` of level 0, if known."""
        return self.run.info.mpp

    @property
    def pixel(self) -> tuple[float, float]:
        """Size `(y, x)` of a level-0 pixel in level-0 pixels of the slide."""
        return self.run.info.pixel

    def read(self, region: Window, level: int = 0) -> npt.NDArray[Any]:
        """Instances of the pixels of a level that a window of level-0 pixels touches."""
        for _ in range(level):
            region = region.halved()
        return self.run.read(region, level, "instances")


@dataclass(frozen=True)
class Objects:
    """The objects of a label store.

    Attributes
    ----------
    image : Image
        Its objects are the connected pixels of one value.
    looks : dict
        Name and colour of each class.
    kind : callable
        The class of an object by its value; 0 where it counts for nothing.
    """

    image: LabelImage
    looks: dict[int, ClassLook]
    kind: Callable[[int], int]
    left_out: tuple[str, ...] = ()
    lost: tuple[Window, ...] = ()

    def lost_in(self, window: Window) -> list[Window]:
        """The parts of a window that are damaged."""
        return [part for w in self.lost if not (part := w.intersection(window)).empty]


@dataclass(frozen=True)
class Without:
    """Labels without their damaged parts.

    Attributes
    ----------
    image : Image
    lost : tuple of Window
        In level-0 pixels.
    value : int
        What they read as there.
    """

    image: LabelImage
    lost: tuple[Window, ...]
    value: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the labels."""
        return self.image.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """`(height, width)` of level 0."""
        return self.image.shape

    @property
    def mpp(self) -> tuple[float, float] | None:
        """µm per pixel `(y, x)` of level 0, if known."""
        return self.image.mpp

    @property
    def pixel(self) -> tuple[float, float]:
        """Size `(y, x)` of a level-0 pixel in level-0 pixels of the slide."""
        return self.image.pixel

    def read(self, region: Window, level: int = 0) -> npt.NDArray[Any]:
        """Labels of the pixels of a level that a window of level-0 pixels touches."""
        values = self.image.read(region, level)
        parts = list(self.lost)
        for _ in range(level):
            region, parts = region.halved(), [part.halved() for part in parts]
        parts = [inside for part in parts if not (inside := part.intersection(region)).empty]
        if parts:
            values = values.copy()
        for part in parts:
            values[part.slices((region.y, region.x))] = self.value
        return values


def objects_of(
    store: LabelStore, instances: str | None, window: Window, damaged: Damaged = "refuse", value: int = 0
) -> Objects:
    """The objects that are measured and exported.

    Parameters
    ----------
    store : LabelStore
        Of classes: objects are pieces of one class. Of numbers of objects: each number is one, of the store's class
        where it has just one, else of a class "object".
    instances : str, optional
        Key of a run with instances, or "newest": its instances are the objects. The class of each is the one that most
        of its pixels have in the labels as they are shown, so after corrections; one that is mostly background there
        is left out, and a class that marks boundaries does not vote.
    window : Window
        Where.
    damaged : "refuse" or "skip"
        What is done where chunks of the labels, or of the instances, are damaged.
    value : int
        What the image reads as there.

    Raises
    ------
    StoreError
        If there is no such run, the store's values are no classes to ask for, or something is damaged.
    """
    found = _whole_objects(store, instances, window, damaged)
    return replace(found, image=Without(found.image, found.lost, value)) if found.lost else found


def _whole_objects(store: LabelStore, instances: str | None, window: Window, damaged: Damaged) -> Objects:
    said = check_store(store, damaged, ("labels",), window)
    lost = places(store.find_corrupt_chunks(("labels",), window), store.shape) if said else []
    texts = [said] if said else []
    if instances is None:
        if not store.info.instances:
            looks = class_looks(store)
            return Objects(store, looks, lambda value: value if value in looks else 0, tuple(texts), tuple(lost))
        name = store.classes[0] if len(store.classes) == 1 else "object"
        colour = store.colours[0] if len(store.classes) == 1 else default_colours(1)[0]
        return Objects(store, {1: ClassLook(name, colour)}, lambda value: 1, tuple(texts), tuple(lost))
    if store.info.instances:
        raise StoreError(f"{store.path} holds numbers of objects itself; leave out the instances of a run.")
    run = _run(store, instances, damaged)
    said = check_run(run, damaged, ("instances",), window)
    if said:
        texts.append(said)
        lost = places(run.find_corrupt_chunks(("instances",), window), store.shape) + lost
        lost = sorted(set(lost), key=lambda w: (w.y, w.x))
    looks = class_looks(store)
    votes = _classes(store, run, window)
    return Objects(RunInstances(run), looks, lambda value: int(votes[value]), tuple(texts), tuple(lost))


def _run(store: LabelStore, key: str, damaged: Damaged) -> Run:
    runs = sound_runs(store, damaged) if key == NEWEST else [store.run(key)]
    found = [run for run in runs if "instances" in run.outputs and run.complete]
    if not found:
        which = store.path if key == NEWEST else f"The run {key} of {store.path}"
        raise StoreError(
            f'{which} has no finished instances; predict with "instances" among the outputs, or make them from '
            "probabilities with `postprocess --part`."
        )
    return max(found, key=lambda run: (run.path / "run.json").stat().st_mtime_ns)


def _classes(store: LabelStore, run: Run, window: Window) -> npt.NDArray[np.uint8]:
    """The class of each instance by its number: the one that most of its pixels show; of equal ones the lower."""
    kinds = 256
    settings = run.description.get("settings") or {}
    boundary = (settings.get("postprocess") or {}).get("boundary")
    silent = store.classes.index(boundary) + 1 if boundary in store.classes else 0
    counts = np.zeros((1, len(store.classes) + 1), np.uint32)
    for tile in tiles(window, SIDE):
        numbers = run.read(tile, output="instances").astype(np.int64)
        if not numbers.any():
            continue
        keys, times = np.unique(numbers * kinds + store.read(tile), return_counts=True)
        number, kind = keys // kinds, keys % kinds
        most = int(number.max())
        if most >= len(counts):
            counts = np.concatenate([counts, np.zeros((most + 1 - len(counts), counts.shape[1]), np.uint32)])
        hidden = store.lost(tile)
        if hidden is not None:  # pixels that cannot be read do not vote
            keys, times = np.unique(numbers[~hidden] * kinds + store.read(tile)[~hidden], return_counts=True)
            number, kind = keys // kinds, keys % kinds
        known = (kind < counts.shape[1]) & ((kind != silent) | (silent == 0))
        np.add.at(counts, (number[known], kind[known]), times[known].astype(np.uint32))
    found: npt.NDArray[np.uint8] = counts.argmax(1).astype(np.uint8)
    found[0] = 0
    return found
