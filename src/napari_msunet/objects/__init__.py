"""Edits of objects in labels, as pure functions on arrays, and finding the object at a place of a store.

Each takes the labels of a window, uint8 (classes) or uint32 (numbers of objects), and gives an `Edit`: new labels of
the window and which pixels changed. An **object** is a set of pixels of one value, not background, that are connected
by their sides. The arrays that are given are never changed.
"""

from napari_msunet.objects.edits import (
    Edit,
    change_class,
    change_class_inside,
    delete,
    fill_holes,
    grow,
    inside_polygon,
    keep_largest,
    line,
    merge,
    new_numbers,
    new_object,
    objects_inside,
    radius_in_pixels,
    shrink,
    smooth,
    split,
    watershed,
)
from napari_msunet.objects.picking import LIMIT, NothingHereError, ObjectTooLargeError, object_at
from napari_msunet.objects.wands import RIM, image_wand, probability_wand, snap, wand_area, wand_cost

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
