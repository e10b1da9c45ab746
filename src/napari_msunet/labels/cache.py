"""Chunks of a store's pyramids in memory: read once, changed in place, written back in batches."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window
from napari_msunet.labels.chunks import CHUNK, ChunkFiles
from napari_msunet.labels.files import output_errors, sync_paths

Key = tuple[str, int, int, int]
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
    for cy in range(window.y // CHUNK, (window.stop[0] - 1) // CHUNK + 1):
        y0, y1 = max(window.y, cy * CHUNK), min(window.stop[0], (cy + 1) * CHUNK)
        for cx in range(window.x // CHUNK, (window.stop[1] - 1) // CHUNK + 1):
            x0, x1 = max(window.x, cx * CHUNK), min(window.stop[1], (cx + 1) * CHUNK)
            yield (
                cy,
                cx,
                (slice(y0 - cy * CHUNK, y1 - cy * CHUNK), slice(x0 - cx * CHUNK, x1 - cx * CHUNK)),
                (slice(y0 - window.y, y1 - window.y), slice(x0 - window.x, x1 - window.x)),
            )


class ChunkCache:
    """A write-back cache over pyramids of one shape.

    Its `lock` is held for the time of one window, never for that of a batch of files, so a stroke waits for no flush.

    Parameters
    ----------
    planes : mapping of str to list of ChunkFiles
        The pyramids by name, finest level first.
    limit : int
        Bytes of chunks to keep. Changed chunks stay until they are written: `trim` may have to be followed by `flush`.
    aside : Path
        Folder on the same disk for files under way.
    """

    def __init__(self, planes: Mapping[str, list[ChunkFiles]], limit: int, aside: Path) -> None:
        self.lock = threading.RLock()
        self.shapes: list[tuple[int, int]] = [(f.shape[-2], f.shape[-1]) for f in next(iter(planes.values()))]
        self.limit = limit
        self.nbytes = 0
        self.dirty: dict[Key, None] = {}
        self._planes = planes
        self._aside = aside
        self._chunks: OrderedDict[Key, _Chunk] = OrderedDict()
        self._writing = threading.Lock()

    def read(self, plane: str, level: int, window: Window) -> npt.NDArray[Any]:
        """A copy of a window that lies inside its level."""
        out = np.zeros(window.shape, self._planes[plane][level].dtype)
        with self.lock:
            for cy, cx, inner, outer in pieces(window):
                chunk = self._get((plane, level, cy, cx))
                if chunk.data is not None:
                    out[outer] = chunk.data[inner]
                elif chunk.value:
                    out[outer] = chunk.value
        return out

    def uniform(self, plane: str, level: int, cy: int, cx: int) -> int | None:
        """The one value of a chunk, or None if it has several."""
        with self.lock:
            chunk = self._get((plane, level, cy, cx))
            return chunk.value if chunk.data is None else None

    def assign(
        self, plane: str, level: int, window: Window, values: Any, mask: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Set the pixels of a window inside its level, where `mask` is true; `values` is an array or one value."""
        scalar = np.ndim(values) == 0
        with self.lock:
            for cy, cx, inner, outer in pieces(window):
                key = (plane, level, cy, cx)
                chunk = self._get(key)
                self._change(key, chunk)
                part = values if scalar else values[outer]
                if scalar and mask is None and self._covers(level, cy, cx, inner):
                    self.nbytes -= chunk.nbytes
                    chunk.data, chunk.value = None, int(part)
                    self.nbytes += chunk.nbytes
                    continue
                if chunk.data is None:
                    if scalar and chunk.value == int(part):
                        continue
                    self._expand(key, chunk)
                if mask is None:
                    chunk.data[inner] = part  # type: ignore[index]
                else:
                    np.copyto(chunk.data[inner], part, where=mask[outer])  # type: ignore[index]

    @property
    def dirty_bytes(self) -> int:
        """Bytes of changed chunks."""
        with self.lock:
            return sum(self._chunks[key].nbytes for key in self.dirty)

    def trim(self) -> bool:
        """Let go of chunks that are on disk, oldest first, until the limit holds; False if changed ones fill it."""
        with self.lock:
            if self.nbytes <= self.limit:
                return True
            goal = self.limit * 7 // 8
            for key in list(self._chunks):
                if self.nbytes <= goal:
                    break
                if not self._chunks[key].dirty:
                    self.nbytes -= self._chunks.pop(key).nbytes
            return self.nbytes <= self.limit

    def flush(self) -> None:
        """Write all changed chunks aside, sync them, rename them.

        Chunks that change meanwhile are written as they were, at least as new as when this began, and stay changed.
        """
        with self._writing, output_errors(self._aside.parent):
            self._aside.mkdir(exist_ok=True)
            with self.lock:
                keys = list(self.dirty)
            for start in range(0, len(keys), _BATCH):
                self._write(keys[start : start + _BATCH])

    def _write(self, keys: list[Key]) -> None:
        staged: list[tuple[Key, int, Path | None]] = []
        try:
            for key in keys:
                with self.lock:
                    chunk = self._chunks[key]
                    version = chunk.version
                    data = self._full(key, chunk) if chunk.data is None else chunk.data.copy()
                staged.append((key, version, self._planes[key[0]][key[1]].stage(self._aside, data)))
            sync_paths([aside for _, _, aside in staged if aside is not None])
        except BaseException:
            for _, _, aside in staged:
                if aside is not None:
                    aside.unlink(missing_ok=True)
            raise
        folders: set[Path] = set()
        for key, version, aside in staged:
            path = self._planes[key[0]][key[1]].commit(aside, *key[2:])
            folders.update((path.parent, path.parent.parent))
            with self.lock:
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
        data = self._planes[plane][level].read(cy, cx)
        if data is None:
            chunk = _Chunk(None, 0)
        elif (data == data[0, 0]).all():
            chunk = _Chunk(None, int(data[0, 0]))
        else:
            chunk = _Chunk(data, 0)
        self._chunks[key] = chunk
        self.nbytes += chunk.nbytes
        return chunk

    def _change(self, key: Key, chunk: _Chunk) -> None:
        chunk.version += 1
        if not chunk.dirty:
            chunk.dirty = True
            self.dirty[key] = None

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
        height, width = self.shapes[level]
        bottom, right = min(CHUNK, height - cy * CHUNK), min(CHUNK, width - cx * CHUNK)
        return inner[0] == slice(0, bottom) and inner[1] == slice(0, right)
