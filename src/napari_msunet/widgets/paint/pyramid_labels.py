"""A labels layer over a label store: napari's own tools paint at any zoom, and every stroke is saved to disk."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from app_model.types import KeyCode, KeyMod
from napari.layers import Labels
from napari.utils.events import Event
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QCoreApplication, QTimer

from napari_msunet.constants import CHUNK
from napari_msunet.errors import MsunetError, NotSavedError, StoreError
from napari_msunet.geometry import Region, Window, first_position
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.checks import touched
from napari_msunet.labels.chunks import WindowArray
from napari_msunet.widgets import brush
from napari_msunet.widgets.napari_internals import PaintHooks, camera, missing, viewers_showing
from napari_msunet.widgets.paint import class_colours, lifetime
from napari_msunet.widgets.paint.canvas import Canvas
from napari_msunet.widgets.paint.stroke import Stroke, cut
from napari_msunet.widgets.paint.writer import Job, StrokeWriter
from napari_msunet.widgets.placement import MICROMETER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_msunet.widgets.placement import LayerPlacement
POLYGON_LIMIT = 32_768
"""Largest height and width of a polygon, in level-0 pixels."""

POLYGON_PIECE = 2048
"""Larger polygons are painted in squares of this side."""

PATIENCE = 0.02
"""Seconds that the release of the mouse waits until its stroke is stored; after that, storing continues in a thread."""

THUMBNAIL_MS = 200
"""Time after which the picture in the layer list is updated; at each of many quick strokes it would double their
time."""


def _show_thumbnail(layer_of: weakref.ref[PyramidLabels]) -> None:
    layer = layer_of()
    if layer is not None:
        layer._thumbnail_due = False
        with suppress(MsunetError, OSError, RuntimeError):  # the store or the window was closed meanwhile
            layer.show_thumbnail()


Unit = Literal["data", "screen", "um"]


AT_ONCE = 1024
"""Largest height and width of the view, in level-0 pixels, in which the mouse waits for a fill."""


TEXTURE_LIMIT = 8192
"""Side of the largest level that may be locked, because napari then draws the level whole, as one texture."""


class LevelArray(WindowArray):
    """A level of a canvas as an array for napari; never cached, since it is painted on.

    Attributes
    ----------
    store : LabelStore
        The store that it is a level of, by which a writer finds the labels on disk.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        store: LabelStore,
        read: Callable[[Window], npt.NDArray[np.integer]],
    ) -> None:
        super().__init__(shape, store.dtype, read)
        self.store = store

    @property
    def chunks(self) -> tuple[int, ...]:
        """Sizes of chunks as in zarr; napari loads whole chunks, so that a small move of the view reads nothing new."""
        return (CHUNK, CHUNK)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.shape[0] * self.shape[1]

    def __iter__(self) -> Iterator[npt.NDArray[np.integer]]:
        return (self[row] for row in range(self.shape[0]))

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> npt.NDArray[np.integer]:
        return np.asarray(self[:, :], dtype)


class PyramidLabels(PaintHooks):
    """Labels of a store, painted with napari's tools at every zoom.

    A stroke (from the press of the mouse to its release, or one call of `paint`, `fill` or `paint_polygon`) is one step
    of undo and is on disk when it ends. Coordinates are the store's level-0 pixels at every zoom.

    Parameters
    ----------
    store : LabelStore or path
    name : str, optional
        None: the store's name.
    read_only : bool
        Whether the labels can only be looked at. A store that another process writes into is always opened read-only,
        and a message names that process.
    warn : bool
        Whether to warn if this napari lacks something that painting needs.
    **kwargs
        As for `napari.layers.Labels`; scale, translation, units and colours come from the store unless given.

    Attributes
    ----------
    store : LabelStore
    region : napari layer or None
        The layer that is painted on instead, where this napari cannot paint on a pyramid (see `add_labels`).
    events.stroke
        Emitted after a stroke is stored, undone or redone, with `region` (level-0 pixels of the store) and `number` (of
        the stroke; 0 for an undo or redo).
    events.brush_in
        Emitted after `brush_in` has changed.
    """

    store: LabelStore
    _canvas: Canvas
    _writer: StrokeWriter
    _obstacle: str | None
    _thumbnail_due = False
    _unit: Unit = "data"
    _on_screen: float | None = None
    _following = False

    def __init__(
        self,
        store: LabelStore | str | Path,
        name: str | None = None,
        read_only: bool = False,
        warn: bool = True,
        **kwargs: Any,
    ) -> None:
        self.store = store if isinstance(store, LabelStore) else open_labels(store)
        self._canvas = Canvas(self.store)
        self._writer = self._canvas.writer
        self._writer.refused, self._writer.accepted = _say_unsaved, _say_saved
        self._paint_over: int | None = None
        self.region: Labels | None = None
        self._obstacle = self._hold(read_only)
        self._partial = missing() is None
        levels = [
            LevelArray(shape, self.store, _reader(self._canvas, n)) for n, shape in enumerate(self._canvas.shapes)
        ]
        defaults: dict[str, Any] = {
            "multiscale": True,
            "name": name or self.store.info.name,
            "colormap": class_colours.colormap(self.store),
            "features": class_colours.features(self.store),
            **placement(self.store),
        }
        super().__init__(levels, **(defaults | kwargs))
        self.events.add(stroke=Event)
        self._classes = (self.store.classes, self.store.colours)
        lifetime.register(self)
        if self._obstacle is not None and not read_only:
            show_warning(self._obstacle)
        elif not self._partial and warn and not read_only:
            show_warning(missing())

    def _hold(self, read_only: bool) -> str | None:
        """Take the store's lock, and return the reason where painting is not possible."""
        if read_only:
            return f"{self.store.path.name} was opened to be looked at only; open it without read_only to paint."
        try:
            self.store.hold()
        except MsunetError as error:
            return f"These labels can be looked at but not painted on: {error}"
        return None

    # ---------------------------------------------------------------------------------------------------------- showing

    def read_level(self, level: int, window: Window, quick: bool = False) -> npt.NDArray[np.integer]:
        return self._canvas.read(level, window, quick and not self._canvas.stroke.empty)

    def refresh_window(self, window: Window | Region) -> None:
        """Show changes of the store within a window (its level-0 pixels), such as a merge."""
        if (self.store.classes, self.store.colours) != self._classes:
            self.refresh_classes()
        self.show_window(touched(window))
        self.show_now()
        self.show_thumbnail_soon()
        if self.region is not None:
            self.region.reload(touched(window))

    def refresh_classes(self) -> None:
        """Update the class names and colours from the store."""
        self._classes = (self.store.classes, self.store.colours)
        table, colormap = class_colours.features(self.store), class_colours.colormap(self.store)
        if table is not None:
            self.features = table
            self.colormap = colormap

    def new_colormap(self, seed: int | None = None) -> None:
        """Shuffle the colours of objects; classes go back to the store's colours."""
        if self.store.info.instances:
            super().new_colormap(seed)
        else:
            self.refresh_classes()

    # --------------------------------------------------------------------------------------------------------- painting

    def can_be_painted(self) -> bool:
        return self._obstacle is None and self._partial

    def can_be_stored(self) -> bool:
        """Whether this process may write into the store."""
        return self._obstacle is None

    @property
    def painted_in(self) -> Labels | None:
        """The layer to select for painting: this one or the one that replaces it; None: painting is not possible."""
        return self if self.can_be_painted() else self.region

    def take(self, window: Window, values: npt.NDArray[np.integer], mask: npt.NDArray[np.bool_]) -> None:
        """Add one stroke that was painted in another layer: values of a window (level 0) where `mask` is true."""
        self._canvas.stroke.paint(window, values, mask)
        self.show_soon(window)
        self.show_now()
        self.end_stroke(PATIENCE)

    def paint_window(self, window: Window, mask: brush.Mask, label: int) -> None:
        if not self._may_paint(label):
            return
        if self._canvas.stroke.empty:
            lifetime.watch_viewers(self)
        replaced = self._replaced(label)
        if replaced is None:
            self._canvas.stroke.paint(window, label, mask)
            self.show_paint(window, mask, label)
            return
        for _, part in cut(window.intersection(Window(0, 0, *self.store.shape)), POLYGON_PIECE):
            keep = self._canvas.read(0, part) == replaced
            inner = brush.part_of(mask, window, part)
            self._canvas.stroke.paint(part, label, keep if inner is None else keep & inner)
        self.show_soon(window)

    def _replaced(self, label: int) -> int | None:
        """The only value that this label may replace; None: any value."""
        if self._paint_over is not None:
            return self._paint_over
        return self.preserved(label) if self.preserve_labels else None

    def _may_paint(self, label: int) -> bool:
        if not self.can_be_painted():
            show_warning(self._obstacle or missing() or "")
            return False
        if (refusal := class_colours.refusal(self.store, label)) is not None:
            show_warning(refusal)
            return False
        return True

    def _draw(self, new_label: int, last_cursor_coord: Sequence[float] | None, coordinates: Sequence[float]) -> None:
        if self._slice_input.ndisplay == 3:
            show_warning(
                "Labels of a slide are painted in the 2D view; switch to it with the button at the bottom left."
            )
            return
        if self.mode != "fill" and self.brush_size > brush.LARGEST_BRUSH:
            if last_cursor_coord is coordinates:  # so that the warning comes once per stroke
                show_warning(
                    f"This brush is {self.brush_size:,} pixels of the slide wide, and at most "
                    f"{brush.LARGEST_BRUSH:,} can be painted at once; zoom in, or make it smaller."
                )
            return
        super()._draw(new_label, last_cursor_coord, coordinates)

    def paint_polygon(self, points: npt.ArrayLike, new_label: int) -> None:
        """Paint a polygon `(n, 2)` of `y, x`, as napari does; a large one is painted piece by piece."""
        corners = np.asarray(points, dtype=int)
        start, stop = corners.min(axis=0), corners.max(axis=0) + 1
        box = Window.between(tuple(map(int, start)), tuple(map(int, stop))).intersection(
            Window(0, 0, *self.store.shape)
        )
        if max(box.shape) <= POLYGON_PIECE:
            super().paint_polygon(points, new_label)
            return
        if max(box.shape) > POLYGON_LIMIT:
            show_warning(
                f"This polygon is larger than {POLYGON_LIMIT} x {POLYGON_LIMIT} pixels, so nothing was painted; "
                "draw it in parts."
            )
            return
        for _, part in cut(box, POLYGON_PIECE):
            mask = self.polygon_mask(corners, part)
            if mask.any():
                self.paint_window(part, None if mask.all() else mask, int(new_label))
        if not self.in_stroke:
            self.end_stroke()
        self.show_now()

    def data_setitem(self, indices: tuple[npt.ArrayLike, ...], value: npt.ArrayLike, refresh: bool = True) -> None:
        """Set pixels by index, as plugins do: arrays of rows and columns, and one value or one for each."""
        rows, columns = (np.asarray(part).ravel() for part in indices)
        if rows.size == 0:
            return
        window = Window.between((int(rows.min()), int(columns.min())), (int(rows.max()) + 1, int(columns.max()) + 1))
        if max(window.shape) > brush.LARGEST_FILL:
            show_warning(
                f"Pixels over more than {brush.LARGEST_FILL} x {brush.LARGEST_FILL} were given, so nothing was set; "
                "give parts."
            )
            return
        given = np.broadcast_to(np.asarray(value).ravel(), rows.shape) if np.size(value) == 1 else np.ravel(value)
        for label in np.unique(given):
            mask = np.zeros(window.shape, bool)
            chosen = given == label
            mask[rows[chosen] - window.y, columns[chosen] - window.x] = True
            self.paint_window(window, mask, int(label))
        if not self.in_stroke:
            self.end_stroke()
        if refresh:
            self.show_now()

    # ---------------------------------------------------------------------------------------------------------- strokes

    def end_stroke(self, patience: float | None = None) -> None:
        """Store what was painted. A stroke that the disk refuses is kept and tried again until it is stored.

        Parameters
        ----------
        patience : float, optional
            Seconds to wait until the stroke is in the store's journal; None: as long as it takes.
        """
        stroke = self._canvas.stroke
        if not stroke.empty:
            self._canvas.stroke = self._canvas.new_stroke()
            self._writer.put(Job(lambda: self.store.write_parts(stroke.parts()), partial(self._stored, stroke), stroke))
        self._writer.wait(patience)

    def _stored(self, stroke: Stroke, number: int | None, error: Exception | None) -> None:
        if error is not None:
            raise error
        self.show_window(stroke.window)  # replaces the approximation that was shown during the drawing
        self.show_now()
        self.show_thumbnail_soon()
        self._tell(stroke.window, number)
        self.events.paint(value=[])

    def show_thumbnail_soon(self) -> None:
        """Update the picture in the layer list in a moment, once for all changes until then."""
        if QCoreApplication.instance() is None:
            self.show_thumbnail()
        elif not self._thumbnail_due:
            self._thumbnail_due = True
            QTimer.singleShot(THUMBNAIL_MS, partial(_show_thumbnail, weakref.ref(self)))

    def _commit_staged_history(self) -> None:
        self.end_stroke(PATIENCE if self.by_mouse else None)

    def wait(self) -> bool:
        """Wait until all that was painted is in the store, and return whether it is (the disk may refuse)."""
        return bool(self._writer.wait())

    def drop_stroke(self) -> None:
        window = None if self._canvas.stroke.empty else self._canvas.stroke.window
        self._canvas.stroke = self._canvas.new_stroke()
        if window is not None:
            self.refresh_window(window)

    def undo(self, patience: float | None = None) -> None:
        """Undo the last stroke of the store; `patience` as for `end_stroke`."""
        self._turn(self.store.undo, patience)

    def redo(self, patience: float | None = None) -> None:
        """Redo the stroke that was undone last; `patience` as for `end_stroke`."""
        self._turn(self.store.redo, patience)

    def _turn(self, action: Callable[[], Region | None], patience: float | None) -> None:
        if self._obstacle is not None:
            show_warning(self._obstacle)
            return
        self.end_stroke(0)
        if self._writer.failure is not None:
            show_warning(f"What was painted last is not saved yet, so nothing is undone: {self._writer.failure}")
            return
        self._writer.put(Job(action, self._turned))
        self._writer.wait(patience)

    def _turned(self, region: Region | None, error: Exception | None) -> None:
        if isinstance(error, MsunetError):
            show_error(str(error))
        elif error is not None:
            raise error
        elif region is not None:
            self.refresh_window(region)
            self._tell(touched(region), 0)

    def _tell(self, window: Window, number: int) -> None:
        for other in lifetime.layers_of(self.store):
            if other is not self:
                other.refresh_window(window)
        self.events.stroke(region=Region(window.y, window.x, window.height, window.width), number=number)

    def flush(self) -> None:
        """Write all edits into the store's chunks. (They are safe in its journal before that.)"""
        try:
            if self._obstacle is None and self.wait():
                self.store.flush()
        except MsunetError as error:
            show_error(str(error))

    # ---------------------------------------------------------------------------------------------------------- filling

    def flood(self, y: int, x: int, label: int) -> tuple[Window, npt.NDArray[np.bool_]] | None:
        bounds = Window(0, 0, *self.store.shape)
        if Window(y, x, 1, 1).intersection(bounds).empty:
            return None
        old = int(self._canvas.read(0, Window(y, x, 1, 1))[0, 0])
        if old == label or self._replaced(label) not in (None, old):
            return None

        try:
            return self._area(y, x, bounds)
        except brush.FillTooLargeError as error:
            show_warning(str(error))
            return None

    def _area(self, y: int, x: int, bounds: Window) -> tuple[Window, npt.NDArray[np.bool_]]:
        """The area that a fill covers; raises `FillTooLargeError`."""

        def read(window: Window) -> npt.NDArray[np.integer]:
            return self._canvas.read(0, window)

        if self.contiguous:
            return brush.connected(read, bounds, y, x)
        whole = Window(0, 0, *self.store.shape)
        return brush.everywhere(read, whole if max(whole.shape) <= brush.LARGEST_FILL else self.in_view, y, x)

    def fill(self, coord: Sequence[float], new_label: int, refresh: bool = True) -> None:
        """Fill the area at `coord` (level-0 pixels).

        With the mouse, an area is only filled if all of it is in view; this happens in the background and is a step of
        undo of its own. A call from Python fills an area anywhere of up to `brush.LARGEST_FILL` pixels a side.
        """
        if not self.by_mouse:
            super().fill(coord, new_label, refresh)
            return
        y, x = (int(np.round(c)) for c in coord)
        label = int(new_label)
        seen = self.in_view
        if Window(y, x, 1, 1).intersection(seen).empty or not self._may_paint(label):
            return

        def action() -> tuple[Window, int] | None:
            old = int(self.store.read(Window(y, x, 1, 1))[0, 0])
            if old == label or self._replaced(label) not in (None, old):
                return None
            window, mask = self._area(y, x, seen.padded(1).intersection(Window(0, 0, *self.store.shape)))
            if self.contiguous and window.intersection(seen) != window:
                raise brush.FillTooLargeError(brush.BEYOND_VIEW)
            stroke = self._canvas.new_stroke()
            stroke.paint(window, label, mask)
            try:
                return window, self.store.write_parts(stroke.parts())
            except NotSavedError as error:  # the store has the fill in memory, and reports that it is not saved yet
                return window, error.number

        self._writer.put(Job(action, self._filled))
        self._writer.wait(None if max(seen.shape) <= AT_ONCE else PATIENCE)

    def _filled(self, found: tuple[Window, int] | None, error: Exception | None) -> None:
        if isinstance(error, brush.FillTooLargeError):
            show_warning(str(error))
        elif isinstance(error, MsunetError):
            show_error(str(error))
        elif error is not None:
            raise error
        elif found is not None:
            self.refresh_window(found[0])
            self._tell(*found)

    # ------------------------------------------------------------------------------------------------- the brush's size

    @property
    def brush_in(self) -> str:
        """The unit in which the brush keeps its size: "data" (level-0 pixels), "screen" (screen pixels) or "um"
        (µm)."""
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
        """Keep the size of a brush in pixels of the screen; called when a viewer that shows the layer zooms."""
        if self._on_screen is not None:
            self._set(self._on_screen * self._pixels_per("screen"))

    def _set(self, size: float) -> None:
        self._following = True
        try:
            self.brush_size = max(1, round(size))
        finally:
            self._following = False

    def _pixels_per(self, unit: str) -> float:
        """Level-0 pixels in one unit, along the finer axis, as for napari's brush."""
        if unit == "um":
            return 1 / min(self.store.mpp)
        if unit == "screen":
            zoom = next((camera(viewer).zoom for viewer in viewers_showing(self)), 1.0)
            scale: npt.NDArray[np.float64] = np.abs(np.asarray(self._data_to_world.scale[-2:], float))
            return float(1 / (zoom * scale.min()))
        return 1.0

    # --------------------------------------------------------------------------------- napari's properties, with limits

    @property
    def selected_label(self) -> int:
        """The value that is painted: 0, a class, or 255 (background) in an annotation."""
        return Labels.selected_label.fget(self)

    @selected_label.setter
    def selected_label(self, label: int) -> None:
        if (refusal := class_colours.refusal(self.store, label)) is not None:
            show_warning(refusal)
            # the event makes widgets such as the box in the controls show the old value again
            self.events.selected_label()
            return
        Labels.selected_label.fset(self, label)

    def select_new_label(self) -> None:
        """Select a number that no object of the store has or had."""
        if not self.store.info.instances:
            show_info(f"New numbers are for objects; {self.store.path.name} has classes: select one of them.")
            return
        if self._obstacle is not None:
            show_warning(self._obstacle)
            return
        self.wait()
        try:
            self.selected_label = self.store.next_id()
        except MsunetError as error:
            show_error(str(error))

    @property
    def paint_over(self) -> int | None:
        """The only value that painting, erasing and filling may replace; None: any value."""
        return self._paint_over

    @paint_over.setter
    def paint_over(self, label: int | None) -> None:
        if label is not None and (refusal := class_colours.refusal(self.store, label)) is not None:
            show_warning(refusal)
            return
        self._paint_over = label

    @property
    def data(self) -> Sequence[LevelArray]:
        """The levels, finest first, with the stroke under way."""
        return Labels.data.fget(self)

    @data.setter
    def data(self, data: object) -> None:
        raise StoreError(
            "The labels of a store are painted, not replaced; write into layer.store, or make another layer."
        )

    @property
    def locked_data_level(self) -> int | None:
        """The level that is shown at any zoom; None: the level follows the zoom."""
        return Labels.locked_data_level.fget(self)

    @locked_data_level.setter
    def locked_data_level(self, level: int | None) -> None:
        if level is not None and max(self.level_shapes[level]) > TEXTURE_LIMIT:
            show_warning(f"Level {level} is too large to be shown whole; choose a coarser one, or leave it automatic.")
            self.events.locked_data_level()
            return
        Labels.locked_data_level.fset(self, level)


@PyramidLabels.bind_key(KeyMod.CtrlCmd | KeyCode.KeyZ, overwrite=True)
def undo(layer: PyramidLabels) -> None:
    """Undo the last stroke."""
    layer.undo(PATIENCE)


@PyramidLabels.bind_key(KeyMod.CtrlCmd | KeyMod.Shift | KeyCode.KeyZ, overwrite=True)
def redo(layer: PyramidLabels) -> None:
    """Redo the stroke that was undone last."""
    layer.redo(PATIENCE)


@PyramidLabels.bind_key("m", overwrite=True)
def new_label(layer: PyramidLabels) -> None:
    """Select a number that no object has yet."""
    layer.select_new_label()


def _say_unsaved(reason: str) -> None:
    show_error(f"NOT SAVED: {reason} What was painted is kept in memory and saved as soon as that is possible.")


def _say_saved() -> None:
    show_info("What was painted is saved now.")


def _reader(canvas: Canvas, level: int) -> Callable[[Window], npt.NDArray[np.integer]]:
    def read(window: Window) -> npt.NDArray[np.integer]:
        return canvas.read(level, window)

    return read


def placement(store: LabelStore) -> LayerPlacement:
    """The placement of a store in the world for a slide at 0: the centre of the slide's first pixel is the origin."""
    pixel = np.asarray(store.pixel, float)
    if store.mpp is None:
        return {"scale": tuple(pixel), "translate": tuple(first_position(pixel))}
    mpp = np.asarray(store.mpp, float)
    return {"scale": tuple(mpp), "translate": tuple(first_position(pixel) * mpp / pixel), "units": MICROMETER}
