"""What is known about the pixels of a slide: a mask file or a label store, read window by window on any grid."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_msunet.annotation.painting import ShapePainter, overview_step
from napari_msunet.annotation.shapes import DrawnShape
from napari_msunet.config import MaskValues
from napari_msunet.constants import ANNOTATED_BACKGROUND, IGNORED
from napari_msunet.data.masks import (
    ChosenMask,
    Mask,
    choose_reading,
    is_colour_table,
    majority,
    read_colour_mask,
    read_mask_file,
)
from napari_msunet.errors import SourceError
from napari_msunet.geometry import Grid, Region, Window, to_position
from napari_msunet.objects.components import connected

if TYPE_CHECKING:
    from napari_msunet.labels import LabelStore
    from napari_msunet.labels.area import Mask as Where
OVERVIEW_PIXELS = 2**24
"""An overview has at most about this many pixels."""

_PACKED = 32 << 10  # bytes: masks are looked at several times before a training, and most pack to a few thousand


class Truth(Protocol):
    """Class numbers of a slide's pixels: 0 background, 1..K classes, 255 not known.

    Attributes
    ----------
    grid : Grid
        The truth's own resolution, at which scores are computed.
    """

    @property
    def grid(self) -> Grid: ...

    def read(self, window: Window) -> Mask:
        """The truth in a window of `grid`; 255 outside the slide."""

    def overview(self) -> tuple[Mask, Grid]:
        """All of it at some coarser resolution, for finding what is where."""


def truth_window(truth: Truth, grid: Grid, window: Window) -> Mask:
    """The truth in a window of another grid over the same slide, by majority of each pixel's footprint."""
    return majority(truth.read, truth.grid, grid, window)


def cut_out(values: Mask, window: Window) -> Mask:
    """A window of an array that starts at grid pixel (0, 0); 255 where it sticks out."""
    inside = window.intersection(Window(0, 0, *values.shape))
    if inside.shape == window.shape:
        return values[inside.slices()]
    result = np.full(window.shape, IGNORED, np.uint8)
    if not inside.empty:
        result[inside.slices((window.y, window.x))] = values[inside.slices()]
    return result


def own_instances(truth: Truth) -> npt.NDArray[np.int64]:
    """`(h, w)` numbers of a truth's objects, 0 outside: its own where it has them, else its connected pieces; -1 where
    objects are not told apart, and so nothing about them is known."""
    own = getattr(truth, "instances", None)
    if own is not None:
        numbers: npt.NDArray[np.int64] = own()
        return numbers
    values = truth.read(truth.grid.whole)
    return connected(np.where(values == IGNORED, 0, values))


class WholeTruth:
    """A truth with exactly its image's pixels that is read whole: when needed, and kept until `release`.

    Parameters
    ----------
    load : callable
        Gives the class numbers `(h, w)`, 255 ignored.
    extent : (height, width)
        Of the image.
    name : str
        The truth in error messages.
    objects : callable, optional
        Gives the objects' own numbers `(h, w)`, 0 outside.
    """

    def __init__(
        self,
        load: Callable[[], Mask],
        extent: tuple[int, int],
        name: str,
        objects: Callable[[], npt.NDArray[Any]] | None = None,
    ) -> None:
        self._objects = objects
        self.grid = Grid(extent, (1.0, 1.0))
        self.name = name
        self._load = load
        self._kept: Mask | None = None
        self._packed: bytes | None = None
        self._lock = threading.Lock()

    def mask(self) -> Mask:
        """The whole truth as class numbers.

        Raises
        ------
        SourceError
            If it cannot be read, has another size than its image, or a value that is no class.
        """
        with self._lock:
            if self._kept is None and self._packed is not None:
                self._kept = np.frombuffer(zlib.decompress(self._packed), np.uint8).reshape(self.grid.extent).copy()
            elif self._kept is None:
                loaded = self._load()
                self._check(loaded.shape)
                self._kept = np.asarray(loaded, np.uint8)
                packed = zlib.compress(self._kept.tobytes(), 1)
                self._packed = packed if len(packed) <= _PACKED else None
            return self._kept

    def _check(self, shape: tuple[int, ...]) -> None:
        if shape != self.grid.extent:
            raise SourceError(
                f"The mask {self.name} has {' x '.join(map(str, shape))} pixels (height x width), its image has "
                f"{self.grid.extent[0]} x {self.grid.extent[1]}; give a mask of the image's size."
            )

    def release(self) -> None:
        """Forget the pixels; they are read again when needed, from a packed copy where that is small."""
        with self._lock:
            self._kept = None

    def read(self, window: Window) -> Mask:
        """The truth in a window of the image's pixels; 255 outside."""
        return cut_out(self.mask(), window)

    def instances(self) -> npt.NDArray[np.int64]:
        """`(h, w)` numbers of the objects, 0 outside: their own, else what has one class and is connected by sides."""
        if self._objects is not None:
            numbers = np.asarray(self._objects()).astype(np.int64)
            numbers[(self.mask() == 0) | (self.mask() == IGNORED)] = 0
            return numbers
        return connected(np.where(self.mask() == IGNORED, 0, self.mask()))

    def overview(self) -> tuple[Mask, Grid]:
        """Every n-th pixel."""
        mask = self.mask()
        step = max(1, ceil(sqrt(mask.size / OVERVIEW_PIXELS)))
        return mask[::step, ::step], Grid(self.grid.extent, (float(step), float(step)))


class MaskTruth(WholeTruth):
    """The truth of a mask file; `turned` is the orientation tag by which its image is turned.

    Attributes
    ----------
    stretched : bool
        Whether 255 was read as the only class.
    doubt : str, optional
        How else it could have been read, as a sentence without its subject.
    orientation : int
        The mask's own orientation tag, which it is turned by.
    """

    def __init__(
        self, path: Path, extent: tuple[int, int], values: MaskValues, classes: tuple[str, ...], turned: int = 1
    ) -> None:
        super().__init__(self._read_file, extent, str(path))
        self.turned = turned
        self.path = path
        self.stretched = False
        self.doubt: str | None = None
        self.orientation = 1
        self._values = values
        self._classes = classes

    def _read_file(self) -> Mask:
        chosen = self._chosen()
        self.stretched, self.doubt, self.orientation = chosen.stretched, chosen.doubt, chosen.orientation
        return chosen.truth

    def _chosen(self) -> ChosenMask:
        file = read_colour_mask(self.path) if is_colour_table(self._values) else read_mask_file(self.path)
        try:
            self._check(file.readings[0].numbers.shape)  # before its values are looked at
        except SourceError as error:
            if self.turned == file.orientation:
                raise
            raise SourceError(
                f"{str(error).rstrip('.')}, or remove the orientation tag: it is {self.turned} in the image and "
                f"{file.orientation} in the mask, and both are turned accordingly."
            ) from None
        return choose_reading(file, self._values, self._classes, self.name)

    def instances(self) -> npt.NDArray[np.int64]:
        """`(h, w)` numbers of the objects, 0 outside: the mask's own where it has more than one, else its pieces."""
        if self._values != "instances":
            return super().instances()
        own = self._chosen().numbers.astype(np.int64)
        return own if len(np.unique(own[own > 0])) > 1 else super().instances()


class StoreTruth:
    """The truth of a label store: an annotation (0 not annotated, 255 background) or labels (0 background).

    With `edited_only`, only pixels that a person changed count: a prediction must not become truth by being seen. With
    `within`, an unmarked pixel is background only inside that mask: see `SlideSource`.
    """

    def __init__(
        self, store: LabelStore, classes: tuple[str, ...], edited_only: bool = False, within: Where | None = None
    ) -> None:
        self.store = store
        self.edited_only = edited_only
        self._within = None if edited_only else within
        self.grid = store.grid
        self.missing = tuple(c for c in store.classes if c not in classes)
        # Store value -> truth. What is no class of the model counts neither as background nor as another class.
        self._numbers = np.full(256, IGNORED, np.uint8)
        self._numbers[0] = 0
        for value, name in enumerate(store.classes, start=1):
            if name in classes:
                self._numbers[value] = classes.index(name) + 1

    def read(self, window: Window) -> Mask:
        """The truth in a window of the store's level-0 pixels; 255 outside."""
        inside = window.intersection(self.grid.whole)
        result = np.full(window.shape, IGNORED, np.uint8)
        if not inside.empty:
            region = Region(inside.y, inside.x, inside.height, inside.width)
            values = self._numbers[self.store.truth(region)]
            if self.edited_only:
                values[~self.store.read_edited(region)] = IGNORED
            if self._within is not None:
                self._leave_out(values, self.store.read(region), self.grid, inside)
            result[inside.slices((window.y, window.x))] = values
        return result

    def overview(self) -> tuple[Mask, Grid]:
        """The finest level that is small enough; level 0 in strips where an annotation is too thin for that level."""
        levels = self.store.levels
        level = next((i for i, a in enumerate(levels) if a.shape[0] * a.shape[1] <= OVERVIEW_PIXELS), len(levels) - 1)
        values = np.asarray(levels[level])
        if self.edited_only:
            edited = np.asarray(self.store.edited_levels[level])
            values = self._strips(2**level, edited)
        elif self.store.kind == "annotation":
            values = self._annotated(values, 2**level)
            self._leave_out(values, np.asarray(levels[level]), self._coarser(level), Window(0, 0, *values.shape))
            if (values == IGNORED).all() and level:
                values = self._strips(2**level, np.ones(values.shape, np.bool_))
        else:
            stored, values = values, self._numbers[values]
            self._leave_out(values, stored, self._coarser(level), Window(0, 0, *values.shape))
        return self._without_lost(values, 2**level), self._coarser(level)

    def _without_lost(self, values: Mask, factor: int) -> Mask:
        """An overview in which what is damaged is not known."""
        lost = self.store.lost(Window(0, 0, *self.store.shape))
        if lost is not None:
            values = values.copy()
            values[lost[::factor, ::factor]] = IGNORED
        return values

    def _coarser(self, level: int) -> Grid:
        """The grid of a level of the store."""
        return Grid(self.grid.extent, (self.grid.pixel[0] * 2**level, self.grid.pixel[1] * 2**level))

    def _leave_out(self, values: Mask, stored: Mask, grid: Grid, window: Window) -> None:
        """Ignore, in place, background that was not marked (0 in the store) where it lies outside `within`."""
        if self._within is not None:
            values[(stored == 0) & ~self._within.on(grid, window)] = IGNORED

    def _annotated(self, values: Mask, factor: int) -> Mask:
        """Values of an annotation's coarser level as truth."""
        from skimage.draw import polygon2mask

        full = np.zeros(values.shape, bool)
        for polygon in self.store.fully_annotated:
            full |= polygon2mask(values.shape, to_position(np.asarray(polygon, float) / factor))  # type: ignore[no-untyped-call]
        truth = self._numbers[values]
        truth[values == ANNOTATED_BACKGROUND] = 0
        truth[(values == 0) & ~full] = IGNORED
        return truth

    def _strips(self, factor: int, where: npt.NDArray[np.bool_]) -> Mask:
        """The truth of level 0, read a strip at a time; a coarse pixel is the lowest class in it, else background.

        `where` says which coarse pixels can have a truth.
        """
        result = np.full(where.shape, IGNORED, np.uint8)
        height, width = self.grid.shape
        for row in np.flatnonzero(where.any(1)).tolist():
            columns = np.flatnonzero(where[row])
            first, count = int(columns[0]), int(columns[-1] - columns[0] + 1)
            left, right = first * factor, min((first + count) * factor, width)
            strip = self.read(Window(row * factor, left, min(factor, height - row * factor), right - left))
            strip = np.where(strip == 0, 254, strip)  # background after the classes, before the ignored
            padded = np.full((factor, count * factor), IGNORED, np.uint8)
            padded[: strip.shape[0], : strip.shape[1]] = strip
            lowest = padded.reshape(factor, count, factor).min(axis=(0, 2))
            result[row, first : first + count] = np.where(lowest == 254, 0, lowest)
        return result


@dataclass(frozen=True)
class Part:
    """A truth of which only a part counts: inside `keep` and outside `drop` (level-0 pixels of the slide)."""

    whole: Truth
    keep: Region | None = None
    drop: Region | None = None

    @property
    def grid(self) -> Grid:
        """The whole truth's grid."""
        return self.whole.grid

    def read(self, window: Window) -> Mask:
        """The truth in a window of `grid`; 255 outside the part."""
        return self._limited(self.whole.read(window), self.grid, window)

    def instances(self) -> npt.NDArray[np.int64]:
        """Numbers of the objects of the whole, 0 outside the part."""
        numbers = own_instances(self.whole)
        known = self._limited(np.zeros(numbers.shape, np.uint8), self.grid, self.grid.whole) != IGNORED
        return np.where(known, numbers, 0)

    def overview(self) -> tuple[Mask, Grid]:
        """As of the whole, 255 outside the part."""
        values, grid = self.whole.overview()
        return self._limited(values, grid, Window(0, 0, *values.shape)), grid

    def _limited(self, values: Mask, grid: Grid, window: Window) -> Mask:
        """A copy with 255 outside the part."""
        values = values.copy()
        if self.keep is not None:
            inside = np.zeros(values.shape, bool)
            inside[_inside(grid.centres(self.keep), window)] = True
            values[~inside] = IGNORED
        if self.drop is not None:
            values[_inside(grid.centres(self.drop), window)] = IGNORED
        return values


def _inside(area: Window, window: Window) -> tuple[slice, slice]:
    """Slices, in an array of `window`, of the pixels of `area`."""
    return area.intersection(window).slices((window.y, window.x))


# ----------------------------------------------------------------------------------------------------------------------
# The truth of drawn outlines on a slide of any size, painted window by window.


class ShapeTruth:
    """Class numbers of outlines; what none covers is background or ignored.

    Parameters
    ----------
    shapes : sequence of (int, DrawnShape)
        The class number of each.
    extent : (height, width)
        Of the slide in level-0 pixels.
    outside : int
        0 or 255.
    within : Mask, optional
        Pixels outside all shapes are background only in it.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, DrawnShape]],
        extent: tuple[int, int],
        outside: int = 0,
        within: Where | None = None,
    ) -> None:
        self.grid = Grid(extent, (1.0, 1.0))
        self._outside = outside
        self._within = within if outside == 0 else None
        self._painting = ShapePainter(shapes)
        own = np.array([0, *(shapes[shape.place][1].number for shape in self._painting.shapes)], np.int64)
        again = np.ones(len(own), bool)  # the discs of one shape of points, or shapes from no file
        again[np.unique(own, return_index=True)[1]] = False
        again[1:] |= own[1:] == 0
        own[again] = own.max() + 1 + np.arange(again.sum())
        self._numbers = own
        self._crowds = np.array([False, *(shapes[shape.place][1].crowd for shape in self._painting.shapes)])

    def read(self, window: Window) -> Mask:
        """The truth in a window of the slide's level-0 pixels; 255 outside the slide."""
        return self._painted(window, self.grid, 1)

    def instances(self) -> npt.NDArray[np.int64]:
        """`(h, w)` numbers of the objects, 0 outside: each outline is one, also where two touch, with its number in the
        file; -1: a crowd."""
        objects = self._painting.read_objects(self.grid.whole)
        classes = np.array([0, *(s.number for s in self._painting.shapes)])
        numbers = np.where(self._crowds, -1, self._numbers)
        return np.where((classes == 0) | (classes == IGNORED), 0, numbers)[objects]

    def overview(self) -> tuple[Mask, Grid]:
        """Every n-th pixel; a shape smaller than that is one pixel."""
        step = overview_step(self.grid.extent, OVERVIEW_PIXELS)
        grid = Grid(self.grid.extent, (float(step), float(step)))
        return self._painted(grid.whole, grid, step), grid

    def _painted(self, window: Window, grid: Grid, step: int) -> Mask:
        values = self._painting.read(window, self._outside, step)
        if self._within is not None:
            covered = values == self._painting.read(window, 1, step)
            values[~covered & ~self._within.on(grid, window)] = IGNORED
        inside = window.intersection(grid.whole)
        if inside.shape != window.shape:
            values[: max(0, -window.y)] = IGNORED
            values[:, : max(0, -window.x)] = IGNORED
            values[max(0, grid.shape[0] - window.y) :] = IGNORED
            values[:, max(0, grid.shape[1] - window.x) :] = IGNORED
        return values
