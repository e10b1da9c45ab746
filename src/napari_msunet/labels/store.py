"""The label store, which people see and edit.

This module is longer than others, since all of it works on the same files of one store, under one lock.
"""

from __future__ import annotations

import atexit
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from napari_msunet._io import folder_aside, output_errors
from napari_msunet.config import Damaged
from napari_msunet.constants import CHUNK, IGNORED
from napari_msunet.errors import NotSavedError, OutputError, SlideError, StoreError, StoreLockedError, as_path
from napari_msunet.events import check
from napari_msunet.geometry import Grid, Region, Resolution, Window, snap_ceil
from napari_msunet.labels import checks, metadata
from napari_msunet.labels.cache import ChunkCache, Key, pieces
from napari_msunet.labels.chunks import CorruptChunkError, WindowArray, create_array, open_array
from napari_msunet.labels.corrupt_chunks import AGAIN, CorruptChunk, corrupt_chunk_at, in_words, mask_of, settle
from napari_msunet.labels.journal import Change, Mark
from napari_msunet.labels.journal import Kind as Record
from napari_msunet.labels.levels import rebuilt, tiles
from napari_msunet.labels.lock import WriterLock
from napari_msunet.labels.metadata import (
    KEY,
    Colour,
    Kind,
    StoreInfo,
    check_new_classes,
    default_colours,
    explained,
    load_info,
    parse_colours,
    save_attributes,
    save_info,
)
from napari_msunet.labels.runs.merge import MergeLog, Table, value_table
from napari_msunet.labels.runs.run import Run, RunView
from napari_msunet.labels.session import (
    PART,
    ExternalChanges,
    Session,
    listed_chunks,
    load_checkpoint,
    save_checkpoint,
    unfinished,
)
from napari_msunet.labels.shape_masks import LARGEST_SHAPE, Shape
from napari_msunet.names import printable
from napari_msunet.slide import Slide
from napari_msunet.slide.identity import same_pixels
from napari_msunet.slide.pixel_size import given_mpp

if TYPE_CHECKING:
    import dask.array as da
# ----------------------------------------------------------------------------------------------------------------------
# Making the files of a new label store.


def create_store(
    path: Path,
    shape: tuple[int, int] | None,
    mpp: float | tuple[float, float] | str | Resolution | None,
    classes: tuple[str, ...],
    kind: str,
    slide: Slide | None,
    *,
    dtype: str = "uint8",
    colours: Any = None,
    overwrite: bool = False,
) -> None:
    """Make an empty store aside and give it its name when it is whole; see `LabelStore.create`."""
    info = _describe(path, shape, mpp, classes, kind, slide, dtype, colours)
    if os.path.lexists(path):
        if not overwrite:
            raise OutputError(f"{path} exists already; choose another name, or overwrite it.")
        _check_replaceable(path)
    with folder_aside(path, overwrite=overwrite) as folder:
        _fill(folder, info)


def _describe(
    path: Path, shape: Any, mpp: Any, classes: tuple[str, ...], kind: str, slide: Slide | None, dtype: str, colours: Any
) -> StoreInfo:
    if kind not in ("labels", "annotation"):
        raise StoreError(f'The kind {kind!r} is not known; "labels" and "annotation" are.')
    if dtype not in ("uint8", "uint32"):
        raise StoreError(f'Labels of type {dtype!r} cannot be stored; "uint8" (classes) and "uint32" (objects) can.')
    size = _resolution(mpp)
    place: dict[str, Any]
    if slide is not None:
        grid = slide.grid(size)
        if shape is not None and tuple(shape) != grid.shape:
            raise StoreError(f"The shape {tuple(shape)} is not the slide's {grid.shape} at this mpp; leave it out.")
        name = None if slide.path is None else printable(slide.path.name)
        place = {"shape": grid.shape, "mpp": grid.mpp, "pixel": grid.pixel, "extent": grid.extent, "slide": name}
        place["fingerprint"] = slide.fingerprint
    elif shape is None or np.shape(shape) != (2,):
        raise StoreError("A label store needs a shape (height, width), or the slide it belongs to.")
    elif isinstance(size, Resolution):
        pixel = (size.size, size.size)
        extent = tuple(max(1, snap_ceil(n * size.size)) for n in shape)
        place = {"shape": tuple(map(int, shape)), "mpp": None, "pixel": pixel, "extent": extent}
    else:
        place = {"shape": tuple(map(int, shape)), "mpp": size, "extent": tuple(map(int, shape))}
    tints = default_colours(len(classes)) if colours is None else parse_colours(colours, len(classes))
    name = path.name.removesuffix(".zarr").removesuffix(".ome")
    values = {"kind": kind, "dtype": dtype, "classes": classes, "colours": tints, "name": name, **place}
    try:
        return StoreInfo.model_validate(values)
    except ValidationError as error:
        raise StoreError(explained(error, "This label store")) from error


def _resolution(mpp: Any) -> tuple[float, float] | Resolution | None:
    """The given size of a pixel: µm `(y, x)`, pixels of the image, or None."""
    if isinstance(mpp, Resolution):
        return mpp if mpp.mpp is None else (mpp.mpp, mpp.mpp)
    try:
        size = given_mpp(mpp)
    except SlideError as error:
        raise StoreError(str(error)) from error
    return Resolution(1.0, "px") if isinstance(size, str) else size


def _check_replaceable(path: Path) -> None:
    """Raise unless the folder is a label store that no process writes into; no other folder may be replaced."""
    try:
        load_info(path)
    except StoreError as error:
        raise OutputError(f"{path} is no label store, so it is not overwritten; choose another name.") from error
    lock = WriterLock(path, f"The label store {path}")
    lock.acquire()
    lock.release()


def _fill(folder: Path, info: StoreInfo) -> None:
    save_info(folder, info)
    for level, shape in enumerate(info.shapes):
        create_array(folder / str(level), shape, info.dtype, ("y", "x"))
    (folder / "edited").mkdir()
    save_attributes(folder / "edited", {KEY: {"is": "pixels that a person changed"}})
    for level, shape in enumerate(info.shapes):
        create_array(folder / "edited" / str(level), shape, "bool", ("y", "x"))
    for name in ("journal", "runs"):
        (folder / name).mkdir()
    save_checkpoint(folder, Mark(0, 1, 0), MergeLog(), 0 if info.instances else None, {"labels": (), "edited": ()})


open_stores: dict[Path, Any] = {}
"""The stores that this process has open, by path."""

opening = threading.RLock()
"""Held while `open_stores` is read and changed."""


# ----------------------------------------------------------------------------------------------------------------------
# Finding corrupt chunks before a store or a run is used.


def check_store(
    store: LabelStore,
    damaged: Damaged = "refuse",
    planes: Sequence[str] = ("labels",),
    window: Window | None = None,
) -> str | None:
    """Check all chunks that will be read.

    Parameters
    ----------
    store : LabelStore
    damaged : "refuse" or "skip"
    planes : sequence of str
        "labels", "edited".
    window : Window, optional
        In level-0 pixels of the store; None: all.

    Returns
    -------
    str or None
        A sentence about the parts that are left out; None: nothing is damaged.

    Raises
    ------
    StoreError
        If something is damaged, which the message names, and `damaged` is "refuse".
    """
    found = store.find_corrupt_chunks(planes, window)
    return settle(in_words(found, store.path.name, store.shape), damaged) if found else None


def check_run(
    run: RunView, damaged: Damaged = "refuse", outputs: Sequence[str] | None = None, window: Window | None = None
) -> str | None:
    """As `check_store`, for outputs of a run; None: all that it has."""
    found = run.find_corrupt_chunks(outputs, window)
    if not found:
        return None
    name = f"{run.path.parent.parent.name} (its run {run.key})"
    return settle(in_words(found, name, run.info.shape), damaged, AGAIN)


def sound_runs(store: LabelStore, damaged: Damaged = "refuse") -> list[Run]:
    """All runs of a store, for a request of the newest one; a run that cannot be opened might be that one.

    Raises
    ------
    StoreError
        If one is damaged, and `damaged` is "refuse".
    """
    runs = store.runs
    if damaged == "refuse" and store.unreadable_runs:
        raise StoreError(
            f'{store.unreadable_runs[0].rstrip(".")}; or name another run, or go on without it (damaged="skip").'
        )
    return runs


# ----------------------------------------------------------------------------------------------------------------------
# The label store.

MEMORY = 512 * 2**20
"""Bytes of chunks a store keeps in memory unless told otherwise."""


class LabelStore:
    """Labels of a slide on disk: a pyramid, people's edits, and the runs of predictions.

    A store is made by `LabelStore.create` and opened by `open_labels`; a process has one object for each path.
    Coordinates are the store's own level-0 pixels. Reading is always possible; the first write takes the store's lock
    and keeps it until `close`.

    All methods may be called from any thread. Strokes are made one after the other: two threads that write wait for one
    another, in no particular order, so an editor sends its strokes from one thread. Reading waits for the change of
    one chunk at most, never for a stroke or the disk, and may see a stroke that is under way in part; once `write` has
    returned it is whole, at every level. Changed chunks are written by a thread of the store's own.

    Attributes
    ----------
    path : Path
    messages : list of str
        Sentences about damage that was found and repaired when the store was opened.
    on_unsaved : list of callables
        Each is called with `unsaved` whenever that changes, from any thread.
    before_flush : list of callables
        Called first by `flush` and `close`, so that an editor that sends its strokes from a thread can wait for them.
    shown : bool
        Whether a window shows damage, so that reading does not warn about it.
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

    def __init__(self, path: Path, memory: int) -> None:
        self.path = path
        self._info = load_info(path)
        self._info_time = 0
        self._planes = {
            "labels": [open_array(path / str(n), s, self._info.dtype) for n, s in enumerate(self._info.shapes)],
            "edited": [open_array(path / "edited" / str(n), s, "bool") for n, s in enumerate(self._info.shapes)],
        }
        self._session: Session | None = None
        self._damaged: dict[Key, str] = {}
        self._lost: dict[str, set[tuple[int, int]]] = {"labels": set(), "edited": set()}
        self._sound: dict[Key, tuple[int, int]] = {}
        self._told: set[Key] = set()
        self.shown = False
        self._external_changes: ExternalChanges | None = None
        self._closed = False
        load_checkpoint(path)
        self.messages: list[str] = []
        self.unreadable_runs: list[str] = []
        self.on_unsaved: list[Callable[[int], None]] = []
        self.before_flush: list[Callable[[], None]] = []
        self._memory = memory
        self._lock = WriterLock(path, f"The label store {path}")
        self._mutex = threading.RLock()
        self._runs: dict[str, Run] = {}
        self._handed = 0
        self._wanted = False
        self._pid = os.getpid()
        self._inode = path.stat().st_ino
        self._recover()

    def __repr__(self) -> str:
        return f"LabelStore({str(self.path)!r}, {self.kind}, {self.shape[0]} x {self.shape[1]}, classes {self.classes})"

    # ---------------------------------------------------------------------------------------------------- description

    @property
    def info(self) -> StoreInfo:
        """All metadata; read again when another process changed them."""
        if self._session is None:
            changed = (self.path / "zarr.json").stat().st_mtime_ns if (self.path / "zarr.json").exists() else 0
            if changed != self._info_time:
                self._info, self._info_time = load_info(self.path), changed
        return self._info

    @property
    def shape(self) -> tuple[int, int]:
        """`(height, width)` of level 0."""
        return self._info.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 for classes, uint32 for numbers of objects."""
        return np.dtype(self._info.dtype)

    @property
    def mpp(self) -> tuple[float, float] | None:
        """µm per pixel `(y, x)` of level 0, if known."""
        return self._info.mpp

    @property
    def spacing(self) -> tuple[float, float]:
        """Size `(y, x)` of a level-0 pixel in µm; in pixels of the slide where its µm are not known."""
        return self._info.spacing

    @property
    def pixel(self) -> tuple[float, float]:
        """Size `(y, x)` of a level-0 pixel of the store in level-0 pixels of its slide."""
        return self._info.pixel

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the slide in its level-0 pixels."""
        return self._info.extent

    @property
    def grid(self) -> Grid:
        """The store's pixels on its slide."""
        return Grid(self.extent, self.pixel, self.mpp)

    @property
    def kind(self) -> Kind:
        """ "labels" or "annotation"."""
        return self._info.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of classes 1, 2, ..."""
        return self.info.classes

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Red, green and blue of each class, 0 to 255."""
        return self.info.colours

    @property
    def fully_annotated(self) -> list[npt.NDArray[np.float64]]:
        """Polygons `(n, 2)` of `y, x` in which everything is annotated: 0 is background there."""
        return [np.array(polygon) for polygon in self.info.fully_annotated]

    @property
    def damaged(self) -> list[CorruptChunk]:
        """Chunks that were read and do not decode: their pixels read as 0 until they are painted over.

        Damaged chunks of coarser levels are made again from the finer ones. A damaged file that is painted over is
        moved to the store's folder ``damaged``.
        """
        found = self._damaged if self._session is None else self._session.cache.damaged
        return [
            corrupt_chunk_at(self._planes[key[0]][key[1]].file(*key[2:]), *key[1:], text) for key, text in found.items()
        ]

    def find_corrupt_chunks(
        self, planes: Sequence[str] = ("labels",), window: Window | None = None
    ) -> list[CorruptChunk]:
        """Read all chunks of level 0, or those of a window, and give those that are damaged or missing.

        Chunks that were found whole before and have not changed are not read again.

        Parameters
        ----------
        planes : sequence of str
            "labels", "edited".
        window : Window, optional
            In level-0 pixels; None: all.
        """
        if self._session is not None:
            with suppress(OutputError):  # strokes that the disk refuses are in memory, and whole
                self._session.flush()
        checkpoint = None if unfinished(self.path) else load_checkpoint(self.path)
        within = Window(0, 0, *self.shape) if window is None else window
        found: list[CorruptChunk] = []
        for plane in planes:
            listed = None if checkpoint is None else listed_chunks(checkpoint, plane)
            files = self._planes[plane][0]
            there = {(key[0], key[1]) for key in files.present()}
            repainted = self._repainted() if plane == "labels" else {}
            lost = self._lost[plane]
            for cy, cx in sorted(there | (listed or set()) | set(repainted)):
                if Window(cy * CHUNK, cx * CHUNK, CHUNK, CHUNK).intersection(within).empty:
                    continue
                check()
                gone = (cy, cx) not in there and (cy, cx) in (listed or ())
                wrong = self._wrong((plane, 0, cy, cx), gone) or repainted.get((cy, cx))
                if wrong is None:
                    lost.discard((cy, cx))
                else:
                    lost.add((cy, cx))
                    found.append(corrupt_chunk_at(files.file(cy, cx), 0, cy, cx, wrong))
        return found

    def _repainted(self) -> dict[tuple[int, int], str]:
        """Damaged chunks of which a part was painted over, each with a sentence."""
        found: dict[tuple[int, int], str] = {}
        for path in sorted((self.path / "damaged" / "labels").glob("0-c-*-*")):
            numbers = path.name.split("-")[2:]
            if not all(number.isdigit() for number in numbers):
                continue
            cy, cx = map(int, numbers)
            whole = Window(cy * CHUNK, cx * CHUNK, CHUNK, CHUNK).intersection(Window(0, 0, *self.shape))
            if not whole.empty and not self._read("edited", 0, whole).all():
                found[cy, cx] = (
                    f"{self.path / '0' / 'c' / str(cy) / str(cx)} was damaged, and only a part of it was painted over: "
                    f"paint the rest, predict again, or delete {path} if it is right as it is."
                )
        return found

    def _wrong(self, key: Key, gone: bool) -> str | None:
        """A sentence about what is wrong with a chunk of level 0; None if nothing is."""
        files = self._planes[key[0]][0]
        path = files.file(*key[2:])
        if gone:
            return f"{path} is missing: its pixels read as 0; copy it again from where it came from, or paint over it."
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if self._sound.get(key) != stamp:
                files.read(*key[2:])
                self._sound[key] = stamp
        except FileNotFoundError:  # it became all zero meanwhile
            return None
        except CorruptChunkError as error:
            return str(error)
        return None

    def lost(self, window: Window) -> npt.NDArray[np.bool_] | None:
        """Which pixels of a window of level 0 lie in damaged chunks of the labels; None: none that is known of.

        Only chunks that `find_corrupt_chunks` or reading has found are known.
        """
        found = self._damaged if self._session is None else self._session.cache.damaged
        met = {key[2:] for key in list(found) if key[:2] == ("labels", 0)}
        return mask_of(self._lost["labels"] | met, window) if met or self._lost["labels"] else None

    def fits(self, extent: tuple[int, int], what: str) -> None:
        """Refuse a slide of another size than the one these labels were made for.

        Parameters
        ----------
        extent : (height, width)
            Of the slide, in its level-0 pixels.
        what : str
            The name of the slide in the message.

        Raises
        ------
        StoreError
            If the sizes differ.
        """
        if tuple(extent) != self.extent:
            raise StoreError(
                f"{self.path} belongs to an image of {self.extent[0]} x {self.extent[1]} pixels and {what} has "
                f"{extent[0]} x {extent[1]}; open the image these labels were made on, or make labels for this one."
            )

    # -------------------------------------------------------------------------------------------------------- reading

    def external_changes(self) -> list[Region]:
        """Where another process changed the labels since this was last called (at first: since now).

        This is quick enough to be called every second. Finished strokes of the other process appear within about a
        second. A store that this process writes into has no external changes.
        """
        if self._session is not None:
            self._external_changes = None
            return []
        if self._external_changes is None:
            self._external_changes = ExternalChanges(self.path, self.shape)
            return []
        return [Region(w.y, w.x, w.height, w.width) for w in self._external_changes.look()]

    @property
    def levels(self) -> list[da.Array]:
        """The pyramid as lazy arrays `y x`, finest first; edits show at once."""
        return [self._lazy("labels", level) for level in range(len(self._info.shapes))]

    @property
    def edited(self) -> da.Array:
        """Which pixels of level 0 a person changed: lazy, `y x`, bool."""
        return self._lazy("edited", 0)

    @property
    def edited_levels(self) -> list[da.Array]:
        """`edited` as a pyramid: true where any pixel below is."""
        return [self._lazy("edited", level) for level in range(len(self._info.shapes))]

    def read(self, region: Region | Window, level: int = 0) -> npt.NDArray[Any]:
        """Labels of the pixels of a level that a region touches.

        Parameters
        ----------
        region : Region or Window
            In level-0 pixels of the store, also for coarser levels. Outside the store: 0.
        level : int
            0 is the finest.

        Warns
        -----
        UserWarning
            Where a chunk is damaged: `damaged` names it. Its pixels are 0 here; `truth` says that they are not known.
        """
        values = self._read_region("labels", region, level)
        self._warn_of_damage("labels")
        return values

    def read_edited(self, region: Region | Window, level: int = 0) -> npt.NDArray[np.bool_]:
        """Which of the pixels that `read` gives a person changed."""
        values = self._read_region("edited", region, level)
        self._warn_of_damage("edited")
        return values

    def _warn_of_damage(self, plane: str) -> None:
        """Warn once about each damaged chunk that reading has found, unless a job or a window reports it itself."""
        found = self._damaged if self._session is None else self._session.cache.damaged
        if not found:
            return
        new = [key for key in list(found) if key[:2] == (plane, 0) and key not in self._told]
        new = [key for key in new if key[2:] not in self._lost[plane]]
        self._told.update(new)
        if new and not self.shown:
            damages = [corrupt_chunk_at(self._planes[plane][0].file(*key[2:]), *key[1:], found[key]) for key in new]
            warnings.warn(f"{in_words(damages, self.path.name, self.shape)}; these pixels read as 0.", stacklevel=3)

    def truth(self, region: Region | Window) -> npt.NDArray[np.uint8]:
        """The truth for training and scores: 0 background, 1..K classes, 255 ignored; uint8."""
        if self._info.instances:
            raise StoreError(f"{self.path} holds numbers of objects; only labels of classes can be a truth.")
        values = self.read(region)
        window = checks.touched(region)
        found = values if self.kind == "labels" else metadata.truth(values, window, self.fully_annotated)
        lost = self.lost(window)
        if lost is not None:
            found = found.copy()
            found[lost] = IGNORED
        return found

    def _lazy(self, plane: str, level: int) -> da.Array:
        def read(window: Window) -> npt.NDArray[Any]:
            return self._read(plane, level, window)

        return WindowArray(self._info.shapes[level], self._planes[plane][level].dtype, read).dask()

    def _read_region(self, plane: str, region: Region | Window, level: int) -> npt.NDArray[Any]:
        if not 0 <= level < len(self._info.shapes):
            raise StoreError(f"{self.path} has the levels 0 to {len(self._info.shapes) - 1}; got level {level}.")
        window = checks.touched(region)
        for _ in range(level):
            window = window.halved()
        inside = window.intersection(Window(0, 0, *self._info.shapes[level]))
        if inside == window:
            return self._read(plane, level, window)
        out = np.zeros(window.shape, self._planes[plane][level].dtype)
        if not inside.empty:
            out[inside.slices((window.y, window.x))] = self._read(plane, level, inside)
        return out

    def _read(self, plane: str, level: int, window: Window) -> npt.NDArray[Any]:
        """A window inside a level: from memory while this process writes, else from the disk, since others may
        write."""
        if self._closed:
            raise StoreError(f"{self.path} was closed; open it again with open_labels.")
        session = self._session
        if session is not None:
            return session.cache.read(plane, level, window)
        files = self._planes[plane][level]
        out = np.zeros(window.shape, files.dtype)
        for cy, cx, inner, outer in pieces(window):
            try:
                chunk = files.read(cy, cx)
                self._damaged.pop((plane, level, cy, cx), None)
            except CorruptChunkError as error:
                self._damaged[plane, level, cy, cx] = str(error)
                chunk = None
                if level:
                    window = Window(cy * CHUNK, cx * CHUNK, CHUNK, CHUNK)
                    chunk = rebuilt(self._read, self._info.shapes, plane, level, window)
            if chunk is not None:
                out[outer] = chunk[inner]
        return out

    # ---------------------------------------------------------------------------------------------------------- writing

    def write(self, region: Region | Window, values: npt.ArrayLike, mask: npt.NDArray[np.bool_] | None = None) -> int:
        """Make one stroke, which is on disk when this returns.

        Parameters
        ----------
        region : Region or Window
            Whole pixels of level 0; parts outside the store are left out.
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
            If another process writes into this store.
        NotSavedError
            If the disk refuses: the stroke is shown and can be undone, but is in memory only. It is written as soon as
            the disk takes it; `unsaved` counts such strokes, and `on_unsaved` is called when that changes.
        OutputError
            If the disk refuses and no memory is left either; then nothing of the stroke is kept.
        """
        return self.write_parts([(region, values, mask)])

    def write_parts(self, parts: Iterable[tuple[Region | Window, npt.ArrayLike, npt.NDArray[np.bool_] | None]]) -> int:
        """Make one stroke over several regions that do not overlap, each with values and mask as in `write`."""
        changes = []
        for region, values, mask in parts:
            window, array, inner_mask = checks.stroke(self._info, self.path, region, values, mask)
            given = array if inner_mask is None or np.ndim(array) == 0 else array[inner_mask]
            checks.values_are_classes(self.info, given)
            changes.append((window, array.astype(self.dtype), inner_mask))
        return self._begin().change(Record.STROKE, changes)

    def write_shape(self, shape: Shape, value: int, over: int | None = None) -> int:
        """Make one stroke over all pixels of a shape, for brushes and polygons of thousands of pixels.

        The shape is never held as one mask, and chunks that lie fully inside it take hardly any time.

        Parameters
        ----------
        shape : Shape
            A `Brush`, a `Polygon`, or any other `Shape`, of at most `LARGEST_SHAPE` pixels a side.
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
        """A new number at each call, which no object of this store has or had; for stores of objects.

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
        """Let pixels show the newest merged run again. This can be undone; returns as `write`."""
        window, _, inner_mask = checks.stroke(self._info, self.path, region, 0, mask)
        return self._begin().change(Record.RELEASE, [(window, None, inner_mask)])

    def undo(self) -> Region | None:
        """Undo the last stroke or release; gives the region that changed, or None if there is nothing to undo."""
        return checks.region_of(self._begin().turn(Record.UNDO))

    def redo(self) -> Region | None:
        """Redo the stroke that was undone last; gives the region that changed, or None if there is nothing to redo."""
        return checks.region_of(self._begin().turn(Record.REDO))

    # ---------------------------------------------------------------------------------------- the lock, saving, closing

    def hold(self) -> None:
        """Take the right to write now, as an editor does when it opens; otherwise the first write takes it.

        Raises
        ------
        StoreLockedError
            If another process writes into this store. Once it has closed it, this works.
        """
        self._begin()

    @property
    def version(self) -> int:
        """A number that differs after each change of the labels, by any process."""
        if self._session is not None:
            return int(self._session.journal.history.latest)
        return int(load_checkpoint(self.path)["sequence"])

    @property
    def unsaved(self) -> int:
        """Number of strokes that the disk refused and that are in memory only, until it takes them."""
        return 0 if self._session is None else self._session.journal.waiting

    def flush(self) -> None:
        """Write all edits into the chunks now, which otherwise happens by itself a moment after each stroke.

        Raises
        ------
        OutputError
            If the disk refuses; nothing is lost, and the write is tried again and again.
        """
        for call in list(self.before_flush):
            call()
        if self._session is not None:
            self._session.flush()

    def close(self, *, lose_unsaved: bool = False) -> None:
        """Flush, and let others write. The object cannot be used after that.

        Parameters
        ----------
        lose_unsaved : bool
            Give up strokes that the disk still refuses.

        Raises
        ------
        NotSavedError
            If there are such strokes and `lose_unsaved` is false; then the store stays open.
        """
        for call in list(self.before_flush):
            call()
        with self._mutex:
            session = self._session
            try:
                if session is not None and self._lock.held:
                    session.close(lose=lose_unsaved)
            except OutputError as error:
                if not lose_unsaved and self.unsaved:
                    raise NotSavedError(
                        f"{self.path} was not closed, as {self.unsaved} of its strokes are in memory only: {error}"
                    ) from error
                self._end()
                raise
            except BaseException:
                self._end()
                raise
            self._end()

    def _end(self) -> None:
        self._session, self._closed = None, True
        self._lock.release()
        with opening:
            if open_stores.get(self.path) is self:
                del open_stores[self.path]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self) -> Session:
        """The session of writing; the first call takes the lock and reads the changes of other processes."""
        with self._mutex:
            if self._closed:
                raise StoreError(f"{self.path} was closed; open it again with open_labels.")
            self._wanted = True
            if self._session is not None and self._lock.held:
                return self._session
            self._lock.acquire()
            try:
                self._info = load_info(self.path)
                cache = ChunkCache(self._planes, self._memory, self.path / "aside")
                with output_errors(self.path):
                    session = Session(self.path, cache, self.dtype, self._run_and_table)
                session.told = self._tell_unsaved
                session.start_autosave()
                self.messages += session.messages
            except BaseException:
                self._lock.release()
                raise
            self._session = session
            return session

    def _tell_unsaved(self, unsaved: int) -> None:
        for callback in list(self.on_unsaved):
            callback(unsaved)

    def _recover(self) -> None:
        """Apply the records that a dead process left in the journal, unless another process does so."""
        if not unfinished(self.path):
            return
        try:
            session = self._begin()
        except StoreLockedError:
            return
        except OutputError as error:
            self.messages.append(f"The last edits are in the journal but cannot be shown here: {error}")
            return
        self._wanted = False
        threading.Thread(target=self._let_go, args=(session,), name="label store recovery", daemon=True).start()

    def _let_go(self, session: Session) -> None:
        """Write recovered records into the chunks and release the lock, unless a write has begun in this process."""
        try:
            session.flush()
            with self._mutex:
                if self._session is session and not self._wanted:
                    session.close()
                    self._session = None
                    self._lock.release()
        except OutputError as error:
            self.messages.append(f"The last edits are in the journal, but not in the chunks: {error}")

    def _save(self, info: StoreInfo) -> None:
        with output_errors(self.path):
            save_info(self.path, info)
        self._info = info

    def run(self, key: str) -> Run:
        """The run of this key."""
        with self._mutex:
            if key not in self._runs:
                if not (self.path / "runs" / key / "run.json").exists():
                    raise StoreError(f"{self.path} has no run {key!r}; its folder runs/ shows which there are.")
                self._runs[key] = Run(self.path / "runs" / key)
            return self._runs[key]

    def _run_and_table(self, key: str) -> tuple[Run, Table]:
        run = self.run(key)
        return run, value_table(run, self._info.classes, self._info.instances)

    def _is_current(self) -> bool:
        """Whether this object is still the one of its path in this process."""
        try:
            return not self._closed and self._pid == os.getpid() and self.path.stat().st_ino == self._inode
        except OSError:
            return self.unsaved > 0  # the disk is disconnected, and this object has the unsaved strokes

    # ---------------------------------------------------------------------- classes, the slide, fully annotated regions

    def add_classes(self, names: Iterable[str]) -> dict[str, int]:
        """Append the classes that are not there yet; the value of each of `names`."""
        names = tuple(names)
        check_new_classes(name for name in names if name not in self.classes)
        return self._append_classes(names)

    def _append_classes(self, names: tuple[str, ...]) -> dict[str, int]:
        """The same for the names of a model, which may be older than the check."""
        if any(name not in self.classes for name in names):
            with self._mutex:
                self._begin()
                self._save(self._info.with_classes(names))
        return {name: self.classes.index(name) + 1 for name in names}

    def check_slide(self, slide: Slide, instead: str = "give the labels of this slide") -> None:
        """Refuse a slide other than the one these labels belong to, by its size and its pixels.

        A copy, a moved file and a file of another format with the same pixels are the same slide. A store that was made
        without a slide takes this one, and keeps it.

        Parameters
        ----------
        slide : Slide
        instead : str
            The advice in the message.

        Raises
        ------
        StoreError
            If it is another slide.
        """
        name = "this image" if slide.path is None else printable(slide.path.name)
        self.fits((slide.shape[0], slide.shape[1]), name)
        ours = self.info.fingerprint
        if ours is None:
            self._keep_slide(slide)
        elif not same_pixels(ours, slide.fingerprint):
            known = self.info.slide
            whose = "another slide" if known is None else f"another {known}" if known == name else known
            raise StoreError(
                f"{self.path} holds labels of {whose}, not of {name}: they are of one size, but their pixels differ; "
                f"{instead}."
            )

    def check_same_slide(self, other: StoreInfo, what: str) -> None:
        """Refuse a store of another slide, as far as both know theirs; `what` is its name in the message.

        Raises
        ------
        StoreError
            If the slides have other pixels.
        """
        one, two = self.info.fingerprint, other.fingerprint
        if one is not None and two is not None and not same_pixels(one, two):
            raise StoreError(
                f"{self.path} belongs to {self.info.slide or 'one slide'} and {what} to "
                f"{other.slide or 'another'}, whose pixels differ; give two of the same slide."
            )

    def _keep_slide(self, slide: Slide) -> None:
        """Note the slide of these labels; where another process writes, or the disk refuses, this is done the next
        time."""
        with self._mutex, suppress(StoreLockedError, OutputError):
            held = self._lock.held
            if not held:
                self._lock.acquire()
            try:
                info = load_info(self.path)
                name = None if slide.path is None else printable(slide.path.name)
                if info.fingerprint is None:
                    self._save(info.changed(fingerprint=slide.fingerprint, slide=info.slide or name))
            finally:
                if not held:
                    self._lock.release()

    def mark_annotated(self, polygon: npt.ArrayLike) -> None:
        """Mark a polygon `(n, 2)` of `y, x` (level-0 pixels of the store) of an annotation as fully annotated."""
        if self.kind != "annotation":
            raise StoreError(f'{self.path} holds labels, all of which count; only kind="annotation" has such regions.')
        corners = metadata.checked_polygon(polygon)
        with self._mutex:
            self._begin()
            self._save(self._info.changed(fully_annotated=(*self._info.fully_annotated, corners)))

    def set_annotated(self, polygons: Iterable[npt.ArrayLike]) -> None:
        """Mark these polygons as fully annotated, and no others; see `mark_annotated`."""
        if self.kind != "annotation":
            raise StoreError(f'{self.path} holds labels, all of which count; only kind="annotation" has such regions.')
        corners = tuple(metadata.checked_polygon(polygon) for polygon in polygons)
        with self._mutex:
            self._begin()
            self._save(self._info.changed(fully_annotated=corners))

    def rename_classes(self, names: Sequence[str] | None = None, colours: Any = None) -> None:
        """Give the classes other names or colours (as for `create`); their pixels stay as they are."""
        check_new_classes(name for name in names or () if name not in self.classes)
        with self._mutex:
            self._begin()
            count = len(self._info.classes)
            tints = self._info.colours if colours is None else parse_colours(colours, count)
            try:
                info = self._info.changed(classes=tuple(names or self._info.classes), colours=tints)
            except ValidationError as error:
                raise StoreError(explained(error, "These classes")) from error
            if len(info.classes) != count:
                raise StoreError(f"{self.path} has {count} classes; give as many names, not {len(info.classes)}.")
            self._save(info)

    # ------------------------------------------------------------------------------------------------------------- runs

    @property
    def runs(self) -> list[Run]:
        """All runs, by key; a damaged run is left out, with a sentence in `messages`."""
        folder = self.path / "runs"
        keys = sorted(path.parent.name for path in folder.glob("*/run.json") if not path.parent.name.startswith("."))
        found = []
        self.unreadable_runs.clear()
        for key in keys:
            try:
                found.append(self.run(key))
            except StoreError as error:
                self.unreadable_runs.append(str(error))
                if str(error) not in self.messages:
                    self.messages.append(str(error))
        return found

    def create_run(self, key: str, description: dict[str, Any], classes: Sequence[str], outputs: dict[str, str]) -> Run:
        """Make an empty run, or give the one that has this key. Needs no lock.

        Parameters
        ----------
        key : str
            The name of the folder: a hash of everything that decides the result of the prediction.
        description : dict
            Plain JSON values to keep with it.
        classes : sequence of str
            Names of the run's classes 1, 2, ...
        outputs : dict
            ``{"labels": "uint8", "probabilities": "float16"}``, the latter if wanted, or "float32", "uint8".
        """
        Run.create(self.path / "runs", key, self.info, description, classes, outputs)
        return self.run(key)

    def merge(self, run: Run, windows: Iterable[Window] | None = None) -> None:
        """Show a run's labels at all pixels that are not edited.

        This is no stroke and cannot be undone; merging an older run again reverts it.

        Parameters
        ----------
        run : Run
            Of this store; its classes are matched by name, new ones appended.
        windows : iterable of Window, optional
            Parts of the run's finished blocks; None: all of them.

        Raises
        ------
        StoreError
            If the run has another shape or mpp, or belongs to another store.
        """
        checks.fits(self._info, self.path, run)
        done = list(run.done.values())
        parts = done if windows is None else [w.intersection(block) for w in windows for block in done]
        parts = [part for part in parts if not part.empty]
        if not parts:
            return
        if windows is None:
            run.damaged(look=True)  # missing chunks are not merged, like those that cannot be decoded
        session = self._begin()
        if not self._info.instances:
            self._append_classes(run.classes)
        session.merge(run, value_table(run, self._info.classes, self._info.instances), parts)
        if windows is None:
            session.flush()

    @property
    def probabilities(self) -> da.Array:
        """Probabilities of the newest merged run that kept them: lazy, `y x K+1`, background first."""
        merged = [str(note["run"]) for note in load_checkpoint(self.path)["merges"]]
        if self._session is not None:
            merged = [merge.key for merge in self._session.merges.newest_first()][::-1]
        for key in reversed(merged):
            if "probabilities" in self.run(key).outputs:
                return self.run(key).probabilities
        raise StoreError(
            f'{self.path} shows no run that kept probabilities; predict with outputs=("labels", "probabilities").'
        )


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
