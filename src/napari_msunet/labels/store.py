"""The label store: what people see and edit."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import OutputError, StoreError, as_path
from napari_msunet.geometry import Region, Resolution, Window
from napari_msunet.labels import checks
from napari_msunet.labels.changes import Change
from napari_msunet.labels.creation import create_store
from napari_msunet.labels.levels import tiles
from napari_msunet.labels.metadata import Kind, check_new_classes
from napari_msunet.labels.records import Kind as Record
from napari_msunet.labels.run_keeping import RunKeeping
from napari_msunet.labels.session import PART
from napari_msunet.labels.shapes import LARGEST_SHAPE, Shape
from napari_msunet.labels.writer import open_stores, opening
from napari_msunet.slide import Slide

MEMORY = 512 * 2**20
"""Bytes of chunks a store keeps in memory unless told otherwise."""


class LabelStore(RunKeeping):
    """Labels of a slide on disk: a pyramid, people's edits, and the machine's runs.

    Made by `LabelStore.create` and opened by `open_labels`; a process has one object for each path. Coordinates are the
    store's own level-0 pixels. Reading is always possible; the first write takes the store's lock and keeps it until
    `close`.

    All methods may be called from any thread. Strokes are made one after the other: two threads that write wait for one
    another, in no particular order, so an editor sends its strokes from one thread. Reading waits for the change of
    one chunk at most, never for a stroke or the disk, and may see a stroke that is under way in part; once `write` has
    returned it is whole, at every level. Changed chunks are written by a thread of the store's own.

    Attributes
    ----------
    path : Path
    messages : list of str
        What was found damaged and repaired when the store was opened.
    on_unsaved : list of callables
        Each is called with `unsaved` whenever that changes, from any thread.
    """

    @classmethod
    def create(
        cls,
        path: str | Path,
        shape: tuple[int, int] | None = None,
        mpp: float | tuple[float, float] | Literal["px"] | Resolution | None = None,
        classes: Sequence[str] = (),
        kind: Kind = "labels",
        slide: Slide | None = None,
        *,
        dtype: str = "uint8",
        colours: Sequence[Any] | None = None,
        overwrite: bool = False,
        check_names: bool = True,
    ) -> LabelStore:
        """Make an empty store.

        Parameters
        ----------
        path : path
            The folder to make, such as ``labels.ome.zarr``.
        shape : (height, width), optional
            In pixels; not needed with `slide`.
        mpp : float, (y, x) or "px", optional
            µm per pixel of level 0; None: the slide's own, or unknown. "px": in the pixels of an image without a size
            in µm. Or a model's resolution (`ModelConfig.target`).
        classes : sequence of str
            Names of classes 1, 2, ...; at most 254.
        kind : str
            "labels" (0 is background) or "annotation" (0 is not annotated, 255 is background).
        slide : Slide, optional
            The store gets the shape of its grid at `mpp`.
        dtype : str
            "uint8" for classes, "uint32" for numbers of objects.
        colours : sequence, optional
            One for each class: ``"#rrggbb"`` or three numbers.
        overwrite : bool
            Replace a label store that is there already.
        check_names : bool
            False: the classes are those of a model, which may be older than the check of names.

        Raises
        ------
        OutputError
            If the path is taken, or the disk refuses; then nothing is left behind.
        StoreError
            If shape, classes or colours cannot be used.
        """
        where = as_path(path, "the label store to make, such as labels.ome.zarr").resolve()
        if isinstance(classes, str):
            raise StoreError(f"{classes!r} is one text; give the names in a tuple, such as ({classes!r},).")
        if check_names:
            check_new_classes(classes)
        with opening:
            known = open_stores.pop(where, None)
            if known is not None and not overwrite:
                open_stores[where] = known
            elif known is not None:
                known.close()
            create_store(
                where, shape, mpp, tuple(classes), kind, slide, dtype=dtype, colours=colours, overwrite=overwrite
            )
            return open_labels(where)

    def write(self, region: Region | Window, values: npt.ArrayLike, mask: npt.NDArray[np.bool_] | None = None) -> int:
        """One stroke: on disk when this returns.

        Parameters
        ----------
        region : Region or Window
            Whole pixels of level 0; what sticks out of the store is left away.
        values : int or (h, w) array of integers
        mask : (h, w) bool, optional
            Which pixels are set (and become `edited`, also where they keep their value); None: all.

        Returns
        -------
        int
            Number of the stroke; 0 if the mask is empty and nothing was done.

        Raises
        ------
        StoreError
            If the region is outside, or values or mask do not fit.
        StoreLockedError
            If somebody else writes into this store.
        NotSavedError
            If the disk refuses: the stroke is shown and can be undone, but is in memory only. It is written as soon as
            the disk takes it; `unsaved` counts such strokes, and `on_unsaved` is called when that changes.
        OutputError
            If the disk refuses and no memory is left either; then nothing of the stroke is kept.
        """
        return self.write_parts([(region, values, mask)])

    def write_parts(self, parts: Iterable[tuple[Region | Window, npt.ArrayLike, npt.NDArray[np.bool_] | None]]) -> int:
        """One stroke over several regions that do not overlap: each with values and mask as in `write`, which see."""
        changes = []
        for region, values, mask in parts:
            window, array, inner_mask = checks.stroke(self._info, self.path, region, values, mask)
            given = array if inner_mask is None or np.ndim(array) == 0 else array[inner_mask]
            checks.values_are_classes(self.info, given)
            changes.append((window, array.astype(self.dtype), inner_mask))
        return self._begin().change(Record.STROKE, changes)

    def write_shape(self, shape: Shape, value: int, over: int | None = None) -> int:
        """One stroke over all pixels of a shape: for brushes and polygons of thousands of pixels.

        The shape is never held as one mask, and chunks that lie wholly inside it cost next to nothing.

        Parameters
        ----------
        shape : Shape
            A `Brush`, a `Polygon`, or anything that says the same of itself. At most `LARGEST_SHAPE` pixels a side.
        value : int
        over : int, optional
            Only pixels that have this value now are set.

        Returns
        -------
        int
            Number of the stroke; 0 if there was nothing to set.

        Raises
        ------
        StoreError
            If the shape is outside or too large, or the value does not fit; else as `write`.
        """
        window = shape.window
        if max(window.shape) > LARGEST_SHAPE:
            raise StoreError(
                f"This shape is {window.height} x {window.width} pixels large and one stroke can have {LARGEST_SHAPE} "
                "a side; zoom in, or paint it in parts."
            )
        if window.empty:
            return 0
        inside, given, _ = checks.stroke(self._info, self.path, window, value, None)
        checks.values_are_classes(self.info, given)
        session = self._begin()
        changes: list[Change] = []
        for tile in tiles(inside, PART):
            mask = shape.on(tile)
            if over is not None and mask is not False:
                now = session.cache.part("labels", 0, tile)
                mask = now == over if mask is True else mask & (now == over)
            if mask is not False:
                changes.append((tile, int(given), None if mask is True else mask))
        return session.change(Record.STROKE, changes)

    def next_id(self) -> int:
        """A number that no object of this store has or had, each time another one; for stores of objects.

        Numbers that were used in a stroke or a merge are never given again, also after a kill.

        Raises
        ------
        StoreError
            If the store holds classes, or no number is left.
        """
        if not self._info.instances:
            raise StoreError(f'{self.path} holds classes; only a store with dtype="uint32" has numbers of objects.')
        session = self._begin()
        with self._mutex:
            number = max(session.highest(), self._handed) + 1
            if number > np.iinfo(np.uint32).max:
                raise StoreError(f"{self.path} has no number left for another object; make a new store.")
            self._handed = number
        return number

    def release(self, region: Region | Window, mask: npt.NDArray[np.bool_] | None = None) -> int:
        """Give pixels back to the machine: they show the newest merged run again. Can be undone; returns as `write`."""
        window, _, inner_mask = checks.stroke(self._info, self.path, region, 0, mask)
        return self._begin().change(Record.RELEASE, [(window, None, inner_mask)])

    def undo(self) -> Region | None:
        """Take the last stroke or release back; the region that changed, None if there is nothing left to undo."""
        return checks.region_of(self._begin().turn(Record.UNDO))

    def redo(self) -> Region | None:
        """Do the stroke that was undone last again; the region that changed, None if there is none."""
        return checks.region_of(self._begin().turn(Record.REDO))

    def __repr__(self) -> str:
        return f"LabelStore({str(self.path)!r}, {self.kind}, {self.shape[0]} x {self.shape[1]}, classes {self.classes})"


def open_labels(path: str | Path, memory: int = MEMORY) -> LabelStore:
    """Open a label store; a process has one `LabelStore` for each path.

    Parameters
    ----------
    path : path
    memory : int
        Bytes of chunks kept in memory while writing.

    Raises
    ------
    StoreError
        If it is no label store, or damaged; the message names the file.
    """
    where = as_path(path, "a label store").resolve()
    with opening:
        known = open_stores.get(where)
        if known is None or not known._is_current():
            known = open_stores[where] = LabelStore(where, memory)
        return known


def is_open(path: str | os.PathLike[str]) -> bool:
    """Whether this process has the store at `path` open."""
    return Path(os.path.realpath(path)) in open_stores


@atexit.register
def close_all() -> None:
    """Close all stores that this process has open; raises if strokes of one are lost by that."""
    failure = None
    for store in list(open_stores.values()):
        if store._pid == os.getpid():
            try:
                store.close()
            except OutputError as error:
                failure = error
    if failure is not None:
        raise failure
