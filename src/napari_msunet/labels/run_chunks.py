"""The chunks of all outputs of a run: read with damage told, written aside and renamed, synced together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window
from napari_msunet.labels.cache import pieces
from napari_msunet.labels.chunks import CHUNK, DamagedChunkError
from napari_msunet.labels.files import sync_path, sync_paths, write_aside
from napari_msunet.labels.ledger import Chunk
from napari_msunet.labels.run_outputs import (
    LABELS,
    RunFiles,
    any_set,
    decode_values,
    encode_values,
    open_output,
)

Plane = tuple[str, int, tuple[int, ...]]
"""Output, level, and channel (or nothing)."""


class RunChunks:
    """See the module.

    Parameters
    ----------
    path : Path
        The run's folder.
    shapes : list of (h, w)
        Of the levels.
    outputs : mapping
        Type of each output.
    channels : int
        Of the probabilities.

    Attributes
    ----------
    damaged : dict
        Files that did not decode when they were read, and their pixels of level 0.
    """

    def __init__(self, path: Path, shapes: list[tuple[int, int]], outputs: Mapping[str, str], channels: int) -> None:
        self.damaged: dict[Path, Window] = {}
        self._path = path
        self._shapes = shapes
        self._outputs = outputs
        self._count = channels
        self._files: dict[tuple[str, int], RunFiles] = {}
        self._aside = path / "aside"
        self._names = count()
        self._mutex = threading.Lock()
        self._unsynced: set[Path] = set()

    # ------------------------------------------------------------------------------------------------------- reading

    def channels(self, output: str) -> list[tuple[int, ...]]:
        """The leading parts of an output's chunk keys."""
        return [(c,) for c in range(self._count)] if output == "probabilities" else [()]

    def scaled(self, output: str) -> bool:
        """Whether steps of 0..255 stand for numbers of 0..1."""
        return output not in LABELS and self._outputs[output] == "uint8"

    def values_dtype(self, output: str) -> np.dtype[Any]:
        """The type of values that are read."""
        return np.dtype(np.float32 if self.scaled(output) else self._outputs[output])

    def accepts(self, output: str, dtype: np.dtype[Any]) -> bool:
        """Whether values of this type can be written."""
        if output in LABELS:
            return np.can_cast(dtype, self._outputs[output], "safe")
        return dtype.kind == "f"

    def files(self, output: str, level: int) -> RunFiles:
        """The chunk files of a level."""
        found = self._files.get((output, level))
        if found is None:
            shape: tuple[int, ...] = self._shapes[level]
            if output == "probabilities":
                shape = (self._count, *shape)
            found = open_output(self._path / output / str(level), shape, self._outputs[output])
            self._files[output, level] = found
        return found

    def chunk(self, plane: Plane, cy: int, cx: int) -> npt.NDArray[Any] | None:
        """A chunk as it is stored, not to be changed; None where it is absent or damaged: all zero."""
        output, level, channel = plane
        files = self.files(output, level)
        try:
            return files.read(*channel, cy, cx)
        except DamagedChunkError:
            self.damaged[files.file(*channel, cy, cx)] = self._pixels(level, cy, cx)
            return None

    def read_plane(self, plane: Plane, window: Window) -> npt.NDArray[Any]:
        """A window as it is stored; outside: 0."""
        out = np.zeros(window.shape, self._outputs[plane[0]])
        inside = window.intersection(Window(0, 0, *self._shapes[plane[1]]))
        if not inside.empty:
            view = out[inside.slices((window.y, window.x))]
            for cy, cx, inner, outer in pieces(inside):
                values = self.chunk(plane, cy, cx)
                if values is not None:
                    view[outer] = values[inner]
        return out

    def read(self, output: str, level: int, window: Window) -> npt.NDArray[Any]:
        """The values of a window, all channels."""
        planes = [self.read_plane((output, level, channel), window) for channel in self.channels(output)]
        values = np.stack(planes) if output == "probabilities" else planes[0]
        return decode_values(values, self.scaled(output))

    def whole(self, chunk: Chunk) -> bool:
        """Whether the file of a chunk of level 0 is there in its full length."""
        return chunk[0] in self._outputs and self.files(chunk[0], 0).whole(*chunk[1])

    def wrong(self, chunk: Chunk) -> str | None:
        """What is wrong with a chunk of level 0 that should be there, if anything."""
        files = self.files(chunk[0], 0)
        try:
            if files.read(*chunk[1]) is None:
                return f"{files.file(*chunk[1])} is missing: predict again to have its pixels computed."
        except DamagedChunkError as error:
            return str(error)
        return None

    def is_finest(self, path: Path, outputs: Sequence[str] | None) -> bool:
        """Whether a chunk's file belongs to level 0, of one of these outputs."""
        output, level = path.relative_to(self._path).parts[:2]
        return level == "0" and (outputs is None or output in outputs)

    def place(self, chunk: Chunk) -> tuple[Path, Window]:
        """The file of a chunk of level 0, and its pixels."""
        return self._path.joinpath(chunk[0], "0", "c", *map(str, chunk[1])), self._pixels(0, *chunk[1][-2:])

    def _pixels(self, level: int, cy: int, cx: int) -> Window:
        side = CHUNK << level
        return Window(cy * side, cx * side, side, side).intersection(Window(0, 0, *self._shapes[0]))

    # ------------------------------------------------------------------------------------------------------- writing

    def begin(self, aside: Path) -> None:
        """Write from now on, with files under way in this folder."""
        aside.mkdir(parents=True, exist_ok=True)
        for leftover in aside.iterdir():
            leftover.unlink()
        self._aside = aside
        self._unsynced.clear()

    def put(
        self,
        plane: Plane,
        at: tuple[int, int],
        inner: tuple[slice, slice],
        values: npt.NDArray[Any],
        drop: Callable[[], None],
    ) -> bool:
        """Put values into a part of a chunk of level 0; whether any of them is stored as something but 0.

        `drop` is called before a file is taken away because the chunk became all zero.
        """
        output, _, channel = plane
        files = self.files(output, 0)
        height, width = (min(CHUNK, size - n * CHUNK) for size, n in zip(self._shapes[0], at, strict=True))
        whole = inner == (slice(0, height), slice(0, width))
        full = whole and (height, width) == (CHUNK, CHUNK)
        chunk = (np.empty if full else np.zeros)((CHUNK, CHUNK), files.dtype)
        encode_values(values, chunk[inner], self.scaled(output))
        some = any_set(chunk[inner])
        path = files.file(*channel, *at)
        old = None if whole else self.chunk(plane, *at)
        if old is not None:
            merged = old.copy()
            merged[inner] = chunk[inner]
            chunk = merged
        data = files.encode(chunk) if some or old is not None else b""
        if data:
            self._save(files, path, data, keep=old is not None)
        elif path.exists():
            drop()
            self._remove(path)
        return some

    def replace(self, plane: Plane, at: tuple[int, int], values: npt.NDArray[Any] | None) -> None:
        """Put a whole chunk of any level; None: all zero."""
        files = self.files(*plane[:2])
        path = files.file(*plane[2], *at)
        data = b"" if values is None else files.encode(values)
        if data:
            self._save(files, path, data, keep=False)
        elif path.exists():
            self._remove(path)

    def sync(self) -> None:
        """Bring everything written so far onto the disk."""
        with self._mutex:
            paths, self._unsynced = self._unsynced, set()
        try:
            sync_paths(paths)
        except BaseException:
            with self._mutex:
                self._unsynced |= paths
            raise

    def _save(self, files: RunFiles, path: Path, data: bytes, keep: bool) -> None:
        """Write a chunk aside and give it its name; `keep`: pixels of other tiles must survive a power cut."""
        aside = self._aside / f"{next(self._names)}.partial"
        try:
            write_aside(aside, data)
            if keep:
                sync_path(aside)
            files.commit(aside, *map(int, path.relative_to(files.path / "c").parts))
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        self._changed(path)

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._changed(path)

    def _changed(self, path: Path) -> None:
        with self._mutex:
            self._unsynced.update((path, path.parent, path.parent.parent))
            self.damaged.pop(path, None)
