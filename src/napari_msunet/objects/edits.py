"""Edits of objects in labels, as pure functions on arrays: whole objects, their outlines, lines and lassos."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.draw import line as segment
from skimage.feature import peak_local_max
from skimage.segmentation import watershed as flood

from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.levels import tiles
from napari_msunet.labels.shape_masks import filled
from napari_msunet.labels.store import LabelStore

# ----------------------------------------------------------------------------------------------------------------------
# The result of an edit, and the checks that all edits share.

Labels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


class Edit(NamedTuple):
    """New labels of a window.

    Attributes
    ----------
    values : (h, w) array of the labels' dtype
        The labels after the edit.
    mask : (h, w) bool
        Which of them changed.
    """

    values: Labels
    mask: Mask

    def cropped(self, window: Window) -> tuple[Window, Labels, Mask] | None:
        """The smallest part of `window` that changed, with its values and mask, as `LabelStore.write` takes them.

        None if nothing changed.
        """
        box = box_of(self.mask)
        if box is None:
            return None
        part = Window(window.y + box.y, window.x + box.x, *box.shape)
        return part, self.values[box.slices()], self.mask[box.slices()]


def edited(labels: Labels, changed: Mask, value: Any) -> Edit:
    """An edit that sets `value` (one, or an array like the labels) where `changed` is true and it differs."""
    values = labels.copy()
    np.copyto(values, value, where=changed, casting="same_kind" if isinstance(value, np.ndarray) else "unsafe")
    return Edit(values, values != labels)


def box_of(mask: Mask) -> Window | None:
    """The smallest window around the true pixels; None without any."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return Window.between((int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1))


def checked(labels: npt.ArrayLike, *masks: npt.ArrayLike) -> Labels:
    """Labels as an array, if they are labels and all masks have their shape."""
    array = np.asarray(labels)
    if array.ndim != 2 or array.dtype not in (np.uint8, np.uint32):
        raise StoreError(
            f"Edits work on (h, w) labels of uint8 (classes) or uint32 (objects); got {array.shape}, {array.dtype}."
        )
    for mask in masks:
        if np.shape(mask) != array.shape or np.asarray(mask).dtype != np.bool_:
            raise StoreError(
                f"A mask must be bool and have the labels' shape {array.shape}; got {np.shape(mask)}, "
                f"{np.asarray(mask).dtype}."
            )
    return array


def checked_value(labels: Labels, value: int) -> int:
    """A value that the labels' dtype can hold."""
    if not 0 <= value <= np.iinfo(labels.dtype).max:
        raise StoreError(f"{value} does not fit into labels of {labels.dtype}; give 0 to {np.iinfo(labels.dtype).max}.")
    return int(value)


def is_object(labels: Labels) -> Mask:
    """Which pixels belong to any object: neither 0 nor, in classes, 255 (an annotation's background)."""
    found: Mask = labels != 0
    if labels.dtype == np.uint8:
        found &= labels != ANNOTATED_BACKGROUND
    return found


def value_of(labels: Labels, mask: Mask) -> int:
    """The value of an object given as a mask."""
    first = int(mask.argmax())
    if not mask.flat[first]:
        raise StoreError("No pixel of an object was given; give a mask with at least one true pixel.")
    return int(labels.flat[first])


# ----------------------------------------------------------------------------------------------------------------------
# Numbers for new objects that no other object of a store has.

SCANNED = 2**28
"""Stores of at most this many pixels are looked through for the largest number in use."""

_FIRST_DRAWN = 2**31


def new_numbers(store: LabelStore, count: int) -> list[int]:
    """Numbers for new objects of an instance store.

    A store of at most `SCANNED` pixels (16,384 x 16,384) is read, and the numbers follow its largest. In a larger one
    they are drawn at random from 2**31 to 2**32 - 1: with a million objects drawn so before, a clash has a chance of
    1 in 2,000. Numbers that a machine counts up from 1 are never met.

    Parameters
    ----------
    store : LabelStore
        With ``dtype="uint32"``.
    count : int
        How many.
    """
    whole = store.grid.whole
    if whole.height * whole.width > SCANNED:
        return [_FIRST_DRAWN + secrets.randbelow(2**32 - _FIRST_DRAWN) for _ in range(count)]
    largest = max(int(np.max(store.read(tile))) for tile in tiles(whole, 2048))
    return list(range(largest + 1, largest + 1 + count))


# ----------------------------------------------------------------------------------------------------------------------
# Lines and lassos as masks.


def line(shape: tuple[int, int], points: npt.ArrayLike) -> Mask:
    """The pixels under a line through points: it separates pixels that are connected by their sides.

    Parameters
    ----------
    shape : (h, w)
        Of the window.
    points : (n, 2) array
        `y, x` in pixels of the window, 0.5 being the middle of the first; they may lie outside.

    Returns
    -------
    (h, w) bool
    """
    mask = np.zeros(shape, np.bool_)
    mask[pixels_along(shape, points)] = True
    return mask


def pixels_along(shape: tuple[int, ...], points: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of the pixels of `line`, in the order in which it meets them."""
    corners = np.floor(_points(points, 1)).astype(np.int64)
    found = [corners[:1].T]
    for (y0, x0), (y1, x1) in pairwise(corners):
        found.append(np.stack(segment(y0, x0, y1, x1)))  # type: ignore[no-untyped-call]
    rows, columns = np.concatenate(found, axis=1)
    inside = (rows >= 0) & (columns >= 0) & (rows < shape[0]) & (columns < shape[1])
    return rows[inside], columns[inside]


def inside_polygon(shape: tuple[int, int], points: npt.ArrayLike) -> Mask:
    """The pixels whose middle lies in a polygon, such as a lasso: (h, w) bool.

    `points` as for `line`, at least 3; the last is joined to the first. Where it crosses itself, what is inside twice
    is outside. Time goes with the pixels plus the polygon's length, so a lasso may have thousands of points.
    """
    corners = _points(points, 3)
    return filled(corners, Window(0, 0, *shape))


def _points(points: npt.ArrayLike, fewest: int) -> npt.NDArray[np.float64]:
    array = np.asarray(points, np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < fewest or not np.isfinite(array).all():
        raise StoreError(f"A drawing needs at least {fewest} points (n, 2) of y, x; got an array of {array.shape}.")
    return array


# ----------------------------------------------------------------------------------------------------------------------
# Edits of whole objects: merge, split, delete, change their class, keep the largest, make new ones, separate them.

Parts = npt.NDArray[np.int32]
FLOODED = 512
"""`watershed` looks at larger objects at a half, a quarter, ... of their resolution."""


def delete(labels: npt.ArrayLike, obj: Mask, background: int = 0) -> Edit:
    """Make an object background.

    Parameters
    ----------
    labels : (h, w) uint8 or uint32
    obj : (h, w) bool
        The object's pixels.
    background : int
        0, or 255 in an annotation.

    Raises
    ------
    StoreError
        If the labels or the mask cannot be used.
    """
    array = checked(labels, obj)
    return edited(array, obj, checked_value(array, background))


def change_class(labels: npt.ArrayLike, obj: Mask, value: int) -> Edit:
    """Give an object another class (or number); parameters and errors as for `delete`."""
    array = checked(labels, obj)
    return edited(array, obj, checked_value(array, value))


def change_class_inside(labels: npt.ArrayLike, lasso: Mask, value: int) -> Edit:
    """Give all objects of which more than half lies in a lasso another class; see `objects_inside`."""
    array = checked(labels, lasso)
    return edited(array, objects_inside(array, lasso), checked_value(array, value))


def objects_inside(labels: npt.ArrayLike, lasso: Mask) -> Mask:
    """The pixels of all objects of which more than half (of what the window shows of them) lies in a lasso.

    Parameters
    ----------
    labels : (h, w) uint8 or uint32
    lasso : (h, w) bool

    Returns
    -------
    (h, w) bool
    """
    array = checked(labels, lasso)
    parts, count = _parts(array)
    any_object = parts > 0
    sizes = np.bincount(parts[any_object], minlength=count + 1)
    inside = np.bincount(parts[any_object & lasso], minlength=count + 1)
    chosen = 2 * inside > sizes
    if chosen[1:].all():
        return any_object
    found: Mask = chosen[parts]
    return found


def merge(labels: npt.ArrayLike, points: npt.ArrayLike, width: int = 3) -> Edit:
    """Make one object of all that a line touches: they get the value of the first, and where the line runs over
    background between them it becomes a bridge.

    Parameters
    ----------
    labels : (h, w) uint8 or uint32
    points : (n, 2) array
        The line, as for `line`: its corners `y, x`.
    width : int
        Of the bridge, in pixels; at least 3, so that it is connected by pixel sides in every direction.

    Raises
    ------
    StoreError
        If the line touches fewer than two objects, or labels and line cannot be used.
    """
    array = checked(labels)
    if width < 3:
        raise StoreError(f"A bridge is at least 3 pixels wide; got {width}.")
    rows, columns = pixels_along(array.shape, points)
    parts, count = _parts(array)
    under = parts[rows, columns]
    on = np.flatnonzero(under)
    touched = np.zeros(count + 1, np.bool_)
    touched[under] = True
    touched[0] = False
    if np.count_nonzero(touched) < 2:
        raise StoreError("The line touches fewer than two objects; draw it from one object into another.")
    value = int(array[rows[on[0]], columns[on[0]]])
    bridge = np.zeros(array.shape, np.bool_)
    reach = width // 2
    for row, column in zip(rows[on[0] : on[-1] + 1].tolist(), columns[on[0] : on[-1] + 1].tolist(), strict=True):
        bridge[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = True
    joined: Mask = touched[parts]
    bridge &= ~is_object(array)
    box = box_of(bridge)
    if box is not None:  # slivers beyond a corner of another object are connected with none
        part = box.padded(1).intersection(Window(0, 0, *array.shape)).slices()
        pieces, _ = ndimage.label(joined[part] | bridge[part])
        joined[part] |= np.isin(pieces, np.unique(pieces[joined[part]])) & bridge[part]
    return edited(array, joined, value)


def split(labels: npt.ArrayLike, obj: Mask, path: Mask, numbers: Sequence[int] = (), background: int = 0) -> Edit:
    """Cut an object in pieces along a line.

    In classes the line becomes background, one pixel wide. In instance labels the largest piece keeps its number, the
    others take new ones, and the line's pixels go to the piece they touch, so nothing is lost.

    Parameters
    ----------
    labels : (h, w) uint8 or uint32
    obj : (h, w) bool
        The object's pixels.
    path : (h, w) bool
        The line, from `line`.
    numbers : sequence of int
        Numbers for the new pieces of instance labels; at least one less than there are pieces.
    background : int
        0, or 255 in an annotation.

    Raises
    ------
    StoreError
        If the line does not cut the object, or the numbers do not suffice.
    """
    array = checked(labels, obj, path)
    value_of(array, obj)
    parts, count = ndimage.label(obj & ~path)
    if count < 2:
        raise StoreError("The line does not cut this object in two; draw it from one side through to the other.")
    if array.dtype == np.uint8:
        return edited(array, obj & path, background)
    return _numbered(array, obj, parts, numbers)


def watershed(
    labels: npt.ArrayLike, obj: Mask, distance: float, numbers: Sequence[int] = (), background: int = 0
) -> Edit:
    """Separate an object where it is thin: a watershed on the distance to its outline (Beucher and Lantuejoul, 1979).

    Objects larger than `FLOODED` pixels are looked at at a half, a quarter, ... of their resolution, so that the cut is
    that much coarser.

    Parameters
    ----------
    labels, obj, numbers, background
        As for `split`.
    distance : float
        The middles of two pieces are at least so many pixels apart.

    Raises
    ------
    StoreError
        If it would stay one piece, or the numbers do not suffice.

    References
    ----------
    S. Beucher and C. Lantuejoul, "Use of watersheds in contour detection", International Workshop on Image Processing,
    Rennes, 1979.
    """
    array = checked(labels, obj)
    value_of(array, obj)
    box = box_of(obj)
    part = (slice(0), slice(0)) if box is None else box.slices()
    found = _flooded(np.pad(obj[part], 1), distance)[1:-1, 1:-1]
    if found.max(initial=0) < 2:
        raise StoreError(
            f"This object stays one piece when its middles are to be {distance:g} pixels apart; give less, or split "
            "it by a line."
        )
    parts = np.zeros(array.shape, np.int32)
    parts[part] = np.where(obj[part], found, 0)
    if array.dtype == np.uint8:
        cut = np.zeros(array.shape, np.bool_)
        cut[1:] |= (parts[1:] != parts[:-1]) & (parts[1:] > 0) & (parts[:-1] > 0)
        cut[:, 1:] |= (parts[:, 1:] != parts[:, :-1]) & (parts[:, 1:] > 0) & (parts[:, :-1] > 0)
        return edited(array, cut, background)
    return _numbered(array, obj, parts, numbers)


def keep_largest(labels: npt.ArrayLike, lasso: Mask, background: int = 0) -> Edit:
    """Of the objects that lie in a lasso by more than half, keep the largest of each value; the others go.

    With one number in several pieces, as instance labels may have, the largest piece stays. Parameters as for `delete`.
    """
    array = checked(labels, lasso)
    parts, count = _parts(np.where(objects_inside(array, lasso), array, 0).astype(array.dtype))
    if count < 2:
        return edited(array, np.zeros(array.shape, np.bool_), background)
    any_object = parts > 0
    numbers_there = parts[any_object]
    sizes = np.bincount(numbers_there, minlength=count + 1)
    values = np.zeros(count + 1, np.int64)
    values[numbers_there] = array[any_object]
    drop = np.ones(count + 1, np.bool_)
    drop[0] = False
    for value in np.unique(values[1:]):
        numbers = np.flatnonzero(values[1:] == value) + 1
        drop[numbers[sizes[numbers].argmax()]] = False
    return edited(array, drop[parts], background)


def new_object(labels: npt.ArrayLike, area: Mask, value: int) -> Edit:
    """Make an area an object of its own, over background only.

    In classes a gap of one pixel is left to other objects of the class, as it would be one with them else.

    Parameters
    ----------
    labels : (h, w) uint8 or uint32
    area : (h, w) bool
        Such as a lasso.
    value : int
        Its class, or its number: one that is not in use.

    Raises
    ------
    StoreError
        If there is no background in the area, or the value is that of an object here already (instance labels).
    """
    array = checked(labels, area)
    number = checked_value(array, value)
    free = area & ~is_object(array)
    if array.dtype == np.uint8:
        free &= ~ndimage.binary_dilation(array == number)
    elif (array == number).any():
        raise StoreError(f"The number {number} is in use here; give one that is not.")
    if not free.any():
        raise StoreError("There is no background in this area, so no new object fits; delete what is there first.")
    return edited(array, free, number)


def _parts(labels: Labels) -> tuple[Parts, int]:
    """Every object of the window with a number of its own: connected, of one value."""
    if labels.dtype != np.uint8:
        from skimage.measure import label

        parts, count = label(labels.astype(np.int64), 0, True, 1)  # type: ignore[no-untyped-call]
        return parts.astype(np.int32), int(count)
    values = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[1:ANNOTATED_BACKGROUND]) + 1
    if len(values) == 1:
        found, count = ndimage.label(labels == values[0])
        return found, int(count)
    together: Parts = np.zeros(labels.shape, np.int32)
    total = 0
    for value in values:
        found, count = ndimage.label(labels == value)
        own = found > 0
        together[own] = found[own] + total
        total += int(count)
    return together, total


def _numbered(array: Labels, obj: Mask, parts: Parts, numbers: Sequence[int]) -> Edit:
    """An object's pieces with numbers: the largest keeps its own; pixels without a piece join the nearest."""
    count = int(parts.max())
    if len(numbers) < count - 1:
        raise StoreError(f"{count} pieces need {count - 1} new numbers; {len(numbers)} were given.")
    if (obj & (parts == 0)).any():
        box = box_of(obj)
        part = (slice(0), slice(0)) if box is None else box.slices()
        nearest = ndimage.distance_transform_edt(parts[part] == 0, return_distances=False, return_indices=True)
        parts = parts.copy()
        parts[part] = np.where(obj[part], parts[part][tuple(nearest)], 0)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    largest = int(sizes.argmax())
    table = np.zeros(count + 1, array.dtype)
    new = iter(numbers)
    for piece in range(1, count + 1):
        table[piece] = value_of(array, obj) if piece == largest else checked_value(array, next(new))
    return edited(array, obj, table[parts])


def _flooded(obj: Mask, distance: float) -> Parts:
    """The pieces of an object, numbered, 0 outside it."""
    step = 1
    while max(obj.shape) // step > FLOODED:
        step *= 2
    small = obj[::step, ::step]
    depth = ndimage.distance_transform_edt(small)
    depth = ndimage.gaussian_filter(depth, max(1.0, distance / step / 6))
    peaks = peak_local_max(  # type: ignore[no-untyped-call]
        depth,
        min_distance=max(1, round(distance / step)),
        exclude_border=False,
        labels=small.astype(np.int32),
        p_norm=2,
    )
    markers = np.zeros(small.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    pieces: Parts = flood(-depth, markers, mask=small).astype(np.int32)  # type: ignore[no-untyped-call]
    if step == 1:
        return pieces
    whole = np.kron(pieces, np.ones((step, step), np.int32))[: obj.shape[0], : obj.shape[1]]
    missing = obj & (whole == 0)
    if missing.any():
        nearest = ndimage.distance_transform_edt(whole == 0, return_distances=False, return_indices=True)
        whole = np.where(obj, whole[tuple(nearest)], 0)
    return np.where(obj, whole, 0).astype(np.int32)


# ----------------------------------------------------------------------------------------------------------------------
# Edits of outlines: grow, shrink, smooth, fill holes.

Radius = float | tuple[float, float]
_ONE = 1 + 1e-9  # so that rounding does not exclude a distance equal to the radius
_DISCS = 8_000_000  # with more pixels to set disc by disc than this, a distance transform is faster


def radius_in_pixels(um: float, mpp: tuple[float, float] | None) -> tuple[float, float]:
    """A length in µm as a radius `(y, x)` in pixels; without µm per pixel the length already is in pixels."""
    return (um, um) if mpp is None else (um / mpp[0], um / mpp[1])


def grow(labels: npt.ArrayLike, obj: Mask, radius: Radius) -> Edit:
    """Grow an object into the background, never over other objects.

    Parameters
    ----------
    labels : (h, w) uint8 or uint32
    obj : (h, w) bool
        The object's pixels.
    radius : float or (y, x)
        Pixels whose middle is at most so far from the middle of one of the object's join it.

    Raises
    ------
    StoreError
        If the labels or the mask cannot be used, or the radius is not above zero.
    """
    array = checked(labels, obj)
    value = value_of(array, obj)
    near = _within(obj, _pair(radius))
    return edited(array, near & ~is_object(array), value)


def shrink(labels: npt.ArrayLike, obj: Mask, radius: Radius, background: int = 0) -> Edit:
    """Shrink an object: its pixels at most `radius` from a pixel that is not its own become background.

    Beyond the window nothing is assumed: give a window with a margin of the radius. The parameters and errors are those
    of `grow`; `background` is 255 in an annotation.
    """
    array = checked(labels, obj)
    value_of(array, obj)
    return edited(array, obj & _within(~obj, _pair(radius)), background)


def smooth(labels: npt.ArrayLike, obj: Mask, radius: int, background: int = 0) -> Edit:
    """Smooth an object's outline: each pixel follows the majority of the square of `2 radius + 1` pixels around it.

    Other objects are never painted over. Errors as for `grow`, also where nothing would be left of the object.
    """
    array = checked(labels, obj)
    value = value_of(array, obj)
    if not 1 <= radius <= 90:
        raise StoreError(f"Objects are smoothed by 1 to 90 pixels; got {radius}.")
    side = 2 * radius + 1
    inner = np.zeros(array.shape, np.bool_)
    box = box_of(obj)
    whole = Window(0, 0, *array.shape)
    part = whole.slices() if box is None else box.padded(radius).intersection(whole).slices()
    inner[part] = _square_counts(obj[part], radius) > side * side // 2
    if not inner.any():
        raise StoreError(f"Smoothed by {radius} pixels nothing of this object would be left; give fewer.")
    values = array.copy()
    values[obj & ~inner] = background
    values[inner & ~is_object(array)] = value
    return Edit(values, values != array)


def fill_holes(labels: npt.ArrayLike, obj: Mask) -> Edit:
    """Fill the background that an object surrounds; other objects inside stay as they are. Parameters as for `grow`."""
    array = checked(labels, obj)
    value = value_of(array, obj)
    box = box_of(obj)
    part = (slice(0), slice(0)) if box is None else box.slices()
    parts, count = ndimage.label(np.pad(~obj[part], 1, constant_values=True), structure=np.ones((3, 3)))
    holes = np.zeros(array.shape, np.bool_)
    if count > 1:
        holes[part] = (parts > 0)[1:-1, 1:-1] & (parts != parts[0, 0])[1:-1, 1:-1]
    return edited(array, holes & ~is_object(array), value)


def _pair(radius: Radius) -> tuple[float, float]:
    ry, rx = radius if isinstance(radius, tuple) else (radius, radius)
    if not (np.isfinite([ry, rx]).all() and min(ry, rx) > 0):
        raise StoreError(f"A radius must be above zero; got {radius}.")
    return float(ry), float(rx)


def _within(mask: Mask, radius: tuple[float, float]) -> Mask:
    """Which pixels have a true one within an ellipse of this radius.

    The nearest true pixel of a false one has a false neighbour by a side, so discs around those are enough.
    """
    edge = _edge(mask)
    spots = np.flatnonzero(edge)
    ry, rx = radius
    if len(spots) * np.pi * ry * rx > _DISCS:
        distance = ndimage.distance_transform_edt(~mask, sampling=(1 / ry, 1 / rx))
        far: Mask = distance <= _ONE
        return far & mask.any()
    my, mx = int(ry * _ONE), int(rx * _ONE)
    y, x = np.mgrid[-my : my + 1, -mx : mx + 1]
    chosen = np.hypot(y / ry, x / rx) <= _ONE
    out = np.pad(mask, ((my, my), (mx, mx)))
    width = out.shape[1]
    offsets = (y * width + x)[chosen]
    rows, columns = np.divmod(spots, mask.shape[1])
    places = (rows + my) * width + columns + mx
    flat = out.reshape(-1)
    for offset in offsets.tolist():
        flat[places + offset] = True
    return out[my : my + mask.shape[0], mx : mx + mask.shape[1]]


def _edge(mask: Mask) -> Mask:
    """True pixels with a false neighbour by a side."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return mask & ~inner


def _square_counts(mask: Mask, radius: int) -> npt.NDArray[np.uint16]:
    """How many pixels are true in the square around each; sums may wrap around, their differences are right."""
    counts = mask.astype(np.uint16)
    for axis in (0, 1):
        sums = np.cumsum(
            np.pad(counts, [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)]), axis, np.uint16
        )
        length = mask.shape[axis]
        after, before = ([slice(None)] * 2 for _ in range(2))
        after[axis], before[axis] = slice(2 * radius + 1, 2 * radius + 1 + length), slice(0, length)
        counts = sums[tuple(after)] - sums[tuple(before)]
    return counts
