"""The reader of OME-Zarr 0.4 and 0.5, also in the layout of bioformats2raw."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf, prod
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.codecs import Crc32cCodec, ShardingCodec
from zarr.codecs._v2 import V2Codec
from zarr.core.sync import sync

from napari_msunet.config.base import ValueRange
from napari_msunet.errors import MsunetError, SlideError
from napari_msunet.slide import ngff
from napari_msunet.slide.backend import (
    RGB,
    Backend,
    Level,
    Pixels,
    SlideInfo,
    chunk_size,
    default_channels,
    level_downsample,
)
from napari_msunet.slide.numbers import BITS, KINDS, Origin, checked_range
from napari_msunet.slide.openslide_backend import damaged

# ----------------------------------------------------------------------------------------------------------------------
# Checking the length in a compressed chunk before it is decoded.
#
# The libraries that decode Blosc and LZ4 trust the length in a chunk's first bytes: a chunk that was cut short gives
# whatever lies behind it in memory, or crashes the process. zlib, zstd, bz2, lzma and crc32c check it themselves.

_BLOSC = struct.Struct("<4B3I")  # versions of format and codec, flags, size of a value; bytes, of a block, in all
_STORED = 0x02
_LZ4 = struct.Struct("<I")
_LARGEST = 2**31 - 1


class ChunkLengthError(MsunetError):
    """A chunk's length contradicts its first bytes or the array."""


def check_blosc(data: Any, expected: int | None = None) -> None:
    """Refuse a Blosc chunk that is cut short, or whose first bytes are impossible.

    Parameters
    ----------
    data : bytes-like
        The whole chunk.
    expected : int, optional
        Number of bytes that it must have when decoded.

    Raises
    ------
    ChunkLengthError
    """
    view = memoryview(data).cast("B")
    plain, packed = blosc_lengths(bytes(view[: _BLOSC.size]))
    if packed != len(view):
        raise ChunkLengthError(f"a Blosc chunk of {packed} bytes has {len(view)}")
    if expected is not None and plain != expected:
        raise ChunkLengthError(f"a Blosc chunk holds {plain} bytes instead of {expected}")
    _, _, flags, width, _, block, _ = _BLOSC.unpack(view[: _BLOSC.size])
    if flags & _STORED:
        if packed != plain + _BLOSC.size:
            raise ChunkLengthError("the lengths in a Blosc chunk contradict each other")
        return
    if not plain:
        return
    if not 0 < block <= max(plain, _BLOSC.size) or not width:
        raise ChunkLengthError("the lengths in a Blosc chunk contradict each other")
    count = -(-plain // block)
    first = _BLOSC.size + 4 * count
    if first > packed:
        raise ChunkLengthError("a Blosc chunk is shorter than the list of its blocks")
    starts = np.frombuffer(view[_BLOSC.size : first], "<i4")
    if starts.min() < first or int(starts.max()) + 4 > packed:
        raise ChunkLengthError("a block of a Blosc chunk lies outside of it")


def blosc_lengths(head: bytes) -> tuple[int, int]:
    """The number of bytes of a Blosc chunk when decoded, and of the chunk itself, from its first 16 bytes.

    Raises
    ------
    ChunkLengthError
        If there are fewer bytes, or they are not those of Blosc.
    """
    if len(head) < _BLOSC.size:
        raise ChunkLengthError(f"a Blosc chunk has {len(head)} bytes")
    version, _, _, _, plain, _, packed = _BLOSC.unpack(head)
    if version not in (1, 2) or plain > _LARGEST:
        raise ChunkLengthError("a chunk does not begin as Blosc's do")
    return plain, packed


def check_lz4(data: Any, expected: int | None = None) -> None:
    """Refuse an LZ4 chunk whose first bytes are impossible, since the decoder allocates the memory that they name."""
    view = memoryview(data).cast("B")
    if len(view) <= _LZ4.size:
        raise ChunkLengthError(f"an LZ4 chunk has {len(view)} bytes")
    (plain,) = _LZ4.unpack(view[: _LZ4.size])
    if plain != expected if expected is not None else plain > 256 * len(view):
        raise ChunkLengthError(f"an LZ4 chunk of {len(view)} bytes says that it holds {plain}")


_CHECKS = {"blosc": check_blosc, "lz4": check_lz4}


def _check_of(codec: Any) -> Any:
    """The check for a codec of zarr or numcodecs; None where the codec checks the length itself."""
    name = getattr(codec, "codec_id", None) or getattr(codec, "codec_name", None) or type(codec).__name__
    return _CHECKS.get(str(name).lower().removeprefix("numcodecs.").removesuffix("codec"))


@dataclass(frozen=True)
class _Checked(BytesBytesCodec):
    """A codec that gets only chunks with correct lengths."""

    inner: BytesBytesCodec
    first: bool
    is_fixed_size = False

    def evolve_from_array_spec(self, array_spec: Any) -> Self:
        return replace(self, inner=self.inner.evolve_from_array_spec(array_spec))

    def to_dict(self) -> dict[str, Any]:
        return self.inner.to_dict()

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        return self.inner.compute_encoded_size(input_byte_length, chunk_spec)

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        expected = prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize if self.first else None
        _check_of(self.inner)(chunk_data.to_bytes(), expected)
        return next(iter(await self.inner.decode([(chunk_data, chunk_spec)])))

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        return next(iter(await self.inner.encode([(chunk_data, chunk_spec)])))


class _CheckedV2(V2Codec):
    """The same for chunks of zarr format 2."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        check = _check_of(self.compressor)
        if check is not None:
            expected = prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize
            check(chunk_bytes.to_bytes(), None if self.filters else expected)
        return await super()._decode_single(chunk_bytes, chunk_spec)


def checked_array(array: Any) -> Any:
    """Make a zarr array check the lengths of its chunks, also in shards, before it decodes them.

    The array itself is changed and returned. Its files are not changed.
    """
    inner = array._async_array
    pipeline = inner.codec_pipeline
    codecs = _checked_codecs([*pipeline.array_array_codecs, pipeline.array_bytes_codec, *pipeline.bytes_bytes_codecs])
    object.__setattr__(inner, "codec_pipeline", type(pipeline).from_codecs(codecs))
    return array


def settle(seconds: float = 2.0) -> None:
    """Wait for chunks that zarr still reads after one has failed, since they would print errors at the process's
    end."""

    async def others() -> None:
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)

    sync(others())


def _checked_codecs(codecs: Iterable[Codec]) -> list[Codec]:
    found: list[Codec] = []
    packed = False
    for codec in codecs:
        if isinstance(codec, ShardingCodec):
            found.append(replace(codec, codecs=tuple(_checked_codecs(codec.codecs))))
        elif isinstance(codec, V2Codec):
            found.append(_CheckedV2(filters=codec.filters, compressor=codec.compressor))
        elif isinstance(codec, BytesBytesCodec) and _check_of(codec) is not None:
            found.append(_Checked(codec, first=not packed))
        else:
            found.append(codec)
        packed |= isinstance(codec, BytesBytesCodec) and not isinstance(codec, Crc32cCodec)
    return found


# ----------------------------------------------------------------------------------------------------------------------
# The reader of OME-Zarr and plain zarr.

BACKGROUND = "background"
OWN_KEY = "napari_msunet"
"""The key of our own attributes, beside those of OME."""


class ZarrBackend(Backend):
    """The first image of an OME-Zarr folder, at the first plane of time and depth."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            group = zarr.open_group(path, mode="r")
            attributes = dict(group.attrs)
            inner = ngff.image_group(attributes, _series(group))
            if inner is not None:
                group = self._child(group, inner, zarr.Group)
                attributes = dict(group.attrs)
            if not ngff.is_image(attributes):
                raise SlideError(
                    f"{path} is a zarr folder without an OME-Zarr image (0.4 or 0.5) in it; "
                    "give the folder of an image."
                )
            self._pyramid = ngff.read_pyramid(attributes, path)
            self._arrays = [checked_array(self._child(group, name, zarr.Array)) for name in self._pyramid.paths]
        except SlideError:
            raise
        except Exception as error:  # zarr and its codecs raise many kinds of errors
            raise damaged(path, error) from error
        self.info = self._info(attributes)

    def _child(self, group: Any, name: str, kind: type) -> Any:
        """The array or group of this name below a group."""
        if name not in group or not isinstance(group[name], kind):
            raise SlideError(f"{self._path} lacks {name!r}, which its metadata name; copy the folder again, whole.")
        return group[name]

    def _info(self, attributes: dict[str, Any]) -> SlideInfo:
        pyramid, first = self._pyramid, self._arrays[0]
        dtype = np.dtype(first.dtype).newbyteorder("=")
        if dtype.kind == "b":
            dtype = np.dtype(np.uint8)
        if any(a.ndim != len(pyramid.axes) for a in self._arrays) or dtype.kind not in "uif" or 0 in first.shape:
            raise SlideError(
                f"{self._path} has arrays of {first.ndim} axes and type {first.dtype}, which is no image of the axes "
                f"{', '.join(pyramid.axes)}; write it again with a current tool."
            )
        self._y, self._x = pyramid.axes.index("y"), pyramid.axes.index("x")
        self._c = pyramid.axes.index("c") if "c" in pyramid.axes else None
        count = 1 if self._c is None else first.shape[self._c]
        colour = pyramid.colour and count == 3
        channels = pyramid.channels if pyramid.channels and len(pyramid.channels) == count else None
        levels = []
        full = (first.shape[self._y], first.shape[self._x])
        for number, array in enumerate(self._arrays):
            shape = (array.shape[self._y], array.shape[self._x])
            native = (array.chunks[self._y], array.chunks[self._x])
            chunk = chunk_size(native, shape, count * dtype.itemsize)
            levels.append(Level(shape, self._downsample(number, full, shape), chunk))
        own = attributes.get(OWN_KEY)
        own = own if isinstance(own, dict) else {}
        background = np.asarray(own[BACKGROUND]).astype(dtype) if len(own.get(BACKGROUND) or ()) == count else None
        kind, value_range = own.get("kind"), own.get("value_range") or _from_window(pyramid.window, dtype)
        self._all_written = BACKGROUND in own and all(array.shards is None for array in self._arrays)
        return SlideInfo(
            tuple(levels),
            dtype,
            RGB if colour else channels or default_channels(count, False),
            pyramid.mpp,
            background,
            {"axes": "".join(pyramid.axes), "name": pyramid.name},
            kind if kind in KINDS else None,
            None if value_range is None else checked_range(value_range),
            _origin(own.get("kind_from")),
            _origin(own.get("range_from")),
            OWN_KEY in attributes,  # the size was believed or given when the file was written
        )

    def _downsample(self, number: int, full: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float]:
        """The ratio of the levels' scales, unless it contradicts their shapes by more than a pixel."""
        scales = self._pyramid.scales
        if not all(0 < v < inf for v in (*scales[number], *scales[0])):
            return level_downsample(full, shape)
        ratio = scales[number][0] / scales[0][0], scales[number][1] / scales[0][1]
        nearest = round(ratio[0]), round(ratio[1])
        if all(abs(r - n) < 1e-6 for r, n in zip(ratio, nearest, strict=True)):
            ratio = float(nearest[0]), float(nearest[1])
        if all(abs(n / r - s) <= 1 for n, r, s in zip(full, ratio, shape, strict=True)):
            return ratio
        return level_downsample(full, shape)

    def read_chunk(self, level: int, cy: int, cx: int) -> Pixels:
        y, x, height, width = self.chunk_box(level, cy, cx)
        array = self._arrays[level]
        index: list[Any] = [0] * array.ndim
        index[self._y], index[self._x] = slice(y, y + height), slice(x, x + width)
        if self._c is not None:
            index[self._c] = slice(None)
        if self._all_written:
            self._need_files(level, (y, x, height, width))
        try:
            pixels = np.asarray(array[tuple(index)])
        except Exception as error:  # codecs raise many kinds of errors
            settle()
            raise self._damaged(level, index, error) from error
        kept = [a for a in (self._c, self._y, self._x) if a is not None]
        order = [sorted(kept).index(a) for a in (self._y, self._x, self._c) if a is not None]
        pixels = pixels.transpose(order)
        if array.dtype.kind == "b":
            pixels = pixels.astype(np.uint8) * np.uint8(255)
        return np.array(pixels, self.info.dtype, order="C").reshape(height, width, -1)

    def _damaged(self, level: int, index: list[Any], error: Exception) -> SlideError:
        """The error about a window that cannot be read, which names its damaged chunks."""
        array, found = self._arrays[level], []
        for y, x in self._chunks_of(level, index[self._y], index[self._x]):
            part = list(index)
            part[self._y], part[self._x] = y, x
            try:
                array[tuple(part)]
            except Exception:  # as above
                settle()
                found.append((y, x))
        return damaged(self._path, error, _told(level, found))

    def _chunks_of(self, level: int, rows: slice, columns: slice) -> list[tuple[slice, slice]]:
        """The chunks that a window touches, each cut to it."""
        sides = self._arrays[level].chunks[self._y], self._arrays[level].chunks[self._x]
        cuts = [
            [slice(max(n, s.start), min(n + side, s.stop)) for n in range(s.start // side * side, s.stop, side)]
            for s, side in zip((rows, columns), sides, strict=True)
        ]
        return [(y, x) for y in cuts[0] for x in cuts[1]]

    def _need_files(self, level: int, box: tuple[int, int, int, int]) -> None:
        """Refuse a window with a missing chunk in a pyramid of ours, because zarr would read it as 0."""
        array = self._arrays[level]
        channels = -(-array.shape[self._c] // array.chunks[self._c]) if self._c is not None else 1
        rows, columns = slice(box[0], box[0] + box[2]), slice(box[1], box[1] + box[3])
        lost = []
        for y, x in self._chunks_of(level, rows, columns):
            for channel in range(channels):
                key = [0] * array.ndim
                key[self._y], key[self._x] = y.start // array.chunks[self._y], x.start // array.chunks[self._x]
                if self._c is not None:
                    key[self._c] = channel
                name = array.metadata.encode_chunk_key(tuple(key))
                if not (self._path / array.path / name).is_file():
                    lost.append((y, x))
        if lost:
            raise damaged(self._path, FileNotFoundError("a chunk's file is missing"), _told(level, lost))


def _told(level: int, found: list[tuple[slice, slice]]) -> str:
    """The places of damaged chunks, in words."""
    places = list(dict.fromkeys(f"y {y.start} to {y.stop}, x {x.start} to {x.stop}" for y, x in found))
    of = f" of level {level}" if level else ""
    return "; ".join(places[:3]) + (of if places else "")


def _origin(text: Any) -> Origin:
    """The source of a decision that a pyramid of ours keeps."""
    return text if text in ("guess", "person") else "file"


def _from_window(window: tuple[float, float] | None, dtype: np.dtype[Any]) -> ValueRange | None:
    """The range from the display window of all channels, where it is that of a number of bits, or 0 to 1 for floats.

    Other windows are the smallest and largest value of the one image.
    """
    if window is None or window[0] != 0:
        return None
    tops = {float(2**bits - 1) for bits in BITS if dtype.kind == "f" or 2**bits - 1 < np.iinfo(dtype).max}
    return window if window[1] in tops else None


def _series(group: Any) -> dict[str, Any] | None:
    """The attributes of the group `OME`, in which bioformats2raw lists the images."""
    return dict(group["OME"].attrs) if "OME" in group else None
