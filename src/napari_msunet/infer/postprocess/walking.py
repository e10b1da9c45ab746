"""Planes of labels of any size, and the windows in which they are walked through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window

SIDE = 2048
"""Side of the windows in pixels; it has no influence on any result."""


class Plane(Protocol):
    """Labels that are read and written by windows."""

    def read(self, window: Window) -> npt.NDArray[Any]:
        """Values of a window, which may stick out: 0 there."""

    def write(self, window: Window, values: npt.NDArray[Any]) -> None:
        """Put values into a window inside."""


@dataclass(frozen=True)
class ArrayPlane:
    """A plane in memory."""

    values: npt.NDArray[Any]

    def read(self, window: Window) -> npt.NDArray[Any]:
        """Values of a window, 0 outside."""
        out = np.zeros(window.shape, self.values.dtype)
        inside = window.intersection(Window(0, 0, *self.values.shape))
        out[inside.slices((window.y, window.x))] = self.values[inside.slices()]
        return out

    def write(self, window: Window, values: npt.NDArray[Any]) -> None:
        """Put values into a window."""
        self.values[window.slices()] = values


class Walk:
    """The windows that hold something, row by row, and what of them was predicted.

    Parameters
    ----------
    shape : (h, w)
        Of the plane.
    done : iterable of Window
        What was predicted; windows that touch none of it are left out.
    side : int
        Of the windows; they lie on its multiples.
    """

    def __init__(self, shape: tuple[int, int], done: Iterable[Window], side: int = SIDE) -> None:
        self.whole, self.side = Window(0, 0, *shape), side
        self._done: dict[tuple[int, int], list[Window]] = {}
        for window in done:
            inside = window.intersection(self.whole)
            for y in range(inside.y // side, -(-inside.stop[0] // side)):
                for x in range(inside.x // side, -(-inside.stop[1] // side)):
                    self._done.setdefault((y, x), []).append(inside)

    def __len__(self) -> int:
        return len(self._done)

    def __iter__(self) -> Iterator[Window]:
        for y, x in sorted(self._done):
            yield self.at(y, x)

    def at(self, y: int, x: int) -> Window:
        """The window of a row and column, whether there is something or not."""
        return Window(y * self.side, x * self.side, self.side, self.side).intersection(self.whole)

    def has(self, y: int, x: int) -> bool:
        """Whether the window of a row and column is walked through."""
        return (y, x) in self._done

    def over(self, window: Window) -> Iterator[Window]:
        """The windows that touch another one."""
        inside = window.intersection(self.whole)
        for y in range(inside.y // self.side, -(-inside.stop[0] // self.side)):
            for x in range(inside.x // self.side, -(-inside.stop[1] // self.side)):
                if (y, x) in self._done:
                    yield self.at(y, x)

    def known(self, window: Window) -> npt.NDArray[np.bool_]:
        """Which pixels of one of the windows were predicted."""
        found = np.zeros(window.shape, np.bool_)
        for done in self._done.get((window.y // self.side, window.x // self.side), ()):
            part = done.intersection(window)
            if not part.empty:
                found[part.slices((window.y, window.x))] = True
        return found
