"""What an edit gives back, and what all edits check."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.metadata import ANNOTATED_BACKGROUND

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
