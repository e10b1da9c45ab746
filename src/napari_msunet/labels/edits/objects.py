"""Edits of whole objects: merge, split, delete, change their class, keep the largest, make new ones, separate them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed as flood

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.edits.drawing import pixels_along
from napari_msunet.labels.edits.edit import (
    Edit,
    Labels,
    Mask,
    box_of,
    checked,
    checked_value,
    edited,
    is_object,
    value_of,
)
from napari_msunet.labels.metadata import ANNOTATED_BACKGROUND

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
        Of the bridge, in pixels; at least 3, which hangs together by sides in whatever direction.

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
    if box is not None:  # slivers beyond a corner of another object hang on nothing
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
