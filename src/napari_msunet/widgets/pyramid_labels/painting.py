"""What is painted on a labels layer, and how it gets into the store."""

from __future__ import annotations

import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Labels
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QCoreApplication, QTimer

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.checks import touched
from napari_msunet.widgets.pyramid_labels import brush, colours, fill, lifetime
from napari_msunet.widgets.pyramid_labels.canvas import Canvas
from napari_msunet.widgets.pyramid_labels.napari_internals import PaintHooks, missing
from napari_msunet.widgets.pyramid_labels.stroke import Stroke, cut
from napari_msunet.widgets.pyramid_labels.writer import Job, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

POLYGON_LIMIT = 32_768
"""A polygon is at most this many level-0 pixels high and wide."""

POLYGON_PIECE = 2048
"""Larger polygons are painted in squares of this side."""

PATIENCE = 0.02
"""Seconds that the release of the mouse waits for its stroke to be stored; a longer one goes on in the background."""

THUMBNAIL_MS = 200
"""How long the picture in the layer list may be behind: with each of many quick strokes it would double their time."""


class Painting(PaintHooks):
    """Strokes: painted on a canvas, stored by the store's writer, taken back and done again."""

    store: LabelStore
    region: Labels | None
    _canvas: Canvas
    _writer: Writer
    _obstacle: str | None
    _paint_over: int | None
    _thumbnail_due = False

    def can_be_painted(self) -> bool:
        return self._obstacle is None and self._partial

    def can_be_stored(self) -> bool:
        """Whether this process may write into the store."""
        return self._obstacle is None

    @property
    def painted_in(self) -> Labels | None:
        """The layer to select for painting: this one or the one that stands in for it; None: nothing can be painted."""
        return self if self.can_be_painted() else self.region

    def take(self, window: Window, values: npt.NDArray[np.integer], mask: npt.NDArray[np.bool_]) -> None:
        """One stroke, painted in another layer: values of a window (level 0) where `mask` is true."""
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
        """The only value that may be painted over; None: any."""
        if self._paint_over is not None:
            return self._paint_over
        return self.preserved(label) if self.preserve_labels else None

    def _may_paint(self, label: int) -> bool:
        if not self.can_be_painted():
            show_warning(self._obstacle or missing() or "")
            return False
        if (refusal := colours.refusal(self.store, label)) is not None:
            show_warning(refusal)
            return False
        return True

    def _draw(self, new_label: int, last_cursor_coord: Sequence[float] | None, coordinates: Sequence[float]) -> None:
        if self._slice_input.ndisplay == 3:
            show_warning(
                "Labels of a slide are painted in the 2D view; switch to it with the button at the bottom left."
            )
            return
        if self.mode != "fill" and self.brush_size > brush.LIMIT:
            if last_cursor_coord is coordinates:  # once a stroke
                show_warning(
                    f"This brush is {self.brush_size:,} pixels of the slide wide, and at most {brush.LIMIT:,} can be "
                    "painted at once; zoom in, or make it smaller."
                )
            return
        super()._draw(new_label, last_cursor_coord, coordinates)

    def paint_polygon(self, points: npt.ArrayLike, new_label: int) -> None:
        """Paint a polygon `(n, 2)` of `y, x`, as napari does; a large one piece by piece."""
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
        if max(window.shape) > fill.LIMIT:
            show_warning(
                f"Pixels over more than {fill.LIMIT} x {fill.LIMIT} were given, so nothing was set; give parts."
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
        """Have what was painted stored; a stroke the disk refuses is kept and tried again until it takes it.

        Parameters
        ----------
        patience : float, optional
            Seconds to wait until it is in the store's journal; None: as long as it takes.
        """
        stroke = self._canvas.stroke
        if not stroke.empty:
            self._canvas.stroke = self._canvas.new_stroke()
            self._writer.put(Job(lambda: self.store.write_parts(stroke.parts()), partial(self._stored, stroke), stroke))
        self._writer.wait(patience)

    def _stored(self, stroke: Stroke, number: int | None, error: Exception | None) -> None:
        if error is not None:
            raise error
        self.show_window(stroke.window)  # what was sampled while it was drawn
        self.show_now()
        self.show_thumbnail_soon()
        self._tell(stroke.window, number)
        self.events.paint(value=[])

    def show_thumbnail_soon(self) -> None:
        """Bring the picture in the layer list up to date in a moment, once for all that happens until then."""
        if QCoreApplication.instance() is None:
            self.show_thumbnail()
        elif not self._thumbnail_due:
            self._thumbnail_due = True
            QTimer.singleShot(THUMBNAIL_MS, partial(_show_thumbnail, weakref.ref(self)))

    def _commit_staged_history(self) -> None:
        self.end_stroke(PATIENCE if self.by_mouse else None)

    def wait(self) -> bool:
        """Wait until all that was painted is in the store; whether it is (the disk may refuse)."""
        return bool(self._writer.wait())

    def drop_stroke(self) -> None:
        window = None if self._canvas.stroke.empty else self._canvas.stroke.window
        self._canvas.stroke = self._canvas.new_stroke()
        if window is not None:
            self.refresh_window(window)

    def undo(self, patience: float | None = None) -> None:
        """Take the last stroke of the store back; `patience` as for `end_stroke`."""
        self._turn(self.store.undo, patience)

    def redo(self, patience: float | None = None) -> None:
        """Do the stroke that was undone last again; `patience` as for `end_stroke`."""
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


def _show_thumbnail(layer_of: weakref.ref[Painting]) -> None:
    layer = layer_of()
    if layer is not None:
        layer._thumbnail_due = False
        with suppress(MsunetError, OSError, RuntimeError):  # the store was closed meanwhile, or the window
            layer.show_thumbnail()
