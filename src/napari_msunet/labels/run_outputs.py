"""What a run can hold, and the chunk files it is held in: an OME-Zarr pyramid for each output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import Blosc
from zarr.codecs import BloscCodec, Crc32cCodec

from napari_msunet.errors import StoreError
from napari_msunet.labels.chunks import CHECKSUM, CHUNK, ChunkFiles, DamagedChunkError
from napari_msunet.labels.metadata import StoreInfo, save_attributes
from napari_msunet.slide.chunk_checks import ChunkLengthError, blosc_lengths, check_blosc
from napari_msunet.slide.ngff import image_attributes

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

    def read(self, *key: int) -> npt.NDArray[Any] | None:
        """A chunk's `(CHUNK, CHUNK)` values, not to be changed, or None where it is absent: all zero."""
        path = self.file(*key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror}); check the disk.") from error
        try:
            packed = self._checked(data)
            check_blosc(packed, self._size)
            values = np.frombuffer(self._codec.decode(packed), self.dtype.newbyteorder("<"))
            return values.astype(self.dtype, copy=False).reshape(CHUNK, CHUNK)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise DamagedChunkError(
                f"{path} is damaged (cut short?): predict again to have its pixels computed."
            ) from error

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
