"""Chunks of a store's pyramids in memory: read once, changed in place, written back in batches."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet._io import output_errors, sync_paths
from napari_msunet.constants import CHUNK
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.chunks import ChunkFiles, CorruptChunkError
from napari_msunet.labels.levels import rebuilt

Key = tuple[str, int, int, int]
"""Plane, level, and row and column of a chunk."""
_BATCH = 256
_OVERHEAD = 300  # bytes of a chunk that holds one value


class _Chunk:
    """Values of a chunk: an array, or one value for all of it."""

    __slots__ = ("data", "dirty", "value", "version")

    def __init__(self, data: npt.NDArray[Any] | None, value: int) -> None:
        self.data = data
        self.value = value
        self.version = 0
        self.dirty = False

    @property
    def nbytes(self) -> int:
        return _OVERHEAD + (0 if self.data is None else self.data.nbytes)


def pieces(window: Window) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
    """The chunks a window touches: `cy, cx`, the slices in the chunk, and those in the window."""
    rows, columns = _pieces(window.y, window.height), _pieces(window.x, window.width)
    for cy, inner_rows, outer_rows in rows:
        for cx, inner_columns, outer_columns in columns:
            yield cy, cx, (inner_rows, inner_columns), (outer_rows, outer_columns)


def _pieces(start: int, length: int) -> list[tuple[int, slice, slice]]:
    """Along one axis: the chunks' numbers, the pixels in each, and those of the window."""
    stop, found = start + length, []
    for number in range(start // CHUNK, (stop - 1) // CHUNK + 1):
        edge = number * CHUNK
        first, last = max(start, edge), min(stop, edge + CHUNK)
        found.append((number, slice(first - edge, last - edge), slice(first - start, last - start)))
    return found


class ChunkCache:
    """A write-back cache over pyramids of one shape.

    Code that changes a window and its coarser levels holds `lock` meanwhile. Code that reads needs no lock: it waits
    for the change of one chunk at most. Neither reading nor changing waits for files that are being written.

    Parameters
    ----------
    planes : mapping of str to list of ChunkFiles
        The pyramids by name, finest level first.
    limit : int
        Bytes of chunks to keep. Changed chunks stay until they are written, so `trim` may need a `flush` after it.
    aside : Path
        Folder on the same disk for files under way.

    Attributes
    ----------
    damaged : dict
        Chunks whose files do not decode, with what is wrong. They read as 0 (those of coarser levels are made again)
        until they are changed and written.
    highest : int
        The largest label that was assigned to level 0, if labels are numbers of objects.
    present : dict
        For each plane, the chunks of level 0 that have files; where no list was kept, those that have files now.
    """

    def __init__(self, planes: Mapping[str, list[ChunkFiles]], limit: int, aside: Path) -> None:
        self.lock = threading.RLock()
        self.shapes: list[tuple[int, int]] = [(f.shape[-2], f.shape[-1]) for f in next(iter(planes.values()))]
        self.limit = limit
        self.nbytes = 0
        self.dirty: dict[Key, None] = {}
        self.damaged: dict[Key, str] = {}
        self.highest = 0
        self.present: dict[str, set[tuple[int, int]]] = {}
        self._planes = planes
        self._aside = aside
        self._chunks: OrderedDict[Key, _Chunk] = OrderedDict()
        self._writing = threading.Lock()
        self._guard = threading.RLock()
        self._numbers = planes["labels"][0].dtype.itemsize > 1 if "labels" in planes else False

    def read(self, plane: str, level: int, window: Window) -> npt.NDArray[Any]:
        """A copy of a window that lies inside its level."""
        out = np.zeros(window.shape, self._planes[plane][level].dtype)
        for cy, cx, inner, outer in pieces(window):
            with self._guard:
                chunk = self._get((plane, level, cy, cx))
                if chunk.data is not None:
                    out[outer] = chunk.data[inner]
                elif chunk.value:
                    out[outer] = chunk.value
        return out

    def part(self, plane: str, level: int, window: Window) -> npt.NDArray[Any] | int:
        """As `read`, but one value where the window lies in a chunk that holds only that."""
        y, x = window.y // CHUNK, window.x // CHUNK
        if (window.stop[0] - 1) // CHUNK == y and (window.stop[1] - 1) // CHUNK == x:
            value = self.uniform(plane, level, y, x)
            if value is not None:
                return value
        return self.read(plane, level, window)

    def know(self, plane: str, listed: set[tuple[int, int]] | None) -> None:
        """Begin with the list of a plane's files, or with the files that exist."""
        if listed is None:
            listed = {(key[0], key[1]) for key in self._planes[plane][0].present()}
        self.present[plane] = listed

    def forget_edited(self, window: Window) -> None:
        """Mark pixels as not edited in damaged chunks of the labels, unless painted over, because their values are
        lost."""
        for cy, cx, _, _ in pieces(window):
            with self._guard:
                chunk = self._get(("labels", 0, cy, cx))
                if ("labels", 0, cy, cx) in self.damaged and not chunk.dirty:
                    rows, columns = self._inside(0, cy, cx)
                    whole = Window(cy * CHUNK, cx * CHUNK, rows.stop, columns.stop)
                    self.assign("edited", 0, whole, False)

    def put_by(self, cy: int, cx: int) -> Path:
        """The path to which the file of a damaged chunk of the labels is moved when it is painted over."""
        return self._aside.with_name("damaged") / "labels" / f"0-c-{cy}-{cx}"

    def made_anew(self, cy: int, cx: int) -> None:
        """Note that a damaged chunk has values everywhere again."""
        path = self.put_by(cy, cx)
        with suppress(OSError):
            path.rename(path.with_name(f"{path.name}.replaced"))

    def pixels_of(self, cy: int, cx: int) -> int:
        """Number of pixels of a chunk of level 0."""
        rows, columns = self._inside(0, cy, cx)
        return int(rows.stop * columns.stop)

    def count(self) -> None:
        """Update `highest` from the files of level 0 that can be decoded."""
        files = self._planes["labels"][0]
        for path in sorted(files.path.glob("c/*/*")):
            with suppress(StoreError, ValueError):
                data = files.read(int(path.parent.name), int(path.name))
                if data is not None:
                    self.highest = max(self.highest, int(data.max()))

    def uniform(self, plane: str, level: int, cy: int, cx: int) -> int | None:
        """The one value of a chunk, or None if it has several."""
        with self._guard:
            chunk = self._get((plane, level, cy, cx))
            return chunk.value if chunk.data is None else None

    def assign(
        self, plane: str, level: int, window: Window, values: Any, mask: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Set the pixels of a window inside its level, where `mask` is true; `values` is an array or one value."""
        scalar = np.ndim(values) == 0
        if self._numbers and level == 0 and plane == "labels" and np.size(values):
            self.highest = max(self.highest, int(np.max(values)))
        for cy, cx, inner, outer in pieces(window):
            part_mask = None if mask is None else mask[outer]
            with self._guard:
                self._assign((plane, level, cy, cx), inner, values if scalar else values[outer], scalar, part_mask)

    def _assign(
        self, key: Key, inner: tuple[slice, slice], part: Any, scalar: bool, mask: npt.NDArray[np.bool_] | None
    ) -> None:
        """Set pixels of one chunk."""
        chunk = self._get(key)
        if scalar and chunk.data is None and chunk.value == int(part) and key not in self.damaged:
            return
        self._change(key, chunk)
        if scalar and mask is None and self._covers(*key[1:], inner):
            self.nbytes -= chunk.nbytes
            chunk.data, chunk.value = None, int(part)
            self.nbytes += chunk.nbytes
            return
        if chunk.data is None:
            self._expand(key, chunk)
        data: npt.NDArray[Any] = chunk.data  # type: ignore[assignment]
        if mask is None:
            data[inner] = part
        else:
            np.copyto(data[inner], part, where=mask)

    def trim(self) -> bool:
        """Drop chunks that are on disk, oldest first, until the limit holds; False if changed chunks exceed it."""
        with self._guard:
            if self.nbytes <= self.limit:
                return True
            goal = self.limit * 7 // 8
            for key in list(self._chunks):
                if self.nbytes <= goal:
                    break
                if not self._chunks[key].dirty:
                    self.nbytes -= self._chunks.pop(key).nbytes
            return self.nbytes <= self.limit

    def flush(self, ready: Callable[[], None] | None = None, between: Callable[[], None] | None = None) -> None:
        """Write all changed chunks aside, sync them, rename them.

        Chunks that change meanwhile are written in a state at least as new as at the beginning, and stay changed.
        `ready` is called before the files are renamed, and raises if they must not be. `between` is called after each
        chunk.
        """
        with self._writing, output_errors(self._aside.parent):
            with self._guard:
                keys = list(self.dirty)
            if keys:
                self._aside.mkdir(exist_ok=True)
            for start in range(0, len(keys), _BATCH):
                self._write(keys[start : start + _BATCH], ready, between)

    def _write(self, keys: list[Key], ready: Callable[[], None] | None, between: Callable[[], None] | None) -> None:
        staged: list[tuple[Key, int, Path | None]] = []
        try:
            for key in keys:
                with self._guard:
                    chunk = self._chunks[key]
                    version = chunk.version
                    data = self._full(key, chunk) if chunk.data is None else chunk.data.copy()
                if chunk.data is not None and self._one_value(key, data):
                    self._collapse(key, version, int(data[0, 0]))
                staged.append((key, version, self._planes[key[0]][key[1]].stage(self._aside, data)))
                if between is not None:
                    between()
            sync_paths([aside for _, _, aside in staged if aside is not None])
            if ready is not None:
                ready()
        except BaseException:
            for _, _, aside in staged:
                if aside is not None:
                    aside.unlink(missing_ok=True)
            raise
        folders: set[Path] = set()
        for key, version, aside in staged:
            if key in self.damaged:
                self._planes[key[0]][key[1]].put_by(self._aside.with_name("damaged") / key[0], *key[2:])
            path = self._planes[key[0]][key[1]].commit(aside, *key[2:])
            folders.update((path.parent, path.parent.parent))
            if key[1] == 0 and key[0] in self.present:
                (self.present[key[0]].discard if aside is None else self.present[key[0]].add)((key[2], key[3]))
            with self._guard:
                self.damaged.pop(key, None)
                chunk = self._chunks[key]
                if chunk.version == version:
                    chunk.dirty = False
                    self.dirty.pop(key, None)
        sync_paths(folders)

    def _get(self, key: Key) -> _Chunk:
        chunk = self._chunks.get(key)
        if chunk is not None:
            self._chunks.move_to_end(key)
            return chunk
        plane, level, cy, cx = key
        wrong = None
        try:
            data = self._planes[plane][level].read(cy, cx)
        except CorruptChunkError as error:
            wrong, data = str(error), None
            if level:
                data = np.zeros((CHUNK, CHUNK), self._planes[plane][level].dtype)
                made = rebuilt(self.read, self.shapes, plane, level, Window(cy * CHUNK, cx * CHUNK, CHUNK, CHUNK))
                data[: made.shape[0], : made.shape[1]] = made
        if data is None:
            chunk = _Chunk(None, 0)
        elif self._one_value(key, data):
            chunk = _Chunk(None, int(data[0, 0]))
        else:
            chunk = _Chunk(data, 0)
        self._chunks[key] = chunk
        self.nbytes += chunk.nbytes
        if wrong is not None:
            self.damaged[key] = wrong
            if level:
                self._change(key, chunk)
        return chunk

    def _change(self, key: Key, chunk: _Chunk) -> None:
        chunk.version += 1
        if not chunk.dirty:
            chunk.dirty = True
            self.dirty[key] = None

    def _collapse(self, key: Key, version: int, value: int) -> None:
        """Keep one value for a chunk that has no other, unless it has changed since."""
        with self._guard:
            chunk = self._chunks[key]
            if chunk.version == version:
                self.nbytes -= chunk.nbytes
                chunk.data, chunk.value = None, value
                self.nbytes += chunk.nbytes

    def _expand(self, key: Key, chunk: _Chunk) -> None:
        self.nbytes -= chunk.nbytes
        chunk.data = self._full(key, chunk)
        self.nbytes += chunk.nbytes
        chunk.value = 0

    def _full(self, key: Key, chunk: _Chunk) -> npt.NDArray[Any]:
        dtype = self._planes[key[0]][key[1]].dtype
        return np.full((CHUNK, CHUNK), chunk.value, dtype) if chunk.value else np.zeros((CHUNK, CHUNK), dtype)

    def _covers(self, level: int, cy: int, cx: int, inner: tuple[slice, slice]) -> bool:
        """Whether the slices take in all of a chunk that lies in the level."""
        return inner == self._inside(level, cy, cx)

    def _inside(self, level: int, cy: int, cx: int) -> tuple[slice, slice]:
        """The part of a chunk that lies in the level."""
        height, width = self.shapes[level]
        return slice(0, min(CHUNK, height - cy * CHUNK)), slice(0, min(CHUNK, width - cx * CHUNK))

    def _one_value(self, key: Key, data: npt.NDArray[Any]) -> bool:
        return bool((data[self._inside(*key[1:])] == data[0, 0]).all())
