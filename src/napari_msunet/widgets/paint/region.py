"""Painting where napari's painting internals are missing: a plain labels layer over the part in view."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Labels
from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QTimer

from napari_msunet.geometry import Window
from napari_msunet.widgets.napari_internals import camera, linear_map, napari_version
from napari_msunet.widgets.paint import class_colours

if TYPE_CHECKING:
    import numpy.typing as npt
    from napari.components import ViewerModel
    from napari.utils.events import Event

    from napari_msunet.widgets.paint.pyramid_labels import PyramidLabels
SIDE = 4096
"""Largest height and width of the layer, in level-0 pixels."""

_SETTLE_MS = 150


class RegionLabels(Labels):
    """The part of a store that is in view, at full resolution, in a plain labels layer.

    Only public parts of napari are used. After each stroke the changed pixels are written into the store; undo and redo
    are those of the store. Between strokes the layer follows the view: where more than `SIDE` pixels are in view, it
    holds the middle of the view.

    Parameters
    ----------
    pyramid : PyramidLabels
        The labels, which show the whole slide below this layer.
    """

    def __init__(self, pyramid: PyramidLabels) -> None:
        self.pyramid = pyramid
        self._blocks = 0
        self._loading = True
        self.window = _inside(pyramid, _middle(Window(0, 0, *pyramid.store.shape)))
        self._known = self._current()
        super().__init__(
            self._known.copy(),
            name=f"{pyramid.name} (paint here)",
            colormap=class_colours.colormap(pyramid.store),
            features=class_colours.features(pyramid.store),
            scale=pyramid.scale,
            translate=self._corner(),
            rotate=pyramid.rotate,
            shear=pyramid.shear,
            affine=pyramid.affine,
            units=pyramid.units,
        )
        self.bounding_box.visible = True  # shows where painting is possible
        self._loading = False
        self.events.paint.connect(self._painted)  # emitted at the end of any stroke
        self._timer = QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)
        self._timer.timeout.connect(self.follow)

    @property
    def _type_string(self) -> str:
        return "labels"

    # --------------------------------------------------------------------------------------------------------- painting

    def _painted(self, event: object = None) -> None:
        """Write into the store what has changed since the last call."""
        if self._loading:
            return
        store, data = self.pyramid.store, np.asarray(self.data)
        changed = data != self._known
        allowed = class_colours.values(store)
        if allowed is not None:
            wrong = changed & ~np.isin(data, allowed)
            if wrong.any():
                show_warning(class_colours.refusal(store, int(data[wrong][0])) or "")
                changed &= ~wrong
                data[wrong] = self._known[wrong]
                self.refresh()
        if changed.any():
            rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
            box = Window.between((int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1))
            place = box.slices()
            self._known[place] = data[place]
            window = Window(self.window.y + box.y, self.window.x + box.x, box.height, box.width)
            self.pyramid.take(window, data[place].copy(), changed[place])

    @contextmanager
    def block_history(self) -> Iterator[None]:
        """Everything painted inside this context is one stroke."""
        self._blocks += 1
        try:
            with super().block_history():
                yield
        finally:
            self._blocks -= 1
        self._changed()

    def paint(self, *arguments: npt.ArrayLike, **options: npt.ArrayLike) -> None:
        """As napari's method, then the changes are written into the store."""
        super().paint(*arguments, **options)
        self._changed()

    def fill(self, *arguments: npt.ArrayLike, **options: npt.ArrayLike) -> None:
        """As napari's method, then the changes are written into the store."""
        super().fill(*arguments, **options)
        self._changed()

    def data_setitem(self, *arguments: npt.ArrayLike, **options: npt.ArrayLike) -> None:
        """As napari's method, then the changes are written into the store."""
        super().data_setitem(*arguments, **options)
        self._changed()

    def paint_polygon(self, *arguments: npt.ArrayLike, **options: npt.ArrayLike) -> None:
        """As napari's method, then the changes are written into the store."""
        with self.block_history():
            super().paint_polygon(*arguments, **options)

    def _changed(self) -> None:
        if not self._blocks:
            self._painted()

    def undo(self) -> None:
        """Undo the last stroke of the store."""
        self.pyramid.undo()

    def redo(self) -> None:
        """Redo the stroke that was undone last."""
        self.pyramid.redo()

    # ---------------------------------------------------------------------------------------------------------- showing

    def view_changed(self, event: object = None) -> None:
        """Follow the view once it has come to rest."""
        self._timer.start()

    def follow(self) -> None:
        """Move the layer to the part that is in view."""
        if self._blocks:
            self._timer.start()
            return
        seen = _in_view(self.pyramid)
        wanted = _inside(self.pyramid, _middle(seen))
        if wanted.empty or wanted.intersection(self.window) == wanted:
            return
        self.window = _inside(self.pyramid, _middle(seen.padded(max(seen.shape) // 4)))
        self.reload()

    def reload(self, changed: Window | None = None) -> None:
        """Show the labels of the store again, if `changed` (None: all of it) touches this layer."""
        if changed is not None and changed.intersection(self.window).empty:
            return
        self._known = self._current()
        self._loading = True
        try:
            self.data = self._known.copy()
            self.translate = self._corner()
        finally:
            self._loading = False

    def _current(self) -> npt.NDArray[np.integer]:
        return self.pyramid.read_level(0, self.window)

    def _corner(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.pyramid.translate) + linear_map(self.pyramid)[-2:, -2:] @ (self.window.y, self.window.x)


def paint_in_region(viewer: ViewerModel, pyramid: PyramidLabels) -> RegionLabels:
    """Add the layer that is painted on in place of `pyramid`, with a message."""
    region = pyramid.region = RegionLabels(pyramid)
    viewer.add_layer(region)
    events = camera(viewer).events
    events.zoom.connect(region.view_changed)
    events.center.connect(region.view_changed)

    def remove() -> None:
        if region in viewer.layers:
            viewer.layers.remove(region)

    def removed(event: Event) -> None:
        if event.value is pyramid:
            QTimer.singleShot(0, remove)  # later, because napari is still removing the other layer
        elif event.value is region:
            pyramid.region = None
            events.zoom.disconnect(region.view_changed)
            events.center.disconnect(region.view_changed)
            viewer.layers.events.removed.disconnect(removed)

    viewer.layers.events.removed.connect(removed)
    region.view_changed()
    show_info(
        f"napari {napari_version} cannot paint on a whole slide, so paint in the layer '{region.name}': it holds what "
        f"is in view, up to {SIDE} x {SIDE} pixels, and every stroke is saved into '{pyramid.name}'. napari 0.9 paints "
        "everywhere."
    )
    return region


def _in_view(layer: Labels) -> Window:
    """The window of level-0 pixels that is in view."""
    corners = np.asarray(layer.corner_pixels)[:, -2:] * np.asarray(layer.downsample_factors)[layer.data_level][-2:]
    (top, left), (bottom, right) = np.floor(corners[0]).astype(int), np.ceil(corners[1]).astype(int) + 1
    return Window.between((int(top), int(left)), (int(bottom), int(right)))


def _middle(window: Window) -> Window:
    """The window, or its middle where it is larger than the layer can be."""
    height, width = min(window.height, SIDE), min(window.width, SIDE)
    return Window(window.y + (window.height - height) // 2, window.x + (window.width - width) // 2, height, width)


def _inside(layer: PyramidLabels, window: Window) -> Window:
    return window.intersection(Window(0, 0, *layer.store.shape))
