"""The description of a tool: the gesture by which it is used, and the function that computes its change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.objects import LIMIT, Edit
from napari_msunet.slide import Slide

Gesture = Literal["click", "drag", "line", "lasso"]


@dataclass(frozen=True)
class Amount:
    """The number that a tool takes: `text` names it; `unit` is "µm" (pixels where µm are not known) or empty."""

    text: str
    value: float
    low: float
    high: float
    step: float
    unit: str = ""
    key: str = ""

    @property
    def shared(self) -> str:
        """The key under which its value is kept; tools with the same key share the value."""
        return self.key or self.text


class Change(NamedTuple):
    """The pixels to be written, as `LabelStore.write` takes them."""

    window: Window
    values: npt.NDArray[np.integer]
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ToolInput:
    """What was drawn, and on which labels. A tool gets nothing else, so it can run in any thread.

    Parameters
    ----------
    store : LabelStore
    points : (n, 2) array
        `y, x` in level-0 pixels of the store, where 0 is the first pixel's edge.
    label : int
        The label to paint with.
    amount : float
        The value of the tool's `Amount`.
    level : int
        The level of the store that is as fine as the screen.
    slide : Slide, optional
    over : int, optional
        The only label that may be painted over; None: the tool decides.
    """

    store: LabelStore
    points: npt.NDArray[np.float64]
    label: int
    amount: float
    level: int = 0
    slide: Slide | None = None
    over: int | None = None

    @property
    def place(self) -> tuple[float, float]:
        """The first point."""
        return float(self.points[0, 0]), float(self.points[0, 1])

    @property
    def background(self) -> int:
        """The label that replaces a deleted object."""
        return ANNOTATED_BACKGROUND if self.store.kind == "annotation" else 0

    @property
    def pixel(self) -> tuple[float, float] | None:
        """µm per pixel, if known."""
        return self.store.mpp

    def around(self, margin: float = 2) -> Window:
        """The window around the points, inside the store.

        Raises
        ------
        StoreError
            If the window is larger than `LIMIT` pixels, or outside the store.
        """
        low, high = np.floor(self.points.min(0) - margin), np.ceil(self.points.max(0) + margin)
        window = Window.between((int(low[0]), int(low[1])), (int(high[0]) + 1, int(high[1]) + 1))
        inside = self.inside(window)
        if max(inside.shape) > LIMIT:
            raise StoreError(
                f"This is larger than {LIMIT:,} x {LIMIT:,} pixels, so nothing was changed; draw a smaller one."
            )
        return inside

    def inside(self, window: Window) -> Window:
        """The part of a window that is in the store."""
        part = window.intersection(self.store.grid.whole)
        if part.empty:
            raise StoreError("This is outside the labels; draw on the slide.")
        return part

    def local(self, window: Window) -> npt.NDArray[np.float64]:
        """The points in pixels of a window."""
        return self.points - (window.y, window.x)

    def seed(self, window: Window) -> tuple[int, int]:
        """The first pixel in a window."""
        y, x = np.floor(self.local(window)[0]).astype(int)
        if not (0 <= y < window.height and 0 <= x < window.width):
            raise StoreError("This is outside the labels; click on the slide.")
        return int(y), int(x)

    def change(self, window: Window, edit: Edit) -> Change | None:
        """The change that an edit makes; None: nothing changes."""
        if self.over is not None:
            before = self.store.read(window)
            edit = Edit(edit.values, edit.mask & (before == self.over))
        found = edit.cropped(window)
        return None if found is None else Change(*found)


@dataclass(frozen=True)
class Tool:
    """A tool of the row.

    Parameters
    ----------
    name : str
        The name of the tool, as in "tools.split", the name of its key.
    title : str
        The text on its button.
    key : str
        See `widgets.keys`.
    text : str
        What the tool does; its tooltip.
    how : str
        How to use the tool; shown on the canvas while it is chosen.
    gesture : str
        "click", "drag" (click, or hold and drag sideways to change the amount), "line" or "lasso".
    work : callable
        From a `ToolInput` to a `Change`, or None where nothing changes; raises `StoreError` with one sentence where
        the tool cannot be used.
    amount : Amount, optional
    labels : str
        "both", "classes" (uint8) or "objects" (uint32).
    group : str
        The group of its button in the row of tools.
    """

    name: str
    title: str
    key: str
    text: str
    how: str
    gesture: Gesture
    work: Callable[[ToolInput], Change | None]
    amount: Amount | None = None
    labels: Literal["both", "classes", "objects"] = "both"
    group: str = "Objects"
