"""The part of a slide to which work is limited: tissue, polygons, or classes of a label store."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import shapely

from napari_msunet.config.prediction import Drawn, InClasses, Where
from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import SlideError, StoreError, as_path
from napari_msunet.geometry import Grid, Resolution, Window, first_inside, to_place, to_position
from napari_msunet.labels.corrupt_chunks import in_words
from napari_msunet.labels.shape_masks import downward, filled, first_right_of
from napari_msunet.labels.store import LabelStore, open_labels
from napari_msunet.slide import Slide, TissueMask, tissue_mask
from napari_msunet.slide.placed import PlacedMask, same_slide
from napari_msunet.slide.tissue import found_tissue

# ----------------------------------------------------------------------------------------------------------------------
# The tissue mask as labels that a person can correct.

TISSUE = "tissue"
"""The class of a tissue store."""
COLOUR = (64, 192, 255)
_BLOCK = 2048


def tissue_labels(slide: Slide, out: str | Path, mask: TissueMask | None = None) -> LabelStore:
    """Write the tissue of a slide as a label store, to be corrected with the brush.

    Training and prediction are limited to it with ``InClasses(labels=out)`` as their `within` or `where`. The mask is
    written as a run of the store, so corrections of a person stay when the tissue is found and written again.

    Parameters
    ----------
    slide : Slide
        With µm per pixel, or without: then the mask is in pixels of the slide.
    out : path
        The store, made with the class "tissue" and the mask's pixels; or one that was made so before.
    mask : TissueMask, optional
        From `tissue_mask`; None: found with its usual settings.

    Returns
    -------
    LabelStore

    Raises
    ------
    StoreError
        If `out` is a store with other pixels or without the class "tissue".
    OutputError
        If it cannot be written.
    """
    if not isinstance(slide, Slide):
        raise SlideError(f"{slide!r} is no slide; open it with open_slide.")
    mask = mask or tissue_mask(slide)
    path = as_path(out, "the label store to make")
    if path.exists():
        store = open_labels(path)
        if store.extent != mask.grid.extent or store.shape != mask.grid.shape or TISSUE not in store.classes:
            raise StoreError(
                f"{path} is no tissue of this slide: it has {store.shape[0]} x {store.shape[1]} pixels and the classes "
                f"{', '.join(store.classes)}, not {mask.grid.shape[0]} x {mask.grid.shape[1]} and {TISSUE}; choose "
                "another name."
            )
    else:
        store = LabelStore.create(
            path,
            mpp=mask.grid.mpp or Resolution(mask.grid.pixel[0], "px"),
            classes=(TISSUE,),
            slide=slide,
            colours=[COLOUR],
        )
    key = f"tissue-{_digest(mask)}"
    run = store.create_run(key, {"tissue": mask.key}, (TISSUE,), {"labels": "uint8"})
    if not run.complete:
        with run.writing():
            for number, window in enumerate(_blocks(mask.grid.whole)):
                run.write(window, {"labels": mask.read(window).astype(np.uint8)})
                run.finish(number, window)
            run.complete_run()
    store.merge(run)
    return store


def _digest(mask: TissueMask) -> str:
    """A hash of a mask's settings and pixels, since a mask may have been changed by hand."""
    digest = hashlib.sha256(json.dumps(mask.key, sort_keys=True).encode())
    digest.update(np.packbits(mask.mask).tobytes())
    return digest.hexdigest()[:16]


def _blocks(whole: Window) -> list[Window]:
    return [
        Window(y, x, _BLOCK, _BLOCK).intersection(whole)
        for y in range(0, whole.height, _BLOCK)
        for x in range(0, whole.width, _BLOCK)
    ]


# ----------------------------------------------------------------------------------------------------------------------
# The parts of a slide that a prediction or a training keeps to, as masks.

Bools = npt.NDArray[np.bool_]
Ring = Sequence[tuple[float, float]]

HELD = 1 << 26
"""Largest store, in pixels, whose labels are read once, at the first use; later edits then have no effect."""
_HAIR = 1e-6
"""Distance in pixels from a pixel's centre within which a line may count on either side of it."""
_AT_ONCE = 1024
"""Number of pixels that are tested against all edges of a ring at once."""


class Mask(Protocol):
    """Which pixels of a slide count, on any grid over it."""

    @property
    def key(self) -> dict[str, Any]:
        """The key that distinguishes this mask from others of the same slide; plain JSON values."""

    def on(self, grid: Grid, window: Window) -> Bools:
        """The mask `(height, width)` in a window of a grid; a pixel depends on its place only, False off the slide."""

    def cells(self, grid: Grid, window: Window, cell: int) -> Bools:
        """Which squares of `cell` x `cell` pixels, from the window's corner, hold a true pixel of `on`."""


def where_mask(slide: Slide, where: Where) -> Mask | None:
    """The mask of the part of a slide that is wanted.

    Parameters
    ----------
    slide : Slide
    where : "all", "tissue", Drawn or InClasses

    Returns
    -------
    Mask or None
        None for "all".

    Raises
    ------
    SlideError
        If all polygons lie outside the slide.
    StoreError
        If the label store is of another slide, or has no such class.
    """
    if where == "all":
        return None
    if where == "tissue":
        return found_tissue(slide)
    if isinstance(where, Drawn):
        return Polygons(slide.grid().extent, where.polygons)
    store = open_labels(where.labels)
    if tuple(store.extent) != slide.grid().extent:
        raise StoreError(
            f"The labels {where.labels} are for a slide of {store.extent[0]} x {store.extent[1]} pixels (height x "
            f"width), but {slide.path or 'the image'} has {slide.shape[0]} x {slide.shape[1]}; give this slide's own."
        )
    store.check_slide(slide)
    if found := store.find_corrupt_chunks():
        raise StoreError(
            f"{in_words(found, store.path.name, store.shape)}; it says where to compute, so copy it again from where "
            "it came from, paint over it, or make it again."
        )
    return StoreClasses(store, where)


class StoreClasses(PlacedMask):
    """The pixels of a label store that have some classes, as a mask.

    Parameters
    ----------
    store : LabelStore
    where : InClasses
        Which classes.

    Raises
    ------
    StoreError
        If the store has no such class.
    """

    def __init__(self, store: LabelStore, where: InClasses) -> None:
        self.grid = store.grid
        self._store = store
        self._values = _values(store, where.classes)
        self._held: Bools | None = None
        self._key: dict[str, Any] | None = None
        self._mutex = threading.Lock()

    @property
    def key(self) -> dict[str, Any]:
        """A hash of the mask's pixels, so an edited store is another mask."""
        if self._key is None:
            digest = hashlib.sha256(repr((self.grid.shape, self.grid.pixel)).encode())
            for window in _mask_blocks(self.grid.shape):
                part = self.read(window)
                if part.any():
                    digest.update(repr(window).encode())
                    digest.update(np.packbits(part).tobytes())
            self._key = {"in": digest.hexdigest()}
        return self._key

    def read(self, window: Window) -> Bools:
        """The mask's own pixels in a window of the store, inside it."""
        if self.grid.shape[0] * self.grid.shape[1] > HELD:
            return self._now(window)
        with self._mutex:
            if self._held is None:
                held = np.zeros(self.grid.shape, np.bool_)
                for block in _mask_blocks(self.grid.shape):
                    held[block.slices()] = self._now(block)
                self._held = held
        return self._held[window.slices()]

    def _now(self, window: Window) -> Bools:
        values = self._store.read(window)
        if self._values is not None:
            chosen: Bools = self._values[values]
            return chosen
        found: Bools = values != 0
        return found


def _values(store: LabelStore, names: tuple[str, ...] | None) -> Bools | None:
    """Which values of a store count; None: all but 0."""
    if store.dtype != np.uint8:
        if names is None:
            return None
        raise StoreError(
            f"{store.path} holds numbers of objects, not classes, so it has no {', '.join(names)}; leave out the "
            "classes to take all objects."
        )
    table = np.zeros(256, np.bool_)
    if names is None:
        table[1:ANNOTATED_BACKGROUND] = True
        return table
    for name in names:
        if name not in store.classes:
            raise StoreError(
                f"{store.path} has no class {name}; it has {', '.join(store.classes) or 'none'}: give one of these."
            )
        table[store.classes.index(name) + 1] = True
    return table


def _mask_blocks(shape: tuple[int, int]) -> Iterator[Window]:
    whole = Window(0, 0, *shape)
    for y in range(0, shape[0], _BLOCK):
        for x in range(0, shape[1], _BLOCK):
            yield Window(y, x, _BLOCK, _BLOCK).intersection(whole)


# ------------------------------------------------------------------------------------------------------------ polygons


class Polygons:
    """The inside of polygons: pixels whose centre lies in one of the rings (even-odd where a ring crosses itself).

    Parameters
    ----------
    extent : (height, width)
        Of the slide, in its level-0 pixels.
    rings : sequence of rings
        `(y, x)` in level-0 pixels.

    Raises
    ------
    SlideError
        If all rings lie outside the slide, or one encloses nothing or has a coordinate that is no number.

    Attributes
    ----------
    outside : list of int
        Rings that lie outside the slide, counted from 1: they are left out.
    """

    def __init__(self, extent: tuple[int, int], rings: Sequence[Ring]) -> None:
        self._slide = Grid(extent, (1.0, 1.0))
        checked = [_checked(number, ring) for number, ring in enumerate(rings, start=1)]
        self.outside = [n for n, ring in enumerate(checked, start=1) if _outside(ring, extent)]
        if len(self.outside) == len(checked):
            low, high = checked[0].min(0), checked[0].max(0)
            raise SlideError(
                f"Polygon 1 (y {low[0]:g} to {high[0]:g}, x {low[1]:g} to {high[1]:g}) lies outside the slide of "
                f"{extent[0]} x {extent[1]} level-0 pixels (height x width)"
                + (f", and so do all {len(checked)}" if len(checked) > 1 else "")
                + "; give corners (y, x) in level-0 pixels."
            )
        self._rings = [ring for n, ring in enumerate(checked, start=1) if n not in set(self.outside)]
        self._low = np.array([ring.min(0) for ring in self._rings])
        self._high = np.array([ring.max(0) for ring in self._rings])
        lines = [shapely.linestrings(np.concatenate((ring, ring[:1]))[:, ::-1]) for ring in self._rings]
        shapely.prepare(lines)
        self._lines = shapely.STRtree(lines)

    @property
    def key(self) -> dict[str, Any]:
        """A hash of the corners."""
        text = repr([ring.tolist() for ring in self._rings])
        return {"drawn": hashlib.sha256(text.encode()).hexdigest()}

    def on(self, grid: Grid, window: Window) -> Bools:
        """The mask in a window of a grid; see `Mask`."""
        same_slide(self._slide, grid)
        result = np.zeros((max(0, window.height), max(0, window.width)), np.bool_)
        inside = window.intersection(grid.whole)
        if not inside.empty:
            view = result[inside.slices((window.y, window.x))]
            above, below = self._low / grid.pixel < inside.stop, self._high / grid.pixel > (inside.y, inside.x)
            near = above.all(1) & below.all(1)
            for n in np.flatnonzero(near):
                view |= filled(self._rings[n] / np.asarray(grid.pixel), inside)
        return result

    def _inside(self, grid: Grid, pixels: npt.NDArray[np.int64]) -> Bools:
        """Which of some pixels `(n, 2)` of a grid are in the mask."""
        found = np.zeros(len(pixels), np.bool_)
        for ring in self._rings:
            upper, lower = downward(ring / np.asarray(grid.pixel))
            for first in range(0, len(pixels), _AT_ONCE):
                row, column = pixels[first : first + _AT_ONCE, :, None].swapaxes(0, 1)
                meets = (first_inside(upper[:, 0]) <= row) & (row < first_inside(lower[:, 0]))
                pixel, edge = np.nonzero(meets)
                left = first_right_of(upper[edge], lower[edge], row[pixel, 0]) <= column[pixel, 0]
                found[first : first + _AT_ONCE] |= np.bincount(pixel[left], minlength=len(row)) % 2 == 1
        return found

    def cells(self, grid: Grid, window: Window, cell: int) -> Bools:
        """Which squares hold a true pixel; see `Mask`.

        Squares are tested four by four. Those that are fully inside or outside are decided by their rectangle of pixel
        centres, so that only squares that a line crosses are filled pixel by pixel.
        """
        same_slide(self._slide, grid)
        counts = -(-max(0, window.height) // cell), -(-max(0, window.width) // cell)
        result = np.zeros(counts, np.bool_)
        inside = window.intersection(grid.whole)
        if inside.empty:
            return result
        span = 1 << (max(counts) - 1).bit_length()
        corners = np.zeros((1, 2), np.int64)  # of blocks of span x span squares, in squares
        while len(corners):
            starts, stops = _within(corners * cell + (window.y, window.x), span * cell, inside)
            on_slide = (starts < stops).all(1)
            corners, starts, stops = corners[on_slide], starts[on_slide], stops[on_slide]
            first = (to_place(starts.astype(np.float64)) - _HAIR) * grid.pixel
            last = (to_position(stops.astype(np.float64)) + _HAIR) * grid.pixel
            boxes = shapely.box(first[:, 1], first[:, 0], last[:, 1], last[:, 0])
            crossed = np.zeros(len(boxes), np.bool_)
            crossed[self._lines.query(boxes, predicate="intersects")[0]] = True
            full = ~crossed  # where no line crosses, one pixel decides for all
            full[full] = self._inside(grid, starts[full])
            for start, stop in zip(
                starts[full] - (window.y, window.x), stops[full] - (window.y, window.x), strict=True
            ):
                (top, left), (bottom, right) = start // cell, -(-stop // cell)
                result[top:bottom, left:right] = True
            corners, starts, stops = corners[crossed], starts[crossed], stops[crossed]
            if span == 1:
                for (y, x), start, stop in zip(corners.tolist(), starts.tolist(), stops.tolist(), strict=True):
                    result[y, x] = self.on(grid, Window.between(tuple(start), tuple(stop))).any()
                break
            span //= 2
            corners = (corners[:, None] + np.array([(0, 0), (0, span), (span, 0), (span, span)])).reshape(-1, 2)
        return result


def _within(corners: npt.NDArray[np.int64], side: int, inside: Window) -> tuple[npt.NDArray[np.int64], ...]:
    """First pixels of squares, and those after their last, as far as they are in a window."""
    return np.maximum(corners, (inside.y, inside.x)), np.minimum(corners + side, inside.stop)


def _checked(number: int, ring: Ring) -> npt.NDArray[np.float64]:
    corners = np.asarray(ring, np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise SlideError(f"Polygon {number} is none: give at least three corners (y, x) of finite level-0 pixels.")
    return corners


def _outside(ring: npt.NDArray[np.float64], extent: tuple[int, int]) -> bool:
    return bool((ring.max(0) <= 0).any() or (ring.min(0) >= np.asarray(extent)).any())


def left_out(where: Where, mask: Mask | None) -> list[str]:
    """Warnings about drawn areas that are not used."""
    said = [where.left_out] if isinstance(where, Drawn) and where.left_out else []
    if isinstance(mask, Polygons) and mask.outside:
        count = len(mask.outside)
        said.append(
            f"{count} of {len(where.polygons) if isinstance(where, Drawn) else count} areas lie outside the slide and "
            "are left out; give those of this slide, in its level-0 pixels."
        )
    return said
