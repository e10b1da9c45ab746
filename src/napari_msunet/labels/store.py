"""The label store: what people see and edit."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from napari_msunet.errors import OutputError, StoreError, StoreLockedError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import annotated, checks
from napari_msunet.labels.cache import ChunkCache
from napari_msunet.labels.creation import create_store
from napari_msunet.labels.files import output_errors
from napari_msunet.labels.lock import WriterLock
from napari_msunet.labels.merge import Table, value_table
from napari_msunet.labels.metadata import Kind, StoreInfo, explained, load_info, parse_colours, save_info
from napari_msunet.labels.records import Kind as Record
from napari_msunet.labels.runs import Run
from napari_msunet.labels.session import Session, load_checkpoint, unfinished
from napari_msunet.labels.view import LabelView
from napari_msunet.slide import Slide

if TYPE_CHECKING:
    import dask.array as da

MEMORY = 512 * 2**20
"""Bytes of chunks a store keeps in memory unless told otherwise."""

_open_stores: dict[Path, LabelStore] = {}
_opening = threading.RLock()


class LabelStore(LabelView):
    """Labels of a slide on disk: a pyramid, people's edits, and the machine's runs.

    Made by `LabelStore.create` and opened by `open_labels`; a process has one object for each path. Coordinates are the
    store's own level-0 pixels. Reading is always possible; the first write takes the store's lock and keeps it until
    `close`. All methods may be called from any thread.

    Attributes
    ----------
    path : Path
    messages : list of str
        What was found damaged and repaired when the store was opened.
    before_flush : list of callables
        Called by `flush` and `close` first, in the thread that calls these: who has something to write does it there.
    """

    def __init__(self, path: Path, memory: int = MEMORY) -> None:
        super().__init__(path)
        load_checkpoint(path)
        self.messages: list[str] = []
        self._memory = memory
        self._lock = WriterLock(path, f"The label store {path}")
        self._mutex = threading.RLock()
        self.before_flush: list[Callable[[], None]] = []
        self._runs: dict[str, Run] = {}
        self._pid = os.getpid()
        self._inode = path.stat().st_ino
        self._recover()

    @classmethod
    def create(
        cls,
        path: str | Path,
        shape: tuple[int, int] | None = None,
        mpp: float | tuple[float, float] | None = None,
        classes: Sequence[str] = (),
        kind: Kind = "labels",
        slide: Slide | None = None,
        *,
        dtype: str = "uint8",
        colours: Sequence[Any] | None = None,
        overwrite: bool = False,
    ) -> LabelStore:
        """Make an empty store.

        Parameters
        ----------
        path : path
            The folder to make, such as ``labels.ome.zarr``.
        shape : (height, width), optional
            In pixels; not needed with `slide`.
        mpp : float or (y, x), optional
            µm per pixel of level 0; None: the slide's own, or unknown.
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

        Raises
        ------
        OutputError
            If the path is taken, or the disk refuses; then nothing is left behind.
        StoreError
            If shape, classes or colours cannot be used.
        """
        where = Path(path).resolve()
        with _opening:
            known = _open_stores.pop(where, None)
            if known is not None and not overwrite:
                _open_stores[where] = known
            elif known is not None:
                known.close()
            create_store(
                where, shape, mpp, tuple(classes), kind, slide, dtype=dtype, colours=colours, overwrite=overwrite
            )
            return open_labels(where)

    # ------------------------------------------------------------------------------------------------------- strokes

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
        OutputError
            If the disk refuses; then nothing of the stroke is kept.
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

    def hold(self) -> None:
        """Take the right to write now, as an editor does when it opens; otherwise the first write takes it.

        Raises
        ------
        StoreLockedError
            If somebody else writes into this store.
        """
        self._begin()

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

    def add_classes(self, names: Iterable[str]) -> dict[str, int]:
        """Append the classes that are not there yet; the value of each of `names`."""
        names = tuple(names)
        if any(name not in self.classes for name in names):
            with self._mutex:
                self._begin()
                self._save(self._info.with_classes(names))
        return {name: self.classes.index(name) + 1 for name in names}

    def mark_annotated(self, polygon: npt.ArrayLike) -> None:
        """Mark a polygon `(n, 2)` of `y, x` (level-0 pixels of the store) of an annotation as fully annotated."""
        if self.kind != "annotation":
            raise StoreError(f'{self.path} holds labels, all of which count; only kind="annotation" has such regions.')
        corners = annotated.checked_polygon(polygon)
        with self._mutex:
            self._begin()
            self._save(self._info.changed(fully_annotated=(*self._info.fully_annotated, corners)))

    def set_annotated(self, polygons: Iterable[npt.ArrayLike]) -> None:
        """Mark these polygons as fully annotated, and no others; see `mark_annotated`."""
        if self.kind != "annotation":
            raise StoreError(f'{self.path} holds labels, all of which count; only kind="annotation" has such regions.')
        corners = tuple(annotated.checked_polygon(polygon) for polygon in polygons)
        with self._mutex:
            self._begin()
            self._save(self._info.changed(fully_annotated=corners))

    def rename_classes(self, names: Sequence[str] | None = None, colours: Any = None) -> None:
        """Give the classes that are there other names or colours (as for `create`); their pixels stay as they are."""
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

    # ---------------------------------------------------------------------------------------------------------- runs

    @property
    def runs(self) -> list[Run]:
        """All runs, by key."""
        folder = self.path / "runs"
        keys = sorted(path.parent.name for path in folder.glob("*/run.json") if not path.parent.name.startswith("."))
        return [self.run(key) for key in keys]

    def run(self, key: str) -> Run:
        """The run of this key."""
        with self._mutex:
            if key not in self._runs:
                if not (self.path / "runs" / key / "run.json").exists():
                    raise StoreError(f"{self.path} has no run {key!r}; its folder runs/ shows which there are.")
                self._runs[key] = Run(self.path / "runs" / key)
            return self._runs[key]

    def create_run(self, key: str, description: dict[str, Any], classes: Sequence[str], outputs: dict[str, str]) -> Run:
        """Make an empty run, or give the one that has this key. Needs no lock.

        Parameters
        ----------
        key : str
            Names the folder: a hash of what makes the prediction what it is.
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
        """Show a run's labels wherever nobody edited.

        This is no stroke and cannot be undone; merging an older run again takes it back.

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
        session = self._begin()
        if not self._info.instances:
            self.add_classes(run.classes)
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

    # ------------------------------------------------------------------------------------------------------- lifetime

    def flush(self) -> None:
        """Write all edits into the chunks. (They are safe in the journal before that.)"""
        for call in list(self.before_flush):
            call()
        if self._session is not None:
            self._session.flush()

    def close(self) -> None:
        """Flush, and let others write. The object cannot be used after that."""
        for call in list(self.before_flush):
            call()
        with self._mutex:
            session, self._session = self._session, None
            self._closed = True
            try:
                if session is not None and self._lock.held:
                    session.close()
            finally:
                self._lock.release()
        with _opening:
            if _open_stores.get(self.path) is self:
                del _open_stores[self.path]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LabelStore({str(self.path)!r}, {self.kind}, {self.shape[0]} x {self.shape[1]}, classes {self.classes})"

    def _begin(self) -> Session:
        """The session of writing; the first call takes the lock and reads what others did since."""
        with self._mutex:
            if self._closed:
                raise StoreError(f"{self.path} was closed; open it again with open_labels.")
            if self._session is not None and self._lock.held:
                return self._session
            self._lock.acquire()
            try:
                self._info = load_info(self.path)
                cache = ChunkCache(self._planes, self._memory, self.path / "aside")
                with output_errors(self.path):
                    session = Session(self.path, cache, self.dtype, self._run_and_table)
                session.start_keeper()
                self.messages += session.messages
            except BaseException:
                self._lock.release()
                raise
            self._session = session
            return session

    def _recover(self) -> None:
        """Finish what a process that died left in the journal, unless another is at work."""
        if not unfinished(self.path):
            return
        try:
            self._begin().close()
        except StoreLockedError:
            return
        except OutputError as error:
            self.messages.append(f"The last edits are in the journal but cannot be shown here: {error}")
            return
        self._session = None
        self._lock.release()

    def _save(self, info: StoreInfo) -> None:
        with output_errors(self.path):
            save_info(self.path, info)
        self._info = info

    def _run_and_table(self, key: str) -> tuple[Run, Table]:
        run = self.run(key)
        return run, value_table(run, self._info.classes, self._info.instances)

    def _is_current(self) -> bool:
        """Whether this object still stands for its path in this process."""
        try:
            return not self._closed and self._pid == os.getpid() and self.path.stat().st_ino == self._inode
        except OSError:
            return False


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
    where = Path(path).resolve()
    with _opening:
        known = _open_stores.get(where)
        if known is None or not known._is_current():
            known = _open_stores[where] = LabelStore(where, memory)
        return known


def is_open(path: str | os.PathLike[str]) -> bool:
    """Whether this process has the store at `path` open."""
    return Path(os.path.realpath(path)) in _open_stores


@atexit.register
def close_all() -> None:
    """Close all stores that this process has open."""
    for store in list(_open_stores.values()):
        if store._pid == os.getpid():
            store.close()
