"""All that this project uses of napari without a public name: of its window and its layers, and for painting.

napari has no public way to paint on a multiscale layer. In 0.9 all its tools end in a few private methods of `Labels`.
`PaintHooks` overrides these, and calls methods of its own (`paint_window` and so on), which `PyramidLabels` implements.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari import __version__ as napari_version
from napari.layers import Image, Labels, Layer
from napari.layers.labels import _labels_mouse_bindings as mouse_bindings
from napari.layers.labels._labels_constants import Mode

from napari_msunet.geometry import Window
from napari_msunet.labels.levels import around
from napari_msunet.widgets import brush

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.components import Camera, ViewerModel
    from napari.utils.events import Event
    from napari.viewer import Viewer
    from qtpy.QtWidgets import QMainWindow, QWidget
    from vispy.scene import Node

    from napari_msunet.labels.chunks import WindowArray

# ----------------------------------------------------------------------------------------------------------------------
# A viewer: which viewers there are, their windows, canvases and cameras.


def viewers_showing(layer: Layer) -> Iterator[Viewer]:
    """The open viewers that have this layer."""
    module = sys.modules.get("napari.viewer")
    for viewer in list(module.Viewer._instances) if module is not None else ():
        if any(other is layer for other in viewer.layers):
            yield viewer


def main_window(viewer: Viewer) -> QMainWindow:
    """The Qt window of a viewer."""
    return viewer.window._qt_window


def dropped_on(viewer: Viewer) -> QWidget:
    """The widget that gets the files that are dropped onto the window."""
    return viewer.window._qt_viewer


def canvas_widget(viewer: Viewer) -> QWidget:
    """The widget that napari draws on and that gets the mouse."""
    return viewer.window._qt_viewer.canvas.native


def canvas_scene(viewer: Viewer) -> Node:
    """The scene of vispy in which the layers are, in world coordinates `x, y`."""
    return viewer.window._qt_viewer.canvas.view.scene


def camera(viewer: ViewerModel) -> Camera:
    """The camera of a viewer, which napari 0.9 moved to the scene."""
    scene = getattr(viewer, "scene", None)
    return viewer.camera if scene is None else scene.camera


def drop_brush_box(viewer: ViewerModel) -> None:
    """Take away the box behind napari's circle of the brush, which nobody sees.

    In napari 0.9.2 the window crashes (in OpenGL) when it is drawn after the layers of a viewer were removed, if one of
    them had been painted on.
    """
    overlays = getattr(getattr(viewer, "canvas", None), "overlays", None)
    circle = getattr(overlays, "_brush_circle", None)
    if circle is not None and hasattr(circle, "box"):
        circle.box = False


# ----------------------------------------------------------------------------------------------------------------------
# A layer: what is shown of it, and when it is drawn again.


def linear_map(layer: Layer) -> npt.NDArray[np.float64]:
    """The matrix from a step in a layer's pixels to a step in the world, without the layer's `affine`."""
    return np.asarray(layer._transforms["data2physical"].linear_matrix, float)


def shown_point(layer: Layer) -> npt.NDArray[np.float64]:
    """The indices along a layer's axes at which it is sliced; NaN along the axes that are displayed."""
    return np.asarray(layer._data_slice.point, float)


def drop_thumbnail_copy(layer: Image | Labels) -> None:
    """Let napari read the coarsest level again, of which it keeps a copy for the thumbnail."""
    layer._reset_thumbnail_level_data()


def drawn_once(layer: Layer) -> AbstractContextManager[None]:
    """A context in which changes do not slice, draw and measure the layer; where napari has none, each change does."""
    return layer._block_refresh() if hasattr(layer, "_block_refresh") else nullcontext()


# ----------------------------------------------------------------------------------------------------------------------
# Painting on a pyramid.

NEEDED = (
    "_abort_stroke",
    "_accumulate_updated_slice",
    "_commit_staged_history",
    "_create_brush_mask",
    "_create_polygon_mask",
    "_drag_modes",
    "_draw",
    "_ensure_int_labels",
    "_expand_updated_slice_for_contour",
    "_get_brush_mask_and_bbox",
    "_get_flood_mask_and_bbox",
    "_get_preserve_labels_source_label",
    "_get_shape_and_dims_to_paint",
    "_paint_region_with_mask",
    "_partial_labels_refresh",
    "_reset_editable",
    "_reset_history",
    "_reset_thumbnail_level_data",
    "_slice",
    "_type_string",
    "_update_level_and_corners",
)
"""The private names of napari that `PaintHooks` overrides or calls."""


def missing(labels: type = Labels) -> str | None:
    """A sentence if the labels layer of this napari lacks something that painting needs; None if nothing is missing."""
    absent = [name for name in NEEDED if not hasattr(labels, name)]
    if not absent:
        return None
    return (
        f"These labels can be looked at but not painted on: napari {napari_version} has no {', '.join(absent)} in its "
        "labels layer; install napari 0.9, or a newer napari-msunet."
    )


def pick(layer: Labels, event: NapariMouseEvent) -> None:
    """Select the label under the mouse, as the displayed level shows it."""
    found = layer.get_value(
        event.position, view_direction=event.view_direction, dims_displayed=event.dims_displayed, world=True
    )
    layer.selected_label = int((found[1] if isinstance(found, tuple) else found) or 0)


def draw(layer: PaintHooks, event: NapariMouseEvent) -> Iterator[None]:
    """napari's dragging of a brush; `by_mouse` of the layer is set meanwhile."""
    layer.by_mouse = True
    try:
        yield from mouse_bindings.draw(layer, event)
    finally:
        layer.by_mouse = False


class PaintHooks(Labels):
    """napari's labels layer, which paints by calling `paint_window`, `end_stroke`, `drop_stroke` and `flood`.

    These take level-0 pixels. `show_soon` and `show_window` bring changed pixels onto the screen.

    Attributes
    ----------
    _partial : bool
        Whether a part of the displayed image can be updated alone.
    by_mouse : bool
        Whether a stroke of the mouse is under way, which must not wait for the disk.
    """

    _drag_modes = Labels._drag_modes | {
        Mode.PICK: pick,
        **{
            mode: draw
            for mode in (Mode.PAINT, Mode.ERASE, Mode.FILL)
            if Labels._drag_modes[mode] is mouse_bindings.draw
        },
    }
    _unshown: Window | None = None
    _partial = True
    by_mouse = False

    # --------------------------------------------------------------------------------------------- what a layer answers

    def paint_window(self, window: Window, mask: brush.Mask, label: int) -> None:
        """Paint where the mask is true."""
        raise NotImplementedError

    def end_stroke(self) -> None:
        """Store what was painted; called when the mouse is released."""
        raise NotImplementedError

    def drop_stroke(self) -> None:
        """Forget what was painted since the last `end_stroke`."""
        raise NotImplementedError

    def flood(self, y: int, x: int, label: int) -> tuple[Window, npt.NDArray[np.bool_]] | None:
        """The area that a fill from here covers; None: there is nothing to fill."""
        raise NotImplementedError

    def read_level(self, level: int, window: Window, quick: bool = False) -> npt.NDArray[np.integer]:
        """Labels of a window of a level, as they are shown; `quick`: an approximation, while a stroke is drawn."""
        raise NotImplementedError

    def can_be_painted(self) -> bool:
        """Whether painting is possible now; if not, a message says why."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------ napari's side: painting

    @property
    def _type_string(self) -> str:
        return "labels"

    def _ensure_int_labels(self, data: Sequence[WindowArray]) -> Sequence[WindowArray]:
        """Return the data as they are: a store holds whole numbers, and napari's check mistakes one level for an
        image."""
        return data

    def _reset_editable(self) -> None:
        self.editable = self.can_be_painted()

    def _paint_region_with_mask(
        self,
        slice_key: tuple[slice, ...],
        mask: npt.NDArray[np.bool_],
        new_label: int,
        dims_to_paint: list[int],
        refresh: bool = True,
        region_data: npt.NDArray[np.integer] | None = None,
    ) -> None:
        y, x = slice_key
        self.paint_window(Window(y.start, x.start, y.stop - y.start, x.stop - x.start), mask, int(new_label))
        if not self._block_history:
            self.end_stroke()
        if refresh:
            self._partial_labels_refresh()

    def _get_flood_mask_and_bbox(
        self, coord: Sequence[float], new_label: int, dims_to_paint: list[int]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int_], npt.NDArray[np.int_], None] | None:
        found = self.flood(int(np.round(coord[0])), int(np.round(coord[1])), int(new_label))
        if found is None:
            return None
        window, mask = found
        return mask, np.array([window.y, window.x]), np.array(window.stop), None

    def _get_brush_mask_and_bbox(
        self, coord: Sequence[float], dims_to_paint: list[int], shape: list[int]
    ) -> tuple[npt.NDArray[np.bool_] | brush.Disc, npt.NDArray[np.int_], npt.NDArray[np.int_]] | None:
        sizes = [abs(size) for size in self.scale.tolist()]
        scale = (sizes[0] / min(sizes), sizes[1] / min(sizes))
        centre, radius = (int(coord[0]), int(coord[1])), float(self.brush_size // 2 + 0.5)
        window = brush.reach(centre, radius, scale, Window(0, 0, *shape))
        if window.empty:
            return None
        mask: brush.Mask
        if self.brush_size > brush.LARGE:
            mask = brush.Disc(centre, radius, scale, window)
        else:
            mask = _brush(window.shape, radius, (centre[0] - window.y, centre[1] - window.x), scale)
        return None if mask is None else (mask, np.array([window.y, window.x]), np.array(window.stop))

    def preserved(self, label: int) -> int:
        """The only value that `preserve_labels` lets this label replace."""
        return int(self._get_preserve_labels_source_label(label))

    def polygon_mask(self, points: npt.ArrayLike, window: Window) -> npt.NDArray[np.bool_]:
        """The pixels of a window that a polygon covers, as napari draws it."""
        shifted = np.asarray(points, dtype=int) - (window.y, window.x)
        return Labels._create_polygon_mask(shifted, list(window.shape))

    # ------------------------------------------------------------------------------------------- napari's side: history

    def _abort_stroke(self) -> None:
        self._block_history = False
        self.drop_stroke()

    def _reset_history(self, event: Event | None = None) -> None:
        self.end_stroke()
        super()._reset_history(event)

    @property
    def in_stroke(self) -> bool:
        """Whether edits are being grouped, as between the press and the release of the mouse."""
        return bool(self._block_history)

    # ------------------------------------------------------------------------------------------- napari's side: showing

    def _reset_thumbnail_level_data(self) -> None:
        super()._reset_thumbnail_level_data()
        self._level_materializer = None  # it holds the coarsest level as it was before painting

    def _update_level_and_corners(
        self, data_bbox_int: npt.NDArray[np.int_], shape_threshold: Sequence[int], displayed_axes: Sequence[int]
    ) -> None:
        if len(displayed_axes) == 2:
            box = np.empty((2, 2), int)
            box[:, displayed_axes] = data_bbox_int
            self._in_view = Window.between(tuple(map(int, box[0])), tuple(map(int, box[1] + 1)))
        super()._update_level_and_corners(data_bbox_int, shape_threshold, displayed_axes)

    @property
    def in_view(self) -> Window:
        """The window of level-0 pixels that was in view at the last drawing; before the first, all of the layer."""
        whole = Window(0, 0, *map(int, self.level_shapes[0]))
        box: Window | None = getattr(self, "_in_view", None)
        return whole if box is None else box.intersection(whole)

    def _expand_updated_slice_for_contour(self, updated_slice: tuple[slice, ...]) -> tuple[slice, ...]:
        """Expand the slice by the thickness of a contour; here slices count from the corner of the displayed part."""
        if self.contour < 1:
            return updated_slice
        shape = self._in_data_order(self._slice.image.raw).shape
        return tuple(
            slice(max(0, s.start - self.contour), min(size, s.stop + self.contour))
            for s, size in zip(updated_slice, shape, strict=True)
        )

    def show_soon(self, window: Window) -> None:
        """Show a window at the next `show_now`, so that the many dabs of a fast move of the mouse are shown
        together."""
        self._unshown = window if self._unshown is None else around((self._unshown, window))

    def show_paint(self, window: Window, mask: brush.Mask, label: int) -> None:
        """As `show_soon`, for one label painted where the mask is true, so that nothing has to be read.

        At a coarser level the rim may be wrong, until `show_window` shows the stored stroke.
        """
        shown = self._shown() if self._partial and self.contour == 0 else None
        if shown is None or (shown[0] and not brush.spans(mask, shown[0])):
            self.show_soon(window)
            return
        level, area = shown
        if level:
            window, mask = brush.coarser(window, np.asarray(mask), level, label)
        part = window.intersection(area)
        if part.empty:
            return
        place = part.slices((area.y, area.x))
        where = brush.part_of(mask, window, part)
        raw, view = self._slice.image.raw, self._slice.image.view
        np.copyto(self._in_data_order(raw)[place], label, where=True if where is None else where)
        if not np.may_share_memory(raw, view):  # they share it where the labels are displayed without a conversion
            colour = self.colormap._data_to_texture(np.array([label], self.dtype))[0]
            np.copyto(self._in_data_order(view)[place], colour, where=True if where is None else where)
        self._accumulate_updated_slice(place)

    def _partial_labels_refresh(self) -> None:
        if self._unshown is not None:
            window, self._unshown = self._unshown, None
            self.show_window(window)
        super()._partial_labels_refresh()

    def show_window(self, window: Window) -> None:
        """Update a window (level 0) of the displayed level; `show_now` sends it to the screen."""
        if not self._partial:
            self.refresh(extent=False)
            return
        shown = self._shown()
        if shown is None:
            return
        level, area = shown
        for _ in range(level):
            window = window.halved()
        window = window.intersection(area)
        if window.empty:
            return
        values = self.read_level(level, window, quick=True)
        place = window.slices((area.y, area.x))
        self._in_data_order(self._slice.image.raw)[place] = values
        if self.contour == 0:
            self._in_data_order(self._slice.image.view)[place] = self.colormap._data_to_texture(values)
        self._accumulate_updated_slice(place)

    def show_now(self) -> None:
        """Send to the screen what `show_window` has prepared."""
        self._partial_labels_refresh()

    def show_thumbnail(self) -> None:
        """Update the picture in the layer list."""
        if not self._partial or self._slice.empty or not self.visible:
            return
        raw = self._in_data_order(self._slice.thumbnail.raw)
        level = len(self.level_shapes) - 1
        if raw.shape == tuple(self.level_shapes[level]):
            raw[...] = self.read_level(level, Window(0, 0, *raw.shape))
            self._update_thumbnail()

    def _shown(self) -> tuple[int, Window] | None:
        """The displayed level, and the window of it that is loaded."""
        if not self._slicing_state.loaded or self._slice.empty or not self.visible:
            return None
        to_data = self._slice.tile_to_data
        factors, start = to_data.scale.tolist(), to_data.translate.tolist()
        known = self._level_factors
        level = min(range(len(known)), key=lambda n: abs(known[n][0] - factors[0]) + abs(known[n][1] - factors[1]))
        y, x = (round(value / factor) for value, factor in zip(start, factors, strict=True))
        return level, Window(y, x, *self._in_data_order(self._slice.image.raw).shape)

    @cached_property
    def _level_factors(self) -> list[list[float]]:
        """How much coarser each level is than level 0, for a layer whose levels do not change."""
        return [[float(factor) for factor in factors] for factors in self.downsample_factors]

    def _in_data_order(self, image: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """A displayed image with the axes of the data, of which a viewer may have swapped or added some."""
        image = image.reshape(image.shape[-2:])
        displayed = list(self._slice.slice_input.displayed)
        return image.T if displayed[-2] > displayed[-1] else image


@lru_cache(maxsize=8)
def _brush(
    shape: tuple[int, int], radius: float, center: tuple[int, int], scale: tuple[float, float]
) -> npt.NDArray[np.bool_] | None:
    """napari's brush, None where it covers no pixel; cached, because all dabs of a drag have the same brush."""
    mask = Labels._create_brush_mask(shape, radius, np.array(center), np.array(scale))
    mask.flags.writeable = False
    return mask if mask.any() else None
