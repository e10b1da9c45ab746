"""Edits of objects in labels, as pure functions on arrays, and finding the object at a place of a store.

Each takes the labels of a window, uint8 (classes) or uint32 (numbers of objects), and gives an `Edit`: new labels of
the window and which pixels changed. An **object** is a set of pixels of one value, not background, that hang together
by their sides. Nothing given is changed.
"""

from napari_msunet.labels.edits.drawing import inside_polygon, line
from napari_msunet.labels.edits.edit import Edit
from napari_msunet.labels.edits.finding import LIMIT, NothingHereError, ObjectTooLargeError, object_at
from napari_msunet.labels.edits.numbers import new_numbers
from napari_msunet.labels.edits.objects import (
    change_class,
    change_class_inside,
    delete,
    keep_largest,
    merge,
    new_object,
    objects_inside,
    split,
    watershed,
)
from napari_msunet.labels.edits.outline import fill_holes, grow, radius_in_pixels, shrink, smooth
from napari_msunet.labels.edits.wands import RIM, image_wand, probability_wand, snap, wand_area, wand_cost

__all__ = [
    "LIMIT",
    "RIM",
    "Edit",
    "NothingHereError",
    "ObjectTooLargeError",
    "change_class",
    "change_class_inside",
    "delete",
    "fill_holes",
    "grow",
    "image_wand",
    "inside_polygon",
    "keep_largest",
    "line",
    "merge",
    "new_numbers",
    "new_object",
    "object_at",
    "objects_inside",
    "probability_wand",
    "radius_in_pixels",
    "shrink",
    "smooth",
    "snap",
    "split",
    "wand_area",
    "wand_cost",
    "watershed",
]
