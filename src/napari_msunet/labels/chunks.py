"""Reading and writing the chunk files of a zarr array one by one, and lazy arrays over them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.zstd import Zstd
from zarr.codecs import Crc32cCodec, ZstdCodec

from napari_msunet._io import input_error, write_aside
from napari_msunet.constants import CHUNK
from napari_msunet.errors import MsunetError, StoreError
from napari_msunet.geometry import Window

if TYPE_CHECKING:
    import dask.array as da
# ----------------------------------------------------------------------------------------------------------------------
# The chunk files of a zarr array, one by one.
#
# zarr makes the arrays and any zarr reader opens them. Their chunks are read and written here, because only so can a
# batch of them be written aside, synced and renamed (together, so not by `_io.aside`), and a damaged one be named.


class CorruptChunkError(StoreError):
    """A chunk's file cannot be decoded."""


CHECKSUM = 4
"""Bytes of the checksum (CRC32C, the last codec of zarr) at the end of a chunk."""


class ChecksumError(MsunetError):
    """A chunk's checksum is not that of its bytes."""


_LEVEL = 1
_CODEC = Zstd(level=_LEVEL)


def create_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike, axes: tuple[str, ...]) -> ChunkFiles:
    """Make an empty zarr v3 array in chunks of `CHUNK` x `CHUNK` pixels (leading axes: one to a chunk)."""
    files = ChunkFiles(path, shape, np.dtype(dtype), checksum=True)
    zarr.create_array(
        store=str(path),
        shape=shape,
        chunks=files.chunk_shape,
        dtype=files.dtype,
        fill_value=False if files.dtype == np.bool_ else 0,
        compressors=(ZstdCodec(level=_LEVEL, checksum=False), Crc32cCodec()),
        dimension_names=axes,
    )
    return files


def open_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> ChunkFiles:
    """The chunk files of an array that `create_array` made.

    Raises
    ------
    StoreError
        If its metadata is missing, damaged or not as it was made.
    """
    files = ChunkFiles(path, shape, np.dtype(dtype))
    metadata = path / "zarr.json"
    if not metadata.is_file():
        raise StoreError(f"{metadata} is missing: the store is damaged; copy it again from where it came from.")
    try:
        array = zarr.open_array(store=str(path), mode="r")
        codecs = [type(codec) for codec in array.compressors]
    except Exception as error:
        raise StoreError(f"{metadata} is damaged: copy the store again from where it came from.") from error
    files.checksum = Crc32cCodec in codecs  # stores made before there were checksums have none
    found = (array.shape, array.chunks, array.dtype, codecs[:1], array.shards)
    if found != (shape, files.chunk_shape, files.dtype, [ZstdCodec], None):
        raise StoreError(
            f"{metadata} describes an array of shape {array.shape} and type {array.dtype} in chunks {array.chunks}; "
            f"{shape}, {files.dtype} and {files.chunk_shape} are expected: was it changed by another tool?"
        )
    return files


@dataclass
class ChunkFiles:
    """The chunk files of one array.

    Parameters
    ----------
    path : Path
        Folder of the array.
    shape : tuple of int
        The last two axes are y and x.
    dtype : numpy.dtype
    checksum : bool
        Whether each chunk ends with one.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    checksum: bool = False
    _folders: set[Path] = field(default_factory=set, repr=False)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk; those at the edge are filled up with zeros."""
        return (1,) * (len(self.shape) - 2) + (CHUNK, CHUNK)

    @property
    def counts(self) -> tuple[int, int]:
        """Number of chunks along y and x."""
        return -(-self.shape[-2] // CHUNK), -(-self.shape[-1] // CHUNK)

    def file(self, *key: int) -> Path:
        """The path of a chunk's file."""
        return self.path.joinpath("c", *map(str, key))

    def read(self, *key: int) -> npt.NDArray[Any] | None:
        """A chunk's `(CHUNK, CHUNK)` values, or None where it is absent: all zero."""
        path = self.file(*key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise input_error(path, error, "check the disk", StoreError) from error
        try:
            return self._decoded(self._checked(data)).reshape(CHUNK, CHUNK)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise CorruptChunkError(f"{path} is damaged (cut short?): {self.remedy}.") from error

    remedy: ClassVar[str] = "its pixels read as 0; copy this file again from where it came from, or paint over them"
    """What a person can do about a damaged chunk, for the end of the error."""

    def _decoded(self, packed: bytes) -> npt.NDArray[Any]:
        """A chunk's values, flat."""
        return np.frombuffer(_CODEC.decode(packed), self.dtype.newbyteorder("<")).astype(self.dtype)

    def _checked(self, data: bytes) -> bytes:
        """A chunk's bytes without the checksum, which is checked."""
        if not self.checksum:
            return data
        packed, told = data[:-CHECKSUM], data[-CHECKSUM:]
        if len(told) < CHECKSUM or google_crc32c.value(packed) != int.from_bytes(told, "little"):
            raise ChecksumError("the checksum is another one")
        return packed

    def _sealed(self, packed: bytes) -> bytes:
        """A chunk's bytes with their checksum, where this array has one."""
        return packed + google_crc32c.value(packed).to_bytes(CHECKSUM, "little") if self.checksum else packed

    def present(self) -> set[tuple[int, ...]]:
        """Keys of the chunks that have files."""
        depth, found = len(self.shape), set()
        for path in self.path.glob("/".join(["c", *["*"] * depth])):
            parts = path.parts[-depth:]
            if all(part.isdigit() for part in parts):
                found.add(tuple(map(int, parts)))
        return found

    def encode(self, values: npt.NDArray[Any]) -> bytes:
        """The bytes of a chunk's file; empty for a chunk of zeros, which has no file."""
        if not values.any():
            return b""
        return self._sealed(bytes(_CODEC.encode(np.ascontiguousarray(values, self.dtype.newbyteorder("<")))))

    def stage(self, folder: Path, values: npt.NDArray[Any]) -> Path | None:
        """Write a chunk aside into `folder` (on the same disk); None for a chunk of zeros, which has no file."""
        data = self.encode(values)
        if not data:
            return None
        aside = folder / f"{uuid.uuid4().hex}.partial"
        write_aside(aside, data)
        return aside

    def put_by(self, folder: Path, *key: int) -> None:
        """Move the file of a damaged chunk into a folder, where it is kept."""
        path = self.file(*key)
        if path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            os.replace(path, folder / "-".join([*path.parent.relative_to(self.path.parent).parts, path.name]))

    def commit(self, aside: Path | None, *key: int) -> Path:
        """Give a staged chunk its name."""
        path = self.file(*key)
        if aside is None:
            path.unlink(missing_ok=True)
            return path
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        os.replace(aside, path)
        return path


# ----------------------------------------------------------------------------------------------------------------------
# An array behind a function that reads a window of it.

TILE = 2048
"""Side of a dask chunk: a few hundred to a few thousand of them for the largest slides."""


class WindowArray:
    """An array `y x` or `y x c` behind a function that reads a window of it.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    read : callable
        From a window inside the array to its values.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: npt.DTypeLike, read: Callable[[Window], npt.NDArray[Any]]
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.ndim = len(shape)
        self._read = read

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        parts = index if isinstance(index, tuple) else (index,)
        if any(part is Ellipsis for part in parts):
            at = next(i for i, part in enumerate(parts) if part is Ellipsis)
            parts = parts[:at] + (slice(None),) * (self.ndim - len(parts) + 1) + parts[at + 1 :]
        parts += (slice(None),) * (self.ndim - len(parts))
        (y0, y1, y), (x0, x1, x) = _bounds(parts[0], self.shape[0]), _bounds(parts[1], self.shape[1])
        values = self._read(Window(y0, x0, y1 - y0, x1 - x0))
        for axis, part in reversed(list(enumerate((y, x, *parts[2:])))):
            values = values[(slice(None),) * axis + (part,)]
        return values

    def dask(self) -> da.Array:
        """The same as a lazy dask array in chunks of `TILE` pixels, all channels in one."""
        chunks = (TILE, TILE, *self.shape[2:])
        import dask.array as da  # importing it takes a second, so only where it is needed

        array: da.Array = da.from_array(self, chunks, name=False, asarray=False, lock=False)  # type: ignore[no-untyped-call]
        return array


def _bounds(part: Any, size: int) -> tuple[int, int, Any]:
    """First and end of what an index takes along an axis, and the index counted from there."""
    if isinstance(part, slice):
        taken = range(size)[part]
        if not taken:
            return 0, 0, slice(0, 0)
        low, high = min(taken[0], taken[-1]), max(taken[0], taken[-1])
        return low, high + 1, slice(None, None, taken.step)
    places = np.asarray(part)
    if places.dtype == np.bool_:
        places = np.flatnonzero(places)
    if places.size == 0:
        return 0, 0, places.astype(np.intp)
    places = np.where(places < 0, places + size, places)
    low = int(places.min())
    return low, int(places.max()) + 1, int(places - low) if places.ndim == 0 else places - low
