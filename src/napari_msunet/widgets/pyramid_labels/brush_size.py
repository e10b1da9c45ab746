"""The brush's size in pixels of the slide, of the screen, or in µm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from napari.layers import Labels
from napari.utils.events import Event

from napari_msunet.errors import StoreError
from napari_msunet.widgets.viewers import camera, viewers_showing

if TYPE_CHECKING:
    import numpy.typing as npt

Unit = Literal["data", "screen", "um"]


class BrushSize(Labels):
    """A labels layer whose brush may keep its size on the screen while one zooms.

    Attributes
    ----------
    events.brush_in
        After `brush_in` changed.
    """

    _unit: Unit = "data"
    _on_screen: float | None = None
    _following = False

    @property
    def brush_in(self) -> str:
        """What the brush's size is kept in: "data" (level-0 pixels), "screen" (pixels of the screen) or "um" (µm)."""
        return self._unit

    @brush_in.setter
    def brush_in(self, unit: Unit) -> None:
        if unit not in get_args(Unit):
            raise StoreError(f'A brush is in "data", "screen" or "um", not {unit!r}.')
        if unit == "um" and self.store.mpp is None:
            raise StoreError(
                f"{self.store.path.name} has no µm per pixel, so its brush has no size in µm; give the slide its mpp, "
                'or use "data" or "screen".'
            )
        self._unit = unit
        self._on_screen = self.brush_size / self._pixels_per("screen") if unit == "screen" else None
        if "brush_in" not in self.events.emitters:
            self.events.add(brush_in=Event)
        self.events.brush_in(value=unit)

    @property
    def brush_width(self) -> float:
        """The brush's diameter in the unit of `brush_in`."""
        if self._on_screen is not None:
            return self._on_screen
        return float(self.brush_size / self._pixels_per(self._unit))

    @brush_width.setter
    def brush_width(self, width: float) -> None:
        if not width > 0:
            raise StoreError(f"A brush's width is a number above 0, not {width}.")
        self._set(width * self._pixels_per(self._unit))
        if self._unit == "screen":
            self._on_screen = float(width)
            self.events.brush_size()

    @property
    def brush_size(self) -> int:
        """The brush's diameter in level-0 pixels of the store."""
        return int(Labels.brush_size.fget(self))

    @brush_size.setter
    def brush_size(self, size: float) -> None:
        Labels.brush_size.fset(self, max(1, int(size)))
        if self._unit == "screen" and not self._following:
            self._on_screen = self.brush_size / self._pixels_per("screen")

    def follow_zoom(self) -> None:
        """Keep a brush in pixels of the screen as it was there; called when a viewer that shows the layer zooms."""
        if self._on_screen is not None:
            self._set(self._on_screen * self._pixels_per("screen"))

    def _set(self, size: float) -> None:
        self._following = True
        try:
            self.brush_size = max(1, round(size))
        finally:
            self._following = False

    def _pixels_per(self, unit: str) -> float:
        """Level-0 pixels in one unit; the finer axis counts, as for napari's brush."""
        if unit == "um":
            return 1 / min(self.store.mpp)
        if unit == "screen":
            zoom = next((camera(viewer).zoom for viewer in viewers_showing(self)), 1.0)
            scale: npt.NDArray[np.float64] = np.abs(np.asarray(self._data_to_world.scale[-2:], float))
            return float(1 / (zoom * scale.min()))
        return 1.0
