"""The chunk files of a zarr array, one by one.

zarr makes the arrays and any zarr reader opens them. Their chunks are read and written here, because only so can a
batch of them be written aside, synced and renamed, and a damaged one be named.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]
from zarr.codecs import ZstdCodec

from napari_msunet.errors import StoreError
from napari_msunet.labels.files import write_aside

CHUNK = 512
"""Side of a chunk in pixels."""


class DamagedChunkError(StoreError):
    """A chunk's file does not decode."""


_LEVEL = 1
_CODEC = Zstd(level=_LEVEL)


def create_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike, axes: tuple[str, ...]) -> ChunkFiles:
    """Make an empty zarr v3 array in chunks of `CHUNK` x `CHUNK` pixels (leading axes: one to a chunk)."""
    files = ChunkFiles(path, shape, np.dtype(dtype))
    zarr.create_array(
        store=str(path),
        shape=shape,
        chunks=files.chunk_shape,
        dtype=files.dtype,
        fill_value=False if files.dtype == np.bool_ else 0,
        compressors=ZstdCodec(level=_LEVEL, checksum=False),
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
        codecs = [codec for codec in array.compressors if isinstance(codec, ZstdCodec)]
    except Exception as error:
        raise StoreError(f"{metadata} is damaged: copy the store again from where it came from.") from error
    found = (array.shape, array.chunks, array.dtype, len(codecs), array.shards)
    if found != (shape, files.chunk_shape, files.dtype, 1, None):
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
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
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
        """Where a chunk lies."""
        return self.path.joinpath("c", *map(str, key))

    def read(self, *key: int) -> npt.NDArray[Any] | None:
        """A chunk's `(CHUNK, CHUNK)` values, or None where it is absent: all zero."""
        path = self.file(*key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror}); check the disk.") from error
        try:
            values = np.frombuffer(_CODEC.decode(data), self.dtype.newbyteorder("<"))
            return values.astype(self.dtype).reshape(CHUNK, CHUNK)
        except (RuntimeError, ValueError) as error:
            raise DamagedChunkError(
                f"{path} is damaged (cut short?): its pixels read as 0; copy this file again from where it came from, "
                "or paint over them."
            ) from error

    def encode(self, values: npt.NDArray[Any]) -> bytes:
        """A chunk as its file's bytes: none for a chunk of zeros."""
        if not values.any():
            return b""
        return bytes(_CODEC.encode(np.ascontiguousarray(values, self.dtype.newbyteorder("<"))))

    def stage(self, folder: Path, values: npt.NDArray[Any]) -> Path | None:
        """Write a chunk aside into `folder` (on the same disk); None for a chunk of zeros, which has no file."""
        data = self.encode(values)
        if not data:
            return None
        aside = folder / f"{uuid.uuid4().hex}.partial"
        write_aside(aside, data)
        return aside

    def put_by(self, folder: Path, *key: int) -> None:
        """Move a damaged chunk into a folder, where it is out of the way and not lost."""
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
