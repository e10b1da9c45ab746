"""The shapes of painting: the round brush of any size, and the area that the fill bucket fills."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window
from napari_msunet.objects.components import cut_off, piece_at

# ----------------------------------------------------------------------------------------------------------------------
# The round brush, kept as a shape, because a huge one would not fit into one array.

LARGE = 400
"""A brush wider than this (level-0 pixels) is painted as a shape, not as an array."""

LARGEST_BRUSH = 16_384
"""The widest brush, in level-0 pixels."""


def reach(centre: tuple[int, int], radius: float, scale: tuple[float, float], bounds: Window) -> Window:
    """The window that a dab covers; its parameters are those of `Disc`."""
    y, x = (int(radius / size) for size in scale)
    return Window(centre[0] - y, centre[1] - x, 2 * y + 1, 2 * x + 1).intersection(bounds)


class Disc:
    """One dab of napari's brush: the pixels within a radius, which is an ellipse where pixels are not square.

    Parameters
    ----------
    centre : (y, x)
        Level-0 pixel.
    radius : float
        In pixels of the finer axis, as napari has it: half the brush size rounded down, and a half.
    scale : (y, x)
        Sizes of a pixel in units of the smaller one.
    bounds : Window
        The area that can be painted on.
    """

    def __init__(self, centre: tuple[int, int], radius: float, scale: tuple[float, float], bounds: Window) -> None:
        self._limit = radius**2
        self.window = reach(centre, radius, scale, bounds)
        rows, columns = np.arange(self.window.y, self.window.stop[0]), np.arange(self.window.x, self.window.stop[1])
        self._across, self._along = ((rows - centre[0]) * scale[0]) ** 2, ((columns - centre[1]) * scale[1]) ** 2

    def __getitem__(self, place: tuple[slice, slice]) -> npt.NDArray[np.bool_]:
        """The mask in a part of `window`, as if the disc were an array of the window's shape."""
        window = self.window
        start = (window.y + place[0].start, window.x + place[1].start)
        part = Window.between(start, (window.y + place[0].stop, window.x + place[1].stop))
        mask = self.within(part)
        return np.ones(part.shape, np.bool_) if mask is None else mask

    def within(self, part: Window) -> npt.NDArray[np.bool_] | None:
        """Which pixels of a part of `window` it covers; None: all of them."""
        place = part.slices((self.window.y, self.window.x))
        across, along = self._across[place[0]], self._along[place[1]]
        if across.max() + along.max() <= self._limit:
            return None
        if across.min() + along.min() > self._limit:
            return np.zeros(part.shape, np.bool_)
        return across[:, None] + along[None] <= self._limit


Mask = npt.NDArray[np.bool_] | Disc | None
"""Which pixels of a window are painted: an array, the shape of a brush, or all."""


def part_of(mask: Mask, window: Window, part: Window) -> npt.NDArray[np.bool_] | None:
    """The mask of a part of `window`, from the mask of `window`; None: all of it."""
    if mask is None or isinstance(mask, Disc):
        return None if mask is None else mask.within(part)
    return mask[part.slices((window.y, window.x))]


def spans(mask: Mask, level: int) -> bool:
    """Whether a mask is wide enough to fill a pixel of a level at any place. A thin line is not; its pixels are voted
    on."""
    return isinstance(mask, np.ndarray) and min(mask.shape) >= 2 << level


def coarser(
    window: Window, mask: npt.NDArray[np.bool_], level: int, label: int
) -> tuple[Window, npt.NDArray[np.bool_]]:
    """A dab at a coarser level: its pixels of which the mask covers half (a label) or more than half (background).

    This is nearly the vote of the finer pixels, without reading them.
    """
    step = 1 << level
    top, left = window.y % step, window.x % step
    height, width = -(-(top + window.height) // step), -(-(left + window.width) // step)
    whole = np.zeros((height * step, width * step), np.uint8)
    whole[top : top + window.height, left : left + window.width] = mask
    rows = whole.reshape(height, step, width * step).sum(axis=1, dtype=np.uint16)
    count = rows.reshape(height, width, step).sum(axis=2, dtype=np.uint32)
    half = step * step // 2
    return Window(window.y // step, window.x // step, height, width), count >= half if label else count > half


# ----------------------------------------------------------------------------------------------------------------------
# The fill tool.

LARGEST_FILL = 4096
"""Largest height and width of a fill, in level-0 pixels."""

_START = 512


BEYOND_VIEW = (
    "This area goes on beyond what is in view, so nothing was filled; zoom out until all of it is in view, or draw its "
    "border closer."
)


class FillTooLargeError(Exception):
    """The area is too large to be filled; the message is one sentence."""


def _too_large(what: str) -> FillTooLargeError:
    return FillTooLargeError(
        f"{what} larger than {LARGEST_FILL} x {LARGEST_FILL} pixels, so nothing was filled; draw its border closer "
        "first, zoom in or use the polygon tool."
    )


def connected(
    read: Callable[[Window], npt.NDArray[np.integer]], bounds: Window, y: int, x: int
) -> tuple[Window, npt.NDArray[np.bool_]]:
    """The connected pixels around `y, x` that have the same value; pixels are connected by their sides.

    A small window is read first, and larger ones while the area reaches the window's edge.
    """
    side = _START
    while True:
        window = Window(y - side // 2, x - side // 2, side, side).intersection(bounds)
        values = read(window)
        at = y - window.y, x - window.x
        box, mask = piece_at(values == values[at], *at)
        found = Window(window.y + box.y, window.x + box.x, *box.shape)
        if found.height > LARGEST_FILL or found.width > LARGEST_FILL:
            raise _too_large("This area is")
        if not cut_off(found, window, bounds):
            return found, mask
        if side >= 2 * LARGEST_FILL:
            raise _too_large("This area is")
        side *= 2


def everywhere(
    read: Callable[[Window], npt.NDArray[np.integer]], area: Window, y: int, x: int
) -> tuple[Window, npt.NDArray[np.bool_]]:
    """The pixels of `area` that have the value at `y, x`."""
    if area.height > LARGEST_FILL or area.width > LARGEST_FILL:
        raise _too_large("What is in view is")
    return area, read(area) == read(Window(y, x, 1, 1))[0, 0]
