"""A labels layer over a label store: napari's own tools at any zoom, every stroke on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from app_model.types import KeyCode, KeyMod
from napari.layers import Labels
from napari.utils.events import Event
from napari.utils.notifications import show_error, show_info, show_warning

from napari_msunet.errors import MsunetError, StoreError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.checks import touched
from napari_msunet.labels.chunks import CHUNK
from napari_msunet.labels.lazy import WindowArray
from napari_msunet.widgets.pyramid_labels import colours, lifetime
from napari_msunet.widgets.pyramid_labels.brush_size import BrushSize
from napari_msunet.widgets.pyramid_labels.canvas import Canvas
from napari_msunet.widgets.pyramid_labels.filling import Filling
from napari_msunet.widgets.pyramid_labels.napari_internals import missing
from napari_msunet.widgets.pyramid_labels.painting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_msunet.widgets.placement import Place

TEXTURE_LIMIT = 8192
"""Side of the largest level that may be locked: napari then draws it whole, as one texture."""


class LevelArray(WindowArray):
    """A level of a canvas as napari slices it; never cached, since it is painted on."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Chunks as zarr gives them: napari loads whole ones, so a small move of the view reads nothing."""
        return (CHUNK, CHUNK)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.shape[0] * self.shape[1]

    def __iter__(self) -> Iterator[npt.NDArray[np.integer]]:
        return (self[row] for row in range(self.shape[0]))

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> npt.NDArray[np.integer]:
        return np.asarray(self[:, :], dtype)


class PyramidLabels(BrushSize, Filling):
    """Labels of a store, painted with napari's tools at every zoom.

    A stroke (from the press of the mouse to its release, or one call of `paint`, `fill` or `paint_polygon`) is one step
    of undo and is on disk when it ends. Coordinates are the store's level-0 pixels at every zoom.

    Parameters
    ----------
    store : LabelStore or path
    name : str, optional
        None: the store's name.
    read_only : bool
        Only look. (A store that another process writes into opens so by itself, and says who holds it.)
    warn : bool
        Say so if this napari lacks what painting needs.
    **kwargs
        As for `napari.layers.Labels`; scale, translation, units and colours are the store's unless given.

    Attributes
    ----------
    store : LabelStore
    region : napari layer or None
        The layer that is painted on instead, where this napari lacks what painting here needs (see `add_labels`).
    events.stroke
        After a stroke is stored, undone or redone: `region` (level-0 pixels of the store) and `number` (of the stroke;
        0 for an undo or redo).
    """

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
            LevelArray(shape, self.store.dtype, _reader(self._canvas, n)) for n, shape in enumerate(self._canvas.shapes)
        ]
        defaults: dict[str, Any] = {
            "multiscale": True,
            "name": name or self.store.info.name,
            "colormap": colours.colormap(self.store),
            "features": colours.features(self.store),
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
        """Take the store's lock; what stands in the way of painting, if something does."""
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
        """Show what changed in the store within a window (its level-0 pixels), as after a merge."""
        if (self.store.classes, self.store.colours) != self._classes:
            self.refresh_classes()
        self.show_window(touched(window))
        self.show_now()
        self.show_thumbnail_soon()
        if self.region is not None:
            self.region.reload(touched(window))

    def refresh_classes(self) -> None:
        """Take over the store's class names and colours."""
        self._classes = (self.store.classes, self.store.colours)
        table, colormap = colours.features(self.store), colours.colormap(self.store)
        if table is not None:
            self.features = table
            self.colormap = colormap

    def new_colormap(self, seed: int | None = None) -> None:
        """Shuffle the colours of objects; classes go back to the store's colours."""
        if self.store.info.instances:
            super().new_colormap(seed)
        else:
            self.refresh_classes()

    # --------------------------------------------------------------------------------- napari's properties, with limits

    @property
    def selected_label(self) -> int:
        """The value that is painted: 0, a class, or 255 (background) in an annotation."""
        return Labels.selected_label.fget(self)

    @selected_label.setter
    def selected_label(self, label: int) -> None:
        if (refusal := colours.refusal(self.store, label)) is not None:
            show_warning(refusal)
            self.events.selected_label()  # whoever set it, as the box in the controls, shows the old one again
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
        """The only value that painting, erasing and filling may replace; None: any."""
        return self._paint_over

    @paint_over.setter
    def paint_over(self, label: int | None) -> None:
        if label is not None and (refusal := colours.refusal(self.store, label)) is not None:
            show_warning(refusal)
            return
        self._paint_over = label

    @property
    def data(self) -> Sequence[LevelArray]:
        """The levels, finest first; they show what is in the store and the stroke under way."""
        return Labels.data.fget(self)

    @data.setter
    def data(self, data: object) -> None:
        raise StoreError(
            "The labels of a store are painted, not replaced; write into layer.store, or make another layer."
        )

    @property
    def locked_data_level(self) -> int | None:
        """The level that is shown whatever the zoom."""
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
    """Take the last stroke back."""
    layer.undo(PATIENCE)


@PyramidLabels.bind_key(KeyMod.CtrlCmd | KeyMod.Shift | KeyCode.KeyZ, overwrite=True)
def redo(layer: PyramidLabels) -> None:
    """Do the stroke that was undone last again."""
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


def placement(store: LabelStore) -> Place:
    """Where a store lies in the world if its slide lies at 0: the centre of the slide's first pixel is the origin."""
    pixel = np.asarray(store.pixel, float)
    if store.mpp is None:
        return {"scale": tuple(pixel), "translate": tuple((pixel - 1) / 2)}
    mpp = np.asarray(store.mpp, float)
    return {"scale": tuple(mpp), "translate": tuple((mpp - mpp / pixel) / 2), "units": ("micrometer", "micrometer")}
