"""The append-only journal of a label store, which makes a stroke safe before its pixels reach the chunks.

Records, their files, undo and redo (which strokes stand and which were taken back) and the journal itself are in one
module, since none of them can be understood without the others.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from napari_msunet._io import output_error, output_errors, sync_path, write_all
from napari_msunet.errors import OutputError, StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.cache import ChunkCache
from napari_msunet.labels.levels import tiles

# ----------------------------------------------------------------------------------------------------------------------
# The records of a journal, to and from bytes.
#
# A record is a header (magic, kind, flags, sequence number, window, length and check sums) and a zstd-compressed
# payload. A stroke over a large window is several records with one sequence number; the last one carries a flag.

MAGIC = b"MSJ1"
LAST = 1
_HEADER = struct.Struct("<4sBBHQ4IQI")
_CHECK = struct.Struct("<I")
HEADER_SIZE = _HEADER.size + _CHECK.size
_CODEC = Zstd(level=1)


class Kind(IntEnum):
    """The kinds of records."""

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
    """A change of the pixels of a window, with the values before it.

    Attributes
    ----------
    values, edited : array of the window's shape, or one value
        The new values of the pixels and of their `edited`.
    mask : (h, w) bool, optional
        Which pixels change; None: all.
    before, edited_before : array, one value or None
        The values before; not kept for an undo or redo.
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


# ----------------------------------------------------------------------------------------------------------------------
# Cutting the change of a stroke into parts for the journal.

Change = tuple[Window, Any, npt.NDArray[np.bool_] | None]
"""A window, its values (None: those of the merged runs) and a mask of the pixels that change."""


def cut(window: Window, values: Any, mask: npt.NDArray[np.bool_] | None, side: int) -> Iterator[Change]:
    """A change in parts of at most `side` pixels, each in one chunk if it is large; none where nothing changes."""
    whole = max(window.shape) <= side
    for part in [window] if whole else tiles(window, side):
        place = part.slices((window.y, window.x))
        part_mask = None if mask is None else mask[place]
        if part_mask is not None:
            if not part_mask.any():
                continue
            part_mask = None if part_mask.all() else part_mask
        part_values = values
        if values is not None and np.ndim(values):
            part_values = values[place]
            if part_mask is None and (part_values == part_values[0, 0]).all():
                part_values = int(part_values[0, 0])
        yield part, part_values, part_mask


# ----------------------------------------------------------------------------------------------------------------------
# The history of undo and redo, which is linear, unlimited and kept over sessions.

Machine = Callable[[Window], npt.NDArray[Any] | int]
"""A function from a window to the values of the newest merged runs there: an array or one value."""


class UndoHistory:
    """Sequence numbers of strokes and releases: `undo` those that can be undone, `redo` those undone, the next one
    last."""

    def __init__(self, undo: Iterable[int] = (), redo: Iterable[int] = ()) -> None:
        self.undo = list(undo)
        self.redo = list(redo)
        self.latest = max([0, *self.undo, *self.redo])

    @property
    def needed(self) -> set[int]:
        """All strokes that can still be undone or redone."""
        return {*self.undo, *self.redo}

    def keep(self, sequences: Container[int]) -> None:
        """Forget strokes whose records were lost."""
        self.undo = [s for s in self.undo if s in sequences]
        self.redo = [s for s in self.redo if s in sequences]

    def forget(self, sequence: int) -> None:
        """Leave out a stroke whose record turned out to be damaged."""
        self.undo = [s for s in self.undo if s != sequence]
        self.redo = [s for s in self.redo if s != sequence]

    def follow(self, kind: Kind, sequence: int) -> None:
        """Update the history by one record."""
        self.latest = max(self.latest, sequence)
        if kind in (Kind.STROKE, Kind.RELEASE):
            self.undo.append(sequence)
            self.redo.clear()
        elif kind is Kind.UNDO and self.undo:
            self.redo.append(self.undo.pop())
        elif kind is Kind.REDO and self.redo:
            self.undo.append(self.redo.pop())


def done(kind: Kind, part: Change, cache: ChunkCache, machine: Machine) -> Patch:
    """The change of one window by a stroke, or by a release (values: None), which shows the merged runs again."""
    window, values, mask = part
    new = machine(window) if values is None else values
    edited = cache.part("edited", 0, window)
    was: Any = bool(edited) if isinstance(edited, int) else edited
    return Patch(window, new, kind is Kind.STROKE, mask, cache.part("labels", 0, window), was)


def undone(patch: Patch, machine: Machine, dtype: np.dtype[Any]) -> Patch:
    """The change by undoing a stroke: edited pixels get their old values, others those of the merged runs."""
    before, edited = patch.before, patch.edited_before
    if before is not None and edited is True:
        return Patch(patch.window, before, True, patch.mask)
    base = machine(patch.window)
    if before is None or edited is None or edited is False:
        return Patch(patch.window, base, False, patch.mask)
    values = np.where(edited, np.asarray(before, dtype), np.asarray(base, dtype))
    return Patch(patch.window, values, edited, patch.mask)


def redone(kind: Kind, patch: Patch, machine: Machine) -> Patch:
    """The change by redoing a stroke; a release shows the merged runs again."""
    if kind is Kind.RELEASE:
        return Patch(patch.window, machine(patch.window), False, patch.mask)
    return Patch(patch.window, patch.values, True, patch.mask)


# ----------------------------------------------------------------------------------------------------------------------
# The files of a journal: the places of its records in them, and damaged records.


class Mark(NamedTuple):
    """A place in the journal: after the record of this sequence number, at this byte of this segment."""

    sequence: int
    segment: int
    offset: int


@dataclass(frozen=True)
class RecordPlace:
    """The place of a record: a byte of a segment, or (segment 0) of the records that wait in memory."""

    segment: int
    offset: int
    header: Header


Records = dict[int, tuple[RecordPlace, ...]]
"""The places of each stroke's parts, by its sequence number."""


def segment_file(folder: Path, number: int) -> Path:
    """The path of a segment."""
    return folder / f"{number:08d}.log"


def segment_numbers(folder: Path) -> list[int]:
    """Numbers of a journal's segments, in order."""
    return sorted(int(path.stem) for path in folder.glob("*.log") if path.stem.isdigit())


def grew_since(folder: Path, mark: Mark) -> bool:
    """Whether records were added after `mark`."""
    numbers = segment_numbers(folder)
    if not numbers:
        return False
    if numbers[-1] != mark.segment:
        return True
    return segment_file(folder, numbers[-1]).stat().st_size > mark.offset


def described(header: Header) -> str:
    """A record in words."""
    w = header.window
    where = "" if w.empty else f" at y {w.y}, x {w.x}, {w.height} x {w.width} pixels"
    return f"{header.kind.name.lower()} {header.sequence}{where}"


@dataclass
class Scan:
    """The records in the segments of a journal.

    Parameters
    ----------
    folder : Path
    checked_after : int
        The checksums of records with higher sequence numbers are checked.

    Attributes
    ----------
    segment, end : int
        The last segment, and where its last whole stroke ends.
    outdated : list of int
        Segments that a compaction has replaced but not removed.
    damaged : bool
        Whether more than the end of the last segment is damaged.
    """

    folder: Path
    checked_after: int
    records: Records = field(default_factory=dict)
    history: UndoHistory = field(default_factory=UndoHistory)
    messages: list[str] = field(default_factory=list)
    damaged: bool = False
    segment: int = 1
    end: int = 0
    outdated: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = segment_numbers(self.folder)
        base = next((n for n in reversed(numbers) if self._starts_anew(n)), 0)
        self.segment = max([*numbers, 1])
        for number in [n for n in numbers if n >= base]:
            self.end = self._scan(number)
        self.history.keep(self.records)
        self.outdated = [n for n in numbers if n < base]

    def _starts_anew(self, number: int) -> bool:
        with segment_file(self.folder, number).open("rb") as file:
            header = parse_header(file.read(HEADER_SIZE))
        return header is not None and header.kind is Kind.HISTORY

    def _scan(self, number: int) -> int:
        """Find the places of the records of a segment; return the end of its last whole stroke."""
        path = segment_file(self.folder, number)
        size = path.stat().st_size
        offset = end = 0
        kept: set[int] = set()
        parts: list[RecordPlace] = []
        lost: tuple[int, str] | None = None
        with path.open("rb") as file:
            while offset < size:
                file.seek(offset)
                header = parse_header(file.read(HEADER_SIZE))
                if header is None or offset + header.size > size or not self._sound(file, header):
                    following = _next_header(file, offset + 1, size)
                    what = "an unknown record" if header is None else described(header)
                    lost = (offset, what)
                    if following is None:
                        break
                    self.damaged = True
                    self.messages.append(
                        f"{path}: {what} is damaged at byte {offset} and was left out; all others are there."
                    )
                    offset, parts = following, []
                    continue
                if parts and parts[0].header.sequence != header.sequence:
                    parts = []
                parts.append(RecordPlace(number, offset, header))
                offset += header.size
                if header.last:
                    self._learn(tuple(parts), file, kept)
                    parts, end = [], offset
        if end < size:
            what = f" ({lost[1]})" if lost is not None and "unknown" not in lost[1] else ""
            self.messages.append(
                f"{path}: the last {size - end} bytes, of a stroke cut short while written{what}, were dropped."
            )
        return end

    def _sound(self, file: BinaryIO, header: Header) -> bool:
        """Whether the payload at the file's place is as it was written."""
        return header.sequence <= self.checked_after or zlib.crc32(file.read(header.length)) == header.check

    def _learn(self, parts: tuple[RecordPlace, ...], file: BinaryIO, kept: set[int]) -> None:
        header = parts[0].header
        if header.kind is Kind.HISTORY:
            file.seek(parts[0].offset + HEADER_SIZE)
            note = unpack_note(file.read(header.length))
            self.history = UndoHistory(note["undo"], note["redo"])
            kept.update(note["undo"], note["redo"])
            self.history.latest = header.sequence
            return
        self.records[header.sequence] = parts
        if header.sequence not in kept:
            self.history.follow(header.kind, header.sequence)


def _next_header(file: BinaryIO, offset: int, size: int) -> int | None:
    """The start of the next whole record after a damaged one."""
    file.seek(offset)
    data = file.read(size - offset)
    at = data.find(MAGIC)
    while at >= 0:
        header = parse_header(data[at : at + HEADER_SIZE])
        if header is not None and at + header.size <= len(data):
            return offset + at
        at = data.find(MAGIC, at + 1)
    return None


# ----------------------------------------------------------------------------------------------------------------------
# The journal of a store.

SEGMENT_BYTES = 256 * 2**20
"""Size of a segment after which a new one begins."""


class Compaction(NamedTuple):
    """A compaction under way: the segment that it makes and the records for it."""

    number: int
    latest: int
    undo: list[int]
    redo: list[int]


class Journal:
    """Reads and appends records.

    Records that the disk refuses wait in memory, in order, and are written as soon as it takes them.

    Parameters
    ----------
    folder : Path
        Holds the segments, ``00000001.log`` and so on.
    dtype : numpy.dtype
        Type of the store's labels.
    checked_after : int
        The checksums of records with higher sequence numbers are checked, since a power cut can tear any of them.

    Attributes
    ----------
    history : UndoHistory
        The strokes that can be undone and redone.
    messages : list of str
        Sentences about damaged records that were dropped when the journal was opened.
    damaged : bool
        Whether more than the end was damaged; a compaction removes the damage.
    failure : OSError, optional
        The error of the disk for the last record that waits.
    """

    def __init__(self, folder: Path, dtype: np.dtype[Any], checked_after: int = 0) -> None:
        self.failure: OSError | None = None
        self._folder = folder
        self._dtype = dtype
        self._lock = threading.RLock()
        self._syncing = threading.Lock()
        self._waiting: dict[int, bytes] = {}
        self._unsynced: dict[int, bytes] = {}
        self._synced = (1, 0)
        self._closed = False
        with output_errors(folder):
            folder.mkdir(exist_ok=True)
            found = Scan(folder, checked_after)
            for number in found.outdated:  # a compaction was killed after it had taken effect
                segment_file(folder, number).unlink(missing_ok=True)
            self.history, self.messages, self.damaged = found.history, found.messages, found.damaged
            self._records: Records = found.records
            self._segment, self._end = found.segment, found.end
            self._descriptor = os.open(segment_file(folder, self._segment), os.O_RDWR | os.O_CREAT, 0o666)
            if os.fstat(self._descriptor).st_size > self._end:
                os.ftruncate(self._descriptor, self._end)
                os.fsync(self._descriptor)
            sync_path(folder)
        self._synced = (self._segment, self._end)

    # ----------------------------------------------------------------------------------------------------- appending

    @property
    def mark(self) -> Mark:
        """The end of the journal."""
        return Mark(self.history.latest, self._segment, self._end)

    @property
    def waiting(self) -> int:
        """Number of strokes that the disk refused and that are in memory only."""
        # A record that is being written is in memory too, but was not refused.
        return len(self._waiting) if self.failure is not None else 0

    def append(self, kind: Kind, sequence: int, records: Iterable[bytes]) -> Mark:
        """Write the records of one stroke, whole or not at all; if the disk refuses, it waits in memory.

        On return it survives a crash of this process, unless it waits; `sync` brings it to the disk.
        """
        pieces = list(records)
        with self._lock:
            if self._closed:
                raise StoreError(f"{self._folder.parent} was closed; open it again with open_labels.")
            self._waiting[sequence] = b"".join(pieces)
            self._records[sequence] = _places(0, 0, pieces)
            self.history.follow(kind, sequence)
            self._drain()
            return self.mark

    def _drain(self) -> None:
        """Write the records that wait."""
        try:
            for sequence in list(self._waiting):
                self._put(sequence, self._waiting[sequence])
                self._unsynced[sequence] = self._waiting.pop(sequence)
            self.failure = None
        except OSError as error:
            self.failure = error
            with suppress(OSError):
                if self._descriptor >= 0:
                    os.ftruncate(self._descriptor, self._end)
            self._let_go()

    def _put(self, sequence: int, data: bytes) -> None:
        if self._descriptor < 0:
            self._take_up()
        if self._end >= SEGMENT_BYTES:
            self._roll(self._segment + 1)
        os.lseek(self._descriptor, self._end, os.SEEK_SET)
        write_all(self._descriptor, data)
        start, segment = self._end, self._segment
        self._records[sequence] = tuple(
            RecordPlace(segment, start + p.offset, p.header) for p in self._records[sequence]
        )
        self._end += len(data)

    def _take_up(self) -> None:
        """Open the last segment again after a failure, by its name, since the disk may have been disconnected."""
        descriptor = os.open(segment_file(self._folder, self._segment), os.O_RDWR)
        try:
            if os.fstat(descriptor).st_size < self._end:
                raise OSError("the journal is shorter than what was written into it")
            os.ftruncate(descriptor, self._end)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _let_go(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def _roll(self, number: int) -> None:
        """Begin another segment."""
        os.fsync(self._descriptor)
        self._unsynced.clear()
        descriptor = os.open(segment_file(self._folder, number), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.close(self._descriptor)
        self._descriptor, self._segment, self._end = descriptor, number, 0
        self._synced = (number, 0)
        sync_path(self._folder)

    def sync(self) -> None:
        """Bring all records onto the disk.

        Raises
        ------
        OutputError
            If the disk refuses; records that are not on it then wait in memory.
        """
        with self._syncing:
            with self._lock:
                if self._waiting:
                    self._drain()
                if self.failure is not None:
                    raise output_error(self._folder, self.failure) from self.failure
                if not self._unsynced or self._descriptor < 0:
                    return
                written, place = list(self._unsynced), (self._segment, self._end)
                descriptor = os.dup(self._descriptor)
            try:
                os.fsync(descriptor)
            except OSError as error:
                self._take_back(error)
                raise output_error(self._folder, error) from error
            finally:
                os.close(descriptor)
            with self._lock:
                if self._synced[0] == place[0]:
                    self._synced = place
                for sequence in written:
                    self._unsynced.pop(sequence, None)

    def _take_back(self, error: OSError) -> None:
        """Let records wait and be written again that were written since the last sync, because they may be lost."""
        with self._lock:
            self.failure = error
            self._waiting = dict(sorted({**self._unsynced, **self._waiting}.items()))
            self._unsynced.clear()
            for sequence, data in self._waiting.items():
                self._records[sequence] = _places(0, 0, _split(data))
            self._end = self._synced[1]
            self._let_go()

    def close(self, lose: bool = False) -> None:
        """Sync and close the file; with `lose`, records that the disk refuses are given up."""
        try:
            self.sync()
        except OutputError:
            if not lose:
                raise
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._let_go()

    # ------------------------------------------------------------------------------------------------------- reading

    def kind(self, sequence: int) -> Kind:
        """The kind of a stroke."""
        return self._records[sequence][0].header.kind

    def waits(self, sequence: int) -> bool:
        """Whether a stroke is in memory only."""
        return sequence in self._waiting

    def after(self, sequence: int) -> list[int]:
        """Sequence numbers above the given one, in order."""
        return sorted(number for number in self._records if number > sequence)

    def windows(self, sequence: int) -> list[Window]:
        """The windows of a stroke's parts."""
        return [place.header.window for place in self._records[sequence]]

    def patches(self, sequence: int) -> Iterator[Patch]:
        """The parts of a stroke, release, undo or redo."""
        for number in range(len(self._records[sequence])):
            place, payload = self._payload(sequence, number)
            yield unpack_patch(place.header, payload, self._dtype)

    def note(self, sequence: int) -> dict[str, Any]:
        """The JSON of a merge."""
        return unpack_note(self._payload(sequence, 0)[1])

    def _payload(self, sequence: int, number: int) -> tuple[RecordPlace, bytes]:
        with self._lock:
            place = self._records[sequence][number]
            start, length = place.offset + HEADER_SIZE, place.header.length
            if place.segment == 0:
                return place, self._waiting[sequence][start : start + length]
            path = segment_file(self._folder, place.segment)
            with output_errors(path), path.open("rb") as file:
                file.seek(start)
                payload = file.read(length)
        if zlib.crc32(payload) != place.header.check:
            raise StoreError(f"{path}: the record of stroke {sequence} is damaged")
        return place, payload

    # ---------------------------------------------------------------------------------------------------- compaction

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment_file(self._folder, n).stat().st_size for n in segment_numbers(self._folder))

    @property
    def garbage(self) -> int:
        """Bytes of records that neither undo nor redo needs."""
        with self._lock:
            needed = sum(p.header.size for s in self.history.needed for p in self._records[s] if p.segment)
            return self.size - needed

    def begin_compaction(self) -> Compaction | None:
        """Begin another segment for new records, so that the earlier segments can be replaced; None if records wait."""
        with self._lock, output_errors(self._folder):
            if self._waiting or self._descriptor < 0:
                return None
            number = self._segment + 1
            self._roll(number + 1)
            return Compaction(number, self.history.latest, list(self.history.undo), list(self.history.redo))

    def finish_compaction(self, work: Compaction) -> None:
        """Keep only the records up to `work.latest` that undo and redo need.

        All of them must be in the chunks, and the checkpoint must say so. Strokes are appended meanwhile.
        """
        path = segment_file(self._folder, work.number)
        moved: Records = {}
        with output_errors(self._folder):
            # not by `aside`: the name is always the same, so that what a killed process left is written over
            with path.with_suffix(".partial").open("wb") as file:
                note = {"undo": work.undo, "redo": work.redo}
                file.write(pack_note(Kind.HISTORY, work.latest, note))
                for sequence in sorted({*work.undo, *work.redo}):
                    places = []
                    for place in self._records[sequence]:
                        places.append(RecordPlace(work.number, file.tell(), place.header))
                        with segment_file(self._folder, place.segment).open("rb") as old:
                            old.seek(place.offset)
                            file.write(old.read(place.header.size))
                    moved[sequence] = tuple(places)
                file.flush()
                os.fsync(file.fileno())
            os.replace(path.with_suffix(".partial"), path)
            sync_path(self._folder)
            with self._lock:
                for sequence in [s for s in self._records if s <= work.latest]:
                    del self._records[sequence]
                self._records.update(moved)
                for number in segment_numbers(self._folder):
                    if number < work.number:
                        segment_file(self._folder, number).unlink()
        self.damaged = False


def _places(segment: int, offset: int, records: Iterable[bytes]) -> tuple[RecordPlace, ...]:
    """Where records lie that are written one after the other."""
    places = []
    for record in records:
        header = parse_header(record[:HEADER_SIZE])
        if header is None:
            raise StoreError("A stroke could not be put into a record.")
        places.append(RecordPlace(segment, offset, header))
        offset += len(record)
    return tuple(places)


def _split(data: bytes) -> Iterator[bytes]:
    """The records in `data`."""
    offset = 0
    while offset < len(data):
        header = parse_header(data[offset : offset + HEADER_SIZE])
        if header is None:
            return
        yield data[offset : offset + header.size]
        offset += header.size
