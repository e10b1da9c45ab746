"""What a compressed chunk says about its own length, looked at before a decoder is given it.

Blosc and LZ4 are decoded by libraries that trust the length in a chunk's first bytes: a chunk that was cut short gives
whatever lies behind it in memory, or ends the process. zlib, zstd, bz2, lzma and crc32c find out by themselves.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Self

import numpy as np
from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.codecs import Crc32cCodec, ShardingCodec
from zarr.codecs._v2 import V2Codec  # zarr has no public name for what decodes the chunks of its version 2
from zarr.core.sync import sync

from napari_msunet.errors import MsunetError

_BLOSC = struct.Struct("<4B3I")  # versions of format and codec, flags, size of a value; bytes, of a block, in all
_STORED = 0x02
_LZ4 = struct.Struct("<I")
_LARGEST = 2**31 - 1


class ChunkLengthError(MsunetError):
    """A chunk's length contradicts what its first bytes, or the array, say."""


def check_blosc(data: Any, expected: int | None = None) -> None:
    """Refuse a Blosc chunk that is cut short, or whose first bytes cannot be true.

    Parameters
    ----------
    data : bytes-like
        The whole chunk.
    expected : int, optional
        Bytes that it must have when it is decoded.

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
    """Bytes of a Blosc chunk once decoded, and of the chunk itself, from its first 16 bytes.

    Raises
    ------
    ChunkLengthError
        If there are fewer, or they are none of Blosc's.
    """
    if len(head) < _BLOSC.size:
        raise ChunkLengthError(f"a Blosc chunk has {len(head)} bytes")
    version, _, _, _, plain, _, packed = _BLOSC.unpack(head)
    if version not in (1, 2) or plain > _LARGEST:
        raise ChunkLengthError("a chunk does not begin as Blosc's do")
    return plain, packed


def check_lz4(data: Any, expected: int | None = None) -> None:
    """Refuse an LZ4 chunk whose first bytes cannot be true: it is asked for that much memory."""
    view = memoryview(data).cast("B")
    if len(view) <= _LZ4.size:
        raise ChunkLengthError(f"an LZ4 chunk has {len(view)} bytes")
    (plain,) = _LZ4.unpack(view[: _LZ4.size])
    if plain != expected if expected is not None else plain > 256 * len(view):
        raise ChunkLengthError(f"an LZ4 chunk of {len(view)} bytes says that it holds {plain}")


_CHECKS = {"blosc": check_blosc, "lz4": check_lz4}


def _check_of(codec: Any) -> Any:
    """The check for a codec of zarr or numcodecs; None: it checks itself."""
    name = getattr(codec, "codec_id", None) or getattr(codec, "codec_name", None) or type(codec).__name__
    return _CHECKS.get(str(name).lower().removeprefix("numcodecs.").removesuffix("codec"))


@dataclass(frozen=True)
class _Checked(BytesBytesCodec):
    """A codec that sees only chunks whose lengths are right."""

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
    """The same for the chunks of zarr 2."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        check = _check_of(self.compressor)
        if check is not None:
            expected = prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize
            check(chunk_bytes.to_bytes(), None if self.filters else expected)
        return await super()._decode_single(chunk_bytes, chunk_spec)


def checked_array(array: Any) -> Any:
    """A zarr array that looks at the lengths of its chunks, also in shards, before it decodes them.

    The array itself is changed and given back. Nothing of this is written.
    """
    inner = array._async_array
    pipeline = inner.codec_pipeline
    codecs = _checked_codecs([*pipeline.array_array_codecs, pipeline.array_bytes_codec, *pipeline.bytes_bytes_codecs])
    object.__setattr__(inner, "codec_pipeline", type(pipeline).from_codecs(codecs))
    return array


def settle(seconds: float = 2.0) -> None:
    """Wait for what zarr still reads after a chunk has failed: the end of the process would tell of it at length."""

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
