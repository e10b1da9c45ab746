"""The outputs of a run: an OME-Zarr pyramid for each, its chunk files and its coarser levels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import Blosc
from zarr.codecs import BloscCodec, Crc32cCodec

from napari_msunet._io import sync_path, sync_paths, write_aside
from napari_msunet.constants import CHUNK
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.cache import pieces
from napari_msunet.labels.chunks import CHECKSUM, ChunkFiles, CorruptChunkError
from napari_msunet.labels.levels import coarsen
from napari_msunet.labels.metadata import StoreInfo, save_attributes
from napari_msunet.labels.runs.ledger import Chunk
from napari_msunet.slide.ngff import image_attributes
from napari_msunet.slide.zarr_backend import ChunkLengthError, blosc_lengths, check_blosc

# ----------------------------------------------------------------------------------------------------------------------
# The outputs that a run can have, and their chunk files.

OUTPUTS: dict[str, tuple[str, ...]] = {
    "labels": ("uint8", "uint32"),
    "raw": ("uint8",),
    "instances": ("uint32",),
    "probabilities": ("float16", "float32", "uint8"),
    "disagreement": ("float16", "uint8"),
    "entropy": ("float16", "uint8"),
}
"""What a run can hold, and as which types. Those of the last three stored as uint8 stand for 0..1 times 255."""

LABELS = ("labels", "raw", "instances")
"""Outputs whose values are classes or objects; the others are numbers from 0 to 1."""

_CHANNELS = {"disagreement": "disagreement of the scales", "entropy": "entropy"}
_HEADER = 16


def check_outputs(outputs: Mapping[str, str]) -> None:
    """Refuse outputs that a run cannot hold."""
    for name, dtype in outputs.items():
        if dtype not in OUTPUTS.get(name, ()):
            raise StoreError(f"A run cannot hold {name} as {dtype}; it can hold {OUTPUTS}.")
    if "labels" not in outputs:
        raise StoreError(f"A run needs labels among its outputs; got {tuple(outputs)}.")


def plane_count(name: str, classes: tuple[str, ...]) -> int | None:
    """Channels of an output, background first; None: it has no axis of channels."""
    return len(classes) + 1 if name == "probabilities" else None


@dataclass
class RunFiles(ChunkFiles):
    """The chunk files of one level of an output, in Blosc (LZ4, bits shuffled): a few ms for a megapixel of floats.

    A chunk is one Blosc block, so its bytes do not depend on the number of threads, and its first bytes say how long
    the file must be: one that was cut short is found without decoding it.
    """

    def __post_init__(self) -> None:
        self._size = CHUNK * CHUNK * self.dtype.itemsize
        self._codec = Blosc("lz4", clevel=5, shuffle=Blosc.BITSHUFFLE, blocksize=self._size)

    remedy: ClassVar[str] = "predict again to have its pixels computed"

    def _decoded(self, packed: bytes) -> npt.NDArray[Any]:
        """A chunk's values, flat and not to be changed."""
        check_blosc(packed, self._size)
        values = np.frombuffer(self._codec.decode(packed), self.dtype.newbyteorder("<"))
        return values.astype(self.dtype, copy=False)

    def encode(self, values: npt.NDArray[Any]) -> bytes:
        """A chunk as its file's bytes: none for a chunk of zeros."""
        if not any_set(values):
            return b""
        return self._sealed(self._codec.encode(np.ascontiguousarray(values, self.dtype.newbyteorder("<"))))

    def whole(self, *key: int) -> bool:
        """Whether a chunk's file is there in its full length, judged from its first bytes."""
        try:
            with self.file(*key).open("rb") as file:
                plain, packed = blosc_lengths(file.read(_HEADER))
                return plain == self._size and packed + (CHECKSUM if self.checksum else 0) == file.seek(0, 2)
        except (OSError, ChunkLengthError):
            return False


def create_output(folder: Path, info: StoreInfo, classes: tuple[str, ...], dtype: str) -> None:
    """An empty pyramid of the output that the folder is called after."""
    name, count = folder.name, plane_count(folder.name, classes)
    folder.mkdir()
    axes = ("y", "x") if count is None else ("c", "y", "x")
    shapes: list[tuple[int, ...]] = [shape if count is None else (count, *shape) for shape in info.shapes]
    if name in LABELS:
        kept = info.changed(kind="labels", dtype=dtype, classes=(), colours=())
        attributes = kept.with_classes(classes).ome()
    else:
        channels = ("background", *classes) if count else (_CHANNELS[name],)
        attributes = image_attributes(info.name, shapes, axes, info.mpp, channels, dtype, pixel=info.pixel)
    save_attributes(folder, attributes)
    for level, shape in enumerate(shapes):
        chunks = (1,) * (len(shape) - 2) + (CHUNK, CHUNK)
        zarr.create_array(
            store=str(folder / str(level)),
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            fill_value=0,
            compressors=(
                BloscCodec(
                    typesize=np.dtype(dtype).itemsize,
                    cname="lz4",
                    clevel=5,
                    shuffle="bitshuffle",
                    blocksize=CHUNK * CHUNK * np.dtype(dtype).itemsize,
                ),
                Crc32cCodec(),
            ),
            dimension_names=axes,
        )


def open_output(folder: Path, shape: tuple[int, ...], dtype: str) -> RunFiles:
    """The chunk files of a level that `create_output` made.

    Raises
    ------
    StoreError
        If its metadata is missing, damaged or not as it was made.
    """
    files = RunFiles(folder, shape, np.dtype(dtype))
    metadata = folder / "zarr.json"
    try:
        array = zarr.open_array(store=str(folder), mode="r")
        codecs = [type(codec) for codec in array.compressors]
        found = (array.shape, array.chunks, array.dtype, codecs[:1] == [BloscCodec], array.shards)
    except Exception as error:  # zarr raises of all kinds
        raise StoreError(f"{metadata} is missing or damaged: delete its run and predict again.") from error
    if found != (shape, files.chunk_shape, files.dtype, True, None):
        raise StoreError(
            f"{metadata} describes an array of shape {array.shape} and type {array.dtype} in chunks {array.chunks}; "
            f"{shape}, {files.dtype} and {files.chunk_shape} in Blosc are expected: delete its run and predict again."
        )
    files.checksum = Crc32cCodec in codecs  # runs begun before it go on without
    return files


def any_set(stored: npt.NDArray[Any]) -> bool:
    """Whether anything but 0 is stored. (Looking at floats as whole numbers takes a tenth of the time.)"""
    return bool((stored.view(f"u{stored.itemsize}") if stored.dtype.kind == "f" else stored).any())


def encode_values(values: npt.NDArray[Any], out: npt.NDArray[Any], scaled: bool) -> None:
    """Put values into the array that is stored; `scaled`: numbers of 0..1 as 0..255."""
    if scaled and values.dtype != np.uint8:
        steps = np.multiply(values, 255, dtype=np.float32)
        steps += np.float32(0.5)
        np.clip(steps, 0, 255, out=steps)
        out[...] = steps.astype(np.uint8)
    else:
        out[...] = values


def decode_values(stored: npt.NDArray[Any], scaled: bool) -> npt.NDArray[Any]:
    """The values that were stored; those stored as steps come as float32 of 0..1."""
    return stored * np.float32(1 / 255) if scaled else stored


# ----------------------------------------------------------------------------------------------------------------------
# The chunks of all outputs of a run: damage is noted when they are read; they are written aside, renamed and synced.

Plane = tuple[str, int, tuple[int, ...]]
"""Output, level, and channel (or nothing)."""


class RunChunks:
    """Reads and writes the chunks of all outputs of a run.

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
        except CorruptChunkError:
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
        """A sentence about what is wrong with a chunk of level 0 that should exist; None if nothing is."""
        files = self.files(chunk[0], 0)
        try:
            if files.read(*chunk[1]) is None:
                return f"{files.file(*chunk[1])} is missing: predict again to have its pixels computed."
        except CorruptChunkError as error:
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
        """Write values into a part of a chunk of level 0, and return whether any of them is stored as a value other
        than 0.

        `drop` is called before a file is removed because the chunk has become all zero.
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


# ----------------------------------------------------------------------------------------------------------------------
# Which coarser chunks of a run can be made, because all finer ones under them are finished.

Read = Callable[[str, int, tuple[int, ...], int, int], npt.NDArray[Any] | None]
"""From output, level, channel (or nothing), cy, cx to a chunk; None: all zero."""

Save = Callable[[str, int, tuple[int, ...], int, int, npt.NDArray[Any] | None], None]
"""Puts a chunk of a level on the disk; None: all zero."""

Square = tuple[int, int]

_FLOAT32 = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


class Pending:
    """The pixels yet to be written below each chunk of level 1, and the chunks that changed since they were made.

    Parameters
    ----------
    shapes : list of (h, w)
        Of the levels.
    outputs : iterable of str
    """

    def __init__(self, shapes: list[tuple[int, int]], outputs: Iterable[str]) -> None:
        self._shapes = shapes
        self._lock = threading.Lock()
        self._stale: dict[str, set[Square]] = {name: set() for name in outputs}
        self._count = (-(-shapes[0][0] // (2 * CHUNK)), -(-shapes[0][1] // (2 * CHUNK)))
        self._left = np.zeros(self._count, np.int64)
        self._waiting: dict[str, list[set[Square]]] = {name: [set() for _ in shapes] for name in outputs}
        self.expect([Window(0, 0, *shapes[0])])

    def expect(self, windows: Iterable[Window]) -> None:
        """Set the windows, without overlaps, that will be finished; beyond them, coarser levels do not wait."""
        left = np.zeros(self._count, np.int64)
        for window in windows:
            for square, pixels in _squares(window):
                left[square] += pixels
        self._left = left

    def finished(self, window: Window) -> None:
        """A tile is finished."""
        for square, pixels in _squares(window):
            self._left[square] -= pixels

    def changed(self, output: str, window: Window) -> None:
        """A window of an output was written."""
        with self._lock:
            self._stale[output].update(square for square, _ in _squares(window))

    def take(self, output: str, windows: Iterable[Window] | None = None) -> list[Square]:
        """The chunks of level 1 to be made, in rows: those below `windows` that are finished, or all; each once."""
        with self._lock:
            stale = self._stale[output]
            if windows is None:
                ready = set(stale)
            else:
                near = {square for window in windows for square, _ in _squares(window)}
                ready = {square for square in near & stale if self._left[square] <= 0}
            stale -= ready
        return sorted(ready)

    def above(self, output: str, made: Iterable[Square], level: int, finish: bool) -> list[Square]:
        """The chunks of `level` + 1 above those just `made`: unless it is to `finish`, those whose four are there."""
        waiting = self._waiting[output][level]
        waiting.update(made)
        parents = {(y // 2, x // 2) for y, x in (waiting if finish else made)}
        ready = [parent for parent in sorted(parents) if finish or self._settled(output, level + 1, *parent)]
        for y, x in ready:
            waiting -= {(2 * y + i, 2 * x + j) for i in (0, 1) for j in (0, 1)}
        return ready

    def _settled(self, output: str, level: int, cy: int, cx: int) -> bool:
        """Whether nothing more is expected below a chunk of a level above the first."""
        side = 1 << (level - 1)
        place = (slice(cy * side, (cy + 1) * side), slice(cx * side, (cx + 1) * side))
        if (self._left[place] > 0).any():
            return False
        with self._lock:
            return not any(
                cy * side <= y < (cy + 1) * side and cx * side <= x < (cx + 1) * side for y, x in self._stale[output]
            )


def make_levels(
    pending: Pending,
    planes: Mapping[str, list[tuple[int, ...]]],
    access: tuple[Read, Save],
    shapes: list[tuple[int, int]],
    windows: Iterable[Window] | None = None,
) -> None:
    """Make coarser chunks: those of finished places among `windows`, or (None) all that are left.

    Parameters
    ----------
    planes : mapping
        For each output its channels, as the leading part of a chunk's key.
    access : (read, save)
    shapes : list of (h, w)
        Of the levels.
    """
    windows = None if windows is None else list(windows)
    for output, channels in planes.items():
        made = pending.take(output, windows)
        for level in range(1, len(shapes)):
            for square in made:
                for channel in channels:
                    _make(output, level, channel, square, shapes[level - 1], access)
            if level + 1 < len(shapes):
                made = pending.above(output, made, level, finish=windows is None)


def _make(
    output: str, level: int, channel: tuple[int, ...], square: Square, below: tuple[int, int], access: tuple[Read, Save]
) -> None:
    """One chunk of a level from the four below it."""
    read, save = access
    cy, cx = square
    rule = coarsen if output in LABELS else _mean
    chunk: npt.NDArray[Any] | None = None
    half = CHUNK // 2
    for i in (0, 1):
        for j in (0, 1):
            y, x = 2 * cy + i, 2 * cx + j
            height, width = min(CHUNK, below[0] - y * CHUNK), min(CHUNK, below[1] - x * CHUNK)
            values = read(output, level - 1, channel, y, x) if height > 0 and width > 0 else None
            if values is not None:
                part = rule(values[:height, :width])
                if chunk is None:
                    chunk = np.zeros((CHUNK, CHUNK), values.dtype)
                chunk[i * half : i * half + part.shape[0], j * half : j * half + part.shape[1]] = part
    save(output, level, channel, cy, cx, chunk)


def _mean(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The mean of each 2 x 2 of a chunk, of those pixels that exist, in the same type."""
    height, width = values.shape
    if height % 2 or width % 2:
        values = np.pad(values, ((0, height % 2), (0, width % 2)), mode="edge")
    if values.dtype.kind == "u":
        rows = np.add(values[::2], values[1::2], dtype=np.uint16)
        steps: npt.NDArray[Any] = ((rows[:, ::2] + rows[:, 1::2] + np.uint16(2)) >> 2).astype(values.dtype)
        return steps
    if values.dtype == np.float16:  # from a table, because numpy takes twice as long to compute it
        values = np.take(_FLOAT32, values.view(np.uint16))
    halves = values[::2] + values[1::2]
    mean: npt.NDArray[Any] = (halves[:, ::2] + halves[:, 1::2]) * np.float32(0.25)
    return mean


def _squares(window: Window) -> Iterator[tuple[Square, int]]:
    """The chunks of level 1 above a window of level 0, and the number of its pixels in each."""
    side = 2 * CHUNK
    for cy in range(window.y // side, -(-window.stop[0] // side)):
        for cx in range(window.x // side, -(-window.stop[1] // side)):
            part = window.intersection(Window(cy * side, cx * side, side, side))
            yield (cy, cx), part.height * part.width
