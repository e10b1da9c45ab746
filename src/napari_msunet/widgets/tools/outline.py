"""Tools for one object's outline."""

from __future__ import annotations

import math

from napari_msunet.errors import StoreError
from napari_msunet.labels import edits
from napari_msunet.widgets.tools.objects import clicked
from napari_msunet.widgets.tools.tool import Amount, Change, Drawn, Tool


def _radius(drawn: Drawn) -> tuple[float, float]:
    """The amount in pixels; at least one."""
    ry, rx = edits.radius_in_pixels(drawn.amount, drawn.pixel)
    return max(1.0, ry), max(1.0, rx)


def grow(drawn: Drawn) -> Change | None:
    radius = _radius(drawn)
    window, (values, mask) = clicked(drawn, math.ceil(max(radius)) + 1)
    found = drawn.change(window, edits.grow(values, mask, radius))
    if found is None:
        raise StoreError("There is no background around this object for it to grow into.")
    return found


def shrink(drawn: Drawn) -> Change | None:
    window, (values, mask) = clicked(drawn, 1)
    return drawn.change(window, edits.shrink(values, mask, _radius(drawn), drawn.background))


def smooth(drawn: Drawn) -> Change | None:
    radius = min(90, max(1, round(max(_radius(drawn)))))
    window, (values, mask) = clicked(drawn, radius)
    return drawn.change(window, edits.smooth(values, mask, radius, drawn.background))


def fill_holes(drawn: Drawn) -> Change | None:
    window, (values, mask) = clicked(drawn)
    found = drawn.change(window, edits.fill_holes(values, mask))
    if found is None:
        raise StoreError("This object has no holes.")
    return found


_BY = Amount("By", 2, 0.1, 100, 0.5, "µm", "outline")

TOOLS = (
    Tool("grow", "Grow", "G", "Grows an object into the background.", "Click an object to grow it.",
         "click", grow, _BY, group="Outline"),
    Tool("shrink", "Shrink", "Shift+G", "Shrinks an object.", "Click an object to shrink it.",
         "click", shrink, _BY, group="Outline"),
    Tool("smooth", "Smooth", "S", "Smooths an object's outline.", "Click an object to smooth its outline.",
         "click", smooth, _BY, group="Outline"),
    Tool("fill_holes", "Fill holes", "H", "Fills the holes of an object.", "Click an object to fill its holes.",
         "click", fill_holes, group="Outline"),
)  # fmt: skip
