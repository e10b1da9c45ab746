"""Edits of one object's outline: grow, shrink, smooth, fill its holes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.edits.edit import Edit, Mask, box_of, checked, edited, is_object, value_of

Radius = float | tuple[float, float]
_ONE = 1 + 1e-9  # a distance that is as large as the radius but for rounding
_DISCS = 8_000_000  # pixels set disc by disc, above which a distance transform is faster


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
