"""Computing first what is in view: the choice of the next batch, and for a large view a first look at its coarsest
scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt

from napari_msunet import events
from napari_msunet.geometry import Window
from napari_msunet.inference.plan import Plan, Tile

LARGE = 4_000_000
"""Fewest unfinished target pixels in view for which the coarsest scale goes first; fewer are finished in seconds."""

Piece = tuple[int, int, int]
"""Unit, stream and number of a piece of a coarse branch."""


@dataclass(frozen=True)
class Work:
    """A batch of tiles and the pieces of coarse branches that it needs."""

    unit: int
    tiles: tuple[Tile, ...]
    pieces: tuple[Piece, ...]

    @cached_property
    def windows(self) -> list[Window]:
        """The windows of its tiles."""
        return [tile.window for tile in self.tiles]


@dataclass(frozen=True)
class CoarseLook:
    """The answer of the coarsest scale alone for a piece in view.

    Attributes
    ----------
    piece : Window
        The piece in pixels of that scale.
    scale : Fraction
        Pixels of that scale per target pixel and side.
    probabilities : (K+1, h, w) float32
        Probabilities of the piece.
    """

    piece: Window
    scale: Fraction
    probabilities: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ScreenArea:
    """The part of the slide that is on a screen, in target pixels."""

    y: float
    x: float
    height: float
    width: float

    @classmethod
    def of(cls, view: events.View | None, pixel: tuple[float, float]) -> ScreenArea | None:
        """The area of a view in level-0 pixels of the slide, on a grid with pixels of this size; None without a
        view."""
        if view is None:
            return None
        return cls(view[0] / pixel[0], view[1] / pixel[1], view[2] / pixel[0], view[3] / pixel[1])

    def area(self, window: Window) -> float:
        """The number of a window's pixels that are in view."""
        height = min(window.stop[0], self.y + self.height) - max(window.y, self.y)
        width = min(window.stop[1], self.x + self.width) - max(window.x, self.x)
        return max(0.0, height) * max(0.0, width)

    def distance(self, window: Window) -> float:
        """The distance from the middle of the view to that of a window; infinite where no pixel of it is in view."""
        if not self.area(window):
            return float("inf")
        dy = window.y + window.height / 2 - self.y - self.height / 2
        dx = window.x + window.width / 2 - self.x - self.width / 2
        return abs(dy) + abs(dx)


def next_batch(left: Mapping[int, Work], seen: ScreenArea | None) -> int:
    """The batch to compute next: the one nearest to the middle of the view, if any is in view, else the first."""
    first = next(iter(left))
    if seen is None:
        return first
    best = min(left, key=lambda n: seen.distance(left[n].windows[0]))
    return best if seen.distance(left[best].windows[0]) < float("inf") else first


class FirstLooks:
    """Chooses the pieces of the coarsest branch that are computed first, since they show a large view at once.

    The tiles need these pieces in any case, and they are kept until then, so only the order of the work changes.

    Parameters
    ----------
    plan : Plan
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        exact = [n for n, s in enumerate(plan.streams) if s.model == 0 and s.ratio < 1 and not (s.joint or s.blended)]
        self._stream = min(exact, key=lambda n: plan.streams[n].ratio, default=None)
        self._chosen: set[Piece] = set()

    def next(self, left: Mapping[int, Work], seen: ScreenArea | None) -> Piece | None:
        """The piece nearest to the middle of the view, to be computed before all tiles; None: continue with the
        tiles."""
        if seen is None or self._stream is None:
            return None
        works = [work for work in left.values() if any(map(seen.area, work.windows))]
        if sum(seen.area(window) for work in works for window in work.windows) < LARGE:
            return None
        pieces = {p for work in works for p in work.pieces if p[1] == self._stream} - self._chosen
        nearest = min(pieces, key=lambda p: (seen.distance(self._on_target(p)), p), default=None)
        if nearest is None or seen.distance(self._on_target(nearest)) == float("inf"):
            return None
        self._chosen.add(nearest)
        return nearest

    def _on_target(self, piece: Piece) -> Window:
        unit, stream, number = piece
        return Window(*self._plan.units[unit].pieces[stream][number]).times(1 / self._plan.streams[stream].ratio)
