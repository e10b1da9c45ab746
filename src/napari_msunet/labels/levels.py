"""Coarser levels, of which each pixel is made of 2 x 2 finer ones.

The most frequent value wins; a tie goes to a class before background, then to the lower number. In an annotation the
order is classes, then 255 (background), then 0 (not annotated).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from napari_msunet.constants import CHUNK
from napari_msunet.geometry import Window

Scalar = TypeVar("Scalar", bound=np.generic)
Label = TypeVar("Label", bound=np.unsignedinteger[Any])


def _quarters(values: npt.NDArray[Scalar]) -> tuple[npt.NDArray[Scalar], ...]:
    """The four pixels of each 2 x 2 block; at an odd edge the last ones count twice, which leaves the vote as it is."""
    height, width = values.shape
    if height % 2 or width % 2:
        values = np.pad(values, ((0, height % 2), (0, width % 2)), mode="edge")
    return values[::2, ::2], values[::2, 1::2], values[1::2, ::2], values[1::2, 1::2]


def coarsen(values: npt.NDArray[Label]) -> npt.NDArray[Label]:
    """The next coarser level of labels.

    Parameters
    ----------
    values : (h, w) uint8 or uint32
        Starts at an even row and column of its level.

    Returns
    -------
    (ceil(h / 2), ceil(w / 2)) array of the same type
    """
    one = values.dtype.type(1)
    # minus one, with wrap-around: classes come first, then 255 of an annotation, then 0, and the lower number wins
    a, b, c, d = (quarter - one for quarter in _quarters(values))
    low, high = np.minimum(a, b), np.maximum(a, b)
    other_low, other_high = np.minimum(c, d), np.maximum(c, d)
    first, last = np.minimum(low, other_low), np.maximum(high, other_high)
    low, high = np.maximum(low, other_low), np.minimum(high, other_high)
    second, third = np.minimum(low, high), np.maximum(low, high)
    # sorted: the first equal neighbours are the most frequent value, and of two pairs the one that wins the tie
    winner = np.where(first == second, first, np.where(second == third, second, np.where(third == last, third, first)))
    result: npt.NDArray[Label] = winner + one
    return result


def coarsen_any(values: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The next coarser level of a mask: true where any of the 2 x 2 is."""
    a, b, c, d = _quarters(values)
    return a | b | c | d


def coarsen_mean(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The next coarser level of `(h, w)` probabilities: the mean, of the pixels that exist, in the same type."""
    a, b, c, d = (quarter.astype(np.float32) for quarter in _quarters(values))
    mean = ((a + b) + (c + d)) / np.float32(4)
    return (np.rint(mean) if np.issubdtype(values.dtype, np.integer) else mean).astype(values.dtype)


def children(parent: Window, shape: tuple[int, int]) -> Window:
    """The pixels of the finer level, of `shape`, that make up a window of the coarser one."""
    start, stop = (parent.y * 2, parent.x * 2), (parent.stop[0] * 2, parent.stop[1] * 2)
    return Window.between(start, (min(stop[0], shape[0]), min(stop[1], shape[1])))


class Planes(Protocol):
    """Pyramids of labels and of `edited` that can be read and written by windows."""

    @property
    def shapes(self) -> list[tuple[int, int]]: ...

    def read(self, plane: str, level: int, window: Window) -> npt.NDArray[Any]: ...

    def part(self, plane: str, level: int, window: Window) -> npt.NDArray[Any] | int: ...

    def assign(
        self, plane: str, level: int, window: Window, values: Any, mask: npt.NDArray[np.bool_] | None = None
    ) -> None: ...


def update_coarser(planes: Planes, *windows: Window) -> None:
    """Bring all coarser levels up to date after level 0 changed within `windows`."""
    for level in range(1, len(planes.shapes)):
        sources = []
        for window in _grouped(windows):
            parent = window.halved()
            sources.append((parent, children(parent, planes.shapes[level - 1])))
        for plane, rule in _RULES.items():
            plain: dict[tuple[int, int], list[tuple[Window, int]]] = {}
            for parent, source in sources:
                values = planes.part(plane, level - 1, source)
                if isinstance(values, int):  # a uniform area keeps its value under any rule
                    plain.setdefault((parent.y // CHUNK, parent.x // CHUNK), []).append((parent, values))
                else:
                    planes.assign(plane, level, parent, rule(values))
            for parts in plain.values():
                for parent, value in _joined(parts):
                    planes.assign(plane, level, parent, value)
        windows = tuple(parent for parent, _ in sources)


def _joined(parts: list[tuple[Window, int]]) -> list[tuple[Window, int]]:
    """Windows of one value each, joined where they fill a window with one value, so that a chunk can stay uniform."""
    if len(parts) == 1 or len({value for _, value in parts}) > 1:
        return parts
    whole = around([window for window, _ in parts])
    filled = sum(window.height * window.width for window, _ in parts)
    return [(whole, parts[0][1])] if filled == whole.height * whole.width else parts


def around(windows: Sequence[Window]) -> Window:
    """The smallest window around some."""
    start = (min(w.y for w in windows), min(w.x for w in windows))
    return Window.between(start, (max(w.stop[0] for w in windows), max(w.stop[1] for w in windows)))


_RULES: dict[str, Any] = {"labels": coarsen, "edited": coarsen_any}


def _grouped(windows: tuple[Window, ...]) -> Iterator[Window]:
    """One window around all if it is small, else one in each chunk around what lies there."""
    box = around(windows)
    if max(box.shape) <= CHUNK:
        yield box
        return
    found: dict[tuple[int, int], tuple[int, int, int, int]] = {}
    for window in windows:
        for tile in tiles(window, CHUNK):
            key = (tile.y // CHUNK, tile.x // CHUNK)
            y0, x0, y1, x1 = found.get(key, (tile.y, tile.x, *tile.stop))
            found[key] = (min(y0, tile.y), min(x0, tile.x), max(y1, tile.stop[0]), max(x1, tile.stop[1]))
    for y0, x0, y1, x1 in found.values():
        yield Window.between((y0, x0), (y1, x1))


def rebuilt(
    read: Callable[[str, int, Window], npt.NDArray[Any]],
    shapes: list[tuple[int, int]],
    plane: str,
    level: int,
    window: Window,
) -> npt.NDArray[Any]:
    """A window of a coarser level, made again from the level below that `read` gives; cut to the level."""
    inside = window.intersection(Window(0, 0, *shapes[level]))
    values: npt.NDArray[Any] = _RULES[plane](read(plane, level - 1, children(inside, shapes[level - 1])))
    return values


def tiles(window: Window, side: int) -> Iterator[Window]:
    """`window` cut along the multiples of `side`, row by row."""
    for y in range(window.y // side, -(-window.stop[0] // side)):
        for x in range(window.x // side, -(-window.stop[1] // side)):
            part = window.intersection(Window(y * side, x * side, side, side))
            if not part.empty:
                yield part
