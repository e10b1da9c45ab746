"""The records of a journal, to and from bytes.

A record is a header (magic, kind, flags, sequence number, window, length and check sums) and a zstd-compressed payload.
A stroke over a large window is several records with one sequence number; the last one carries a flag.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window

MAGIC = b"MSJ1"
LAST = 1
_HEADER = struct.Struct("<4sBBHQ4IQI")
_CHECK = struct.Struct("<I")
HEADER_SIZE = _HEADER.size + _CHECK.size
_CODEC = Zstd(level=1)


class Kind(IntEnum):
    """What a record tells."""

    STROKE = 1
    RELEASE = 2
    UNDO = 3
    REDO = 4
    MERGE = 5
    HISTORY = 6


@dataclass(frozen=True)
class Header:
    """The fixed part of a record."""

    kind: Kind
    last: bool
    sequence: int
    window: Window
    length: int
    check: int

    @property
    def size(self) -> int:
        """Bytes of the whole record."""
        return HEADER_SIZE + self.length


@dataclass(frozen=True)
class Patch:
    """A change of the pixels of a window, and what was there.

    Attributes
    ----------
    values, edited : array of the window's shape, or one value
        What the pixels and their `edited` become.
    mask : (h, w) bool, optional
        Which pixels change; None: all.
    before, edited_before : array, one value or None
        What they were; not kept for an undo or redo.
    """

    window: Window
    values: npt.NDArray[Any] | int
    edited: npt.NDArray[np.bool_] | bool = True
    mask: npt.NDArray[np.bool_] | None = None
    before: npt.NDArray[Any] | int | None = None
    edited_before: npt.NDArray[np.bool_] | bool | None = None


def parse_header(data: bytes) -> Header | None:
    """The header at the start of `data`, or None if there is no whole one."""
    if len(data) < HEADER_SIZE or data[:4] != MAGIC:
        return None
    if zlib.crc32(data[: _HEADER.size]) != _CHECK.unpack_from(data, _HEADER.size)[0]:
        return None
    _, kind, flags, _, sequence, y, x, height, width, length, check = _HEADER.unpack_from(data)
    return Header(Kind(kind), bool(flags & LAST), sequence, Window(y, x, height, width), length, check)


def _record(kind: Kind, sequence: int, window: Window, payload: bytes, last: bool) -> bytes:
    header = _HEADER.pack(
        MAGIC,
        kind,
        LAST if last else 0,
        0,
        sequence,
        *(window.y, window.x, *window.shape),
        len(payload),
        zlib.crc32(payload),
    )
    return header + _CHECK.pack(zlib.crc32(header)) + payload


def pack_patch(kind: Kind, sequence: int, patch: Patch, last: bool) -> bytes:
    """A record of changed pixels."""
    planes = (patch.values, patch.edited, patch.mask, patch.before, patch.edited_before)
    payload = b"".join(_pack_plane(plane) for plane in planes)
    return _record(kind, sequence, patch.window, bytes(_CODEC.encode(payload)), last)


def pack_note(kind: Kind, sequence: int, note: dict[str, Any]) -> bytes:
    """A record that holds JSON."""
    return _record(kind, sequence, Window(0, 0, 0, 0), bytes(_CODEC.encode(json.dumps(note).encode())), True)


def unpack_note(payload: bytes) -> dict[str, Any]:
    """The JSON of a `pack_note` record."""
    note: dict[str, Any] = json.loads(_CODEC.decode(payload))
    return note


def unpack_patch(header: Header, payload: bytes, dtype: np.dtype[Any]) -> Patch:
    """The pixels of a `pack_patch` record of a store of this type."""
    data = memoryview(_CODEC.decode(payload))
    shape = header.window.shape
    values, data = _unpack_plane(data, shape, dtype)
    edited, data = _unpack_plane(data, shape, np.dtype(bool))
    mask, data = _unpack_plane(data, shape, np.dtype(bool))
    before, data = _unpack_plane(data, shape, dtype)
    edited_before, data = _unpack_plane(data, shape, np.dtype(bool))
    if values is None or edited is None or data:
        raise StoreError(f"Record {header.sequence} of the journal does not hold what a {header.kind.name} holds.")
    return Patch(header.window, values, edited, None if mask is True else mask, before, edited_before)


def _pack_plane(plane: Any) -> bytes:
    """Nothing, one value, or all values (booleans eight to a byte)."""
    if plane is None:
        return b"n"
    if not isinstance(plane, np.ndarray):
        return b"s" + struct.pack("<I", int(plane))
    first = plane[0, 0]
    if plane.dtype == np.bool_:
        if first == plane.all() and first == plane.any():
            # a mask that is true everywhere stays a mask of one value
            return b"s" + struct.pack("<I", int(first))
        return b"a" + np.packbits(plane).tobytes()
    if (plane == first).all():
        return b"s" + struct.pack("<I", int(first))
    return b"a" + np.ascontiguousarray(plane, plane.dtype.newbyteorder("<")).tobytes()


def _unpack_plane(data: memoryview, shape: tuple[int, int], dtype: np.dtype[Any]) -> tuple[Any, memoryview]:
    """The first plane in `data`, and the rest."""
    tag, data = bytes(data[:1]), data[1:]
    count = shape[0] * shape[1]
    if tag == b"n":
        return None, data
    if tag == b"s":
        value = struct.unpack("<I", data[:4])[0]
        return (bool(value) if dtype == np.bool_ else int(value)), data[4:]
    if tag != b"a":
        raise StoreError("A record of the journal is damaged.")
    if dtype == np.bool_:
        size = -(-count // 8)
        bits = np.unpackbits(np.frombuffer(data[:size], np.uint8), count=count)
        return bits.astype(np.bool_).reshape(shape), data[size:]
    size = count * dtype.itemsize
    values = np.frombuffer(data[:size], dtype.newbyteorder("<")).astype(dtype)
    return values.reshape(shape), data[size:]
