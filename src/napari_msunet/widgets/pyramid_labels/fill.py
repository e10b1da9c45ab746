"""The fill bucket on a large slide: only as far as one can wait for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_msunet.geometry import Window

LIMIT = 4096
"""A fill is at most this many level-0 pixels high and wide."""

_START = 512


BEYOND_VIEW = (
    "This area goes on beyond what is in view, so nothing was filled; zoom out until all of it is in view, or draw its "
    "border closer."
)


class FillTooLargeError(Exception):
    """The area is too large; one sentence says so."""


def _too_large(what: str) -> FillTooLargeError:
    return FillTooLargeError(
        f"{what} larger than {LIMIT} x {LIMIT} pixels, so nothing was filled; draw its border closer first, zoom in or "
        "use the polygon tool."
    )


def connected(
    read: Callable[[Window], npt.NDArray[np.integer]], bounds: Window, y: int, x: int
) -> tuple[Window, npt.NDArray[np.bool_]]:
    """The pixels around `y, x` of the same value that hang together by their sides.

    Looks at a small window first and at larger ones while the area reaches the window's edge.
    """
    side = _START
    while True:
        window = Window(y - side // 2, x - side // 2, side, side).intersection(bounds)
        values = read(window)
        parts, _ = ndimage.label(values == values[y - window.y, x - window.x])
        number = parts[y - window.y, x - window.x]
        box = ndimage.find_objects(parts, max_label=number)[number - 1]
        found = Window(
            window.y + box[0].start, window.x + box[1].start, box[0].stop - box[0].start, box[1].stop - box[1].start
        )
        if found.height > LIMIT or found.width > LIMIT:
            raise _too_large("This area is")
        if not _cut_off(found, window, bounds):
            return found, parts[box] == number
        if side >= 2 * LIMIT:
            raise _too_large("This area is")
        side *= 2


def everywhere(
    read: Callable[[Window], npt.NDArray[np.integer]], area: Window, y: int, x: int
) -> tuple[Window, npt.NDArray[np.bool_]]:
    """The pixels of `area` that have the value at `y, x`."""
    if area.height > LIMIT or area.width > LIMIT:
        raise _too_large("What is in view is")
    return area, read(area) == read(Window(y, x, 1, 1))[0, 0]


def _cut_off(found: Window, window: Window, bounds: Window) -> bool:
    """Whether an area reaches an edge of the window that is no edge of the slide."""
    return (
        (found.y == window.y > bounds.y)
        or (found.x == window.x > bounds.x)
        or (found.stop[0] == window.stop[0] < bounds.stop[0])
        or (found.stop[1] == window.stop[1] < bounds.stop[1])
    )
