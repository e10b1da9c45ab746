"""The tools that edit whole objects, and those that edit the outlines of objects."""

from __future__ import annotations

import math

import numpy as np

from napari_msunet import objects
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.widgets.tools.tool import Amount, Change, Tool, ToolInput

# ----------------------------------------------------------------------------------------------------------------------
# Tools for whole objects.

MANY = 64
"""Most pieces that one cut can make."""


def clicked(drawn: ToolInput, margin: int = 0) -> tuple[Window, objects.Edit]:
    """The object under the mouse: the window around it, its labels and its pixels."""
    found, mask = objects.object_at(drawn.store, drawn.place)
    window = drawn.inside(found.padded(margin))
    values = drawn.store.read(window)
    whole = mask
    if margin:
        whole = np.zeros(window.shape, np.bool_)
        whole[found.slices((window.y, window.x))] = mask
    return window, objects.Edit(values, whole)


def _need_class(drawn: ToolInput) -> int:
    if drawn.label == 0 and not drawn.store.info.instances:
        raise StoreError("Background is chosen to paint with; choose a class first.")
    return drawn.label


def _new_numbers(drawn: ToolInput, count: int) -> list[int]:
    return objects.new_numbers(drawn.store, count) if drawn.store.info.instances else []


def delete(drawn: ToolInput) -> Change | None:
    window, (values, mask) = clicked(drawn)
    return drawn.change(window, objects.delete(values, mask, drawn.background))


def change_class(drawn: ToolInput) -> Change | None:
    window, (values, mask) = clicked(drawn)
    return drawn.change(window, objects.change_class(values, mask, _need_class(drawn)))


def _lassoed(drawn: ToolInput) -> tuple[Window, objects.Edit]:
    """The labels around a lasso and the pixels inside it, with a margin of half its size for objects that reach out."""
    window = drawn.around()
    values = drawn.store.read(window)
    edge = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    if ((edge != 0) & (edge != drawn.background)).any():
        window = drawn.inside(window.padded(max(window.shape) // 2))
    return window, objects.Edit(drawn.store.read(window), objects.inside_polygon(window.shape, drawn.local(window)))


def change_class_inside(drawn: ToolInput) -> Change | None:
    window, (values, lasso) = _lassoed(drawn)
    inside = objects.objects_inside(values, lasso)
    if not inside.any():
        raise StoreError("No object lies in this lasso by more than half; draw it around the objects.")
    return drawn.change(window, objects.change_class(values, inside, _need_class(drawn)))


def delete_inside(drawn: ToolInput) -> Change | None:
    window, (values, lasso) = _lassoed(drawn)
    inside = objects.objects_inside(values, lasso)
    if not inside.any():
        raise StoreError("No object lies in this lasso by more than half; draw it around the objects.")
    return drawn.change(window, objects.delete(values, inside, drawn.background))


def keep_largest(drawn: ToolInput) -> Change | None:
    window, (values, lasso) = _lassoed(drawn)
    return drawn.change(window, objects.keep_largest(values, lasso, drawn.background))


def merge(drawn: ToolInput) -> Change | None:
    """Merge the objects that a line touches; all their pixels change, so each of them is read whole."""
    line = drawn.around()
    under = objects.line(line.shape, drawn.local(line))
    values = drawn.store.read(line)
    window = line
    todo = under & (values != 0) & (values != drawn.background)
    while todo.any():
        y, x = np.argwhere(todo)[0]
        found, mask = objects.object_at(drawn.store, (line.y + int(y), line.x + int(x)))
        here = found.intersection(line)
        todo[here.slices((line.y, line.x))] &= ~mask[here.slices((found.y, found.x))]
        window = Window.between(
            (min(window.y, found.y), min(window.x, found.x)),
            (max(window.stop[0], found.stop[0]), max(window.stop[1], found.stop[1])),
        )
    if max(window.shape) > objects.LIMIT:
        raise objects.ObjectTooLargeError(
            f"These objects together are larger than {objects.LIMIT:,} x {objects.LIMIT:,} pixels, so nothing was "
            "changed."
        )
    return drawn.change(window, objects.merge(drawn.store.read(window), drawn.local(window)))


def split(drawn: ToolInput) -> Change | None:
    """Split an object along a line; of several objects on the line, the one with most of the line is cut."""
    line = drawn.around()
    values = drawn.store.read(line)
    under = objects.line(line.shape, drawn.local(line)) & (values != 0) & (values != drawn.background)
    if not under.any():
        raise objects.NothingHereError("The line touches no object; draw it across one, from side to side.")
    places = np.argwhere(under)
    y, x = places[len(places) // 2]
    found, mask = objects.object_at(drawn.store, (line.y + int(y), line.x + int(x)))
    path = objects.line(found.shape, drawn.local(found))
    return drawn.change(
        found, objects.split(drawn.store.read(found), mask, path, _new_numbers(drawn, MANY), drawn.background)
    )


def watershed(drawn: ToolInput) -> Change | None:
    window, (values, mask) = clicked(drawn, margin=1)
    distance = min(objects.radius_in_pixels(drawn.amount, drawn.pixel))
    return drawn.change(
        window, objects.watershed(values, mask, max(1, distance), _new_numbers(drawn, MANY), drawn.background)
    )


def new_object(drawn: ToolInput) -> Change | None:
    window = drawn.around()
    value = _new_numbers(drawn, 1)[0] if drawn.store.info.instances else _need_class(drawn)
    lasso = objects.inside_polygon(window.shape, drawn.local(window))
    return drawn.change(window, objects.new_object(drawn.store.read(window), lasso, value))


_APART = Amount("Middles apart by", 20, 0.5, 500, 1, "µm")

TOOLS = (
    Tool("merge", "Merge", "J", "Makes one object of those a line touches.",
         "Draw a line from one object into another.", "line", merge),
    Tool("split", "Split", "K", "Cuts an object in two along a line.",
         "Draw a line across an object, from side to side.", "line", split),
    Tool("watershed", "Separate", "U", "Cuts an object where it is thin (watershed).",
         "Click an object that should be several.", "click", watershed, _APART),
    Tool("delete", "Delete", "D", "Deletes an object.", "Click an object to delete it.", "click", delete),
    Tool("delete_inside", "Lasso delete", "Shift+D", "Deletes all objects in a lasso.",
         "Draw around the objects to delete.", "lasso", delete_inside),
    Tool("change_class", "Class", "R", "Gives an object the chosen class.",
         "Click an object to give it the chosen class.", "click", change_class, labels="classes"),
    Tool("change_class_inside", "Lasso class", "Shift+R", "Gives all objects in a lasso the chosen class.",
         "Draw around the objects to give them the chosen class.", "lasso", change_class_inside, labels="classes"),
    Tool("keep_largest", "Keep largest", "O", "Of the objects in a lasso, keeps the largest of each class.",
         "Draw around objects; the largest of each class stays.", "lasso", keep_largest),
    Tool("new_object", "New", "I", "Makes a new object of its own over background.",
         "Draw the outline of a new object.", "lasso", new_object),
)  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------------
# Tools for the outlines of objects.


def _radius(drawn: ToolInput) -> tuple[float, float]:
    """The amount in pixels, at least one."""
    ry, rx = objects.radius_in_pixels(drawn.amount, drawn.pixel)
    return max(1.0, ry), max(1.0, rx)


def grow(drawn: ToolInput) -> Change | None:
    radius = _radius(drawn)
    window, (values, mask) = clicked(drawn, math.ceil(max(radius)) + 1)
    found = drawn.change(window, objects.grow(values, mask, radius))
    if found is None:
        raise StoreError("There is no background around this object for it to grow into.")
    return found


def shrink(drawn: ToolInput) -> Change | None:
    window, (values, mask) = clicked(drawn, 1)
    return drawn.change(window, objects.shrink(values, mask, _radius(drawn), drawn.background))


def smooth(drawn: ToolInput) -> Change | None:
    radius = min(90, max(1, round(max(_radius(drawn)))))
    window, (values, mask) = clicked(drawn, radius)
    return drawn.change(window, objects.smooth(values, mask, radius, drawn.background))


def fill_holes(drawn: ToolInput) -> Change | None:
    window, (values, mask) = clicked(drawn)
    found = drawn.change(window, objects.fill_holes(values, mask))
    if found is None:
        raise StoreError("This object has no holes.")
    return found


_BY = Amount("By", 2, 0.1, 100, 0.5, "µm", "outline")

OUTLINE_TOOLS = (
    Tool("grow", "Grow", "G", "Grows an object into the background.", "Click an object to grow it.",
         "click", grow, _BY, group="Outline"),
    Tool("shrink", "Shrink", "Shift+G", "Shrinks an object.", "Click an object to shrink it.",
         "click", shrink, _BY, group="Outline"),
    Tool("smooth", "Smooth", "S", "Smooths an object's outline.", "Click an object to smooth its outline.",
         "click", smooth, _BY, group="Outline"),
    Tool("fill_holes", "Fill holes", "H", "Fills the holes of an object.", "Click an object to fill its holes.",
         "click", fill_holes, group="Outline"),
)  # fmt: skip
