"""The append-only journal of a label store: what makes a stroke safe before its pixels reach the chunks."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.files import output_error, output_errors, sync_path, write_all
from napari_msunet.labels.history import History
from napari_msunet.labels.records import (
    HEADER_SIZE,
    MAGIC,
    Header,
    Kind,
    Patch,
    pack_note,
    parse_header,
    unpack_note,
    unpack_patch,
)

SEGMENT_BYTES = 256 * 2**20
"""A new segment begins after one of this size."""


class Mark(NamedTuple):
    """A place in the journal: after the record of this sequence number, at this byte of this segment."""

    sequence: int
    segment: int
    offset: int


@dataclass(frozen=True)
class _Place:
    segment: int
    offset: int
    header: Header


class Journal:
    """Reads and appends records.

    Parameters
    ----------
    folder : Path
        Holds the segments, ``00000001.log`` and so on.
    dtype : numpy.dtype
        Type of the store's labels.
    checked_after : int
        The check sums of records with higher sequence numbers are looked at: a power cut can leave any of them torn.

    Attributes
    ----------
    history : History
        Which strokes can be undone and redone, as the records tell.
    messages : list of str
        What was found damaged and dropped when the journal was opened.
    damaged : bool
        Whether that was more than the end; `compact` leaves it behind.
    """

    def __init__(self, folder: Path, dtype: np.dtype[Any], checked_after: int = 0) -> None:
        self.history = History()
        self.messages: list[str] = []
        self._folder = folder
        self.damaged = False
        self._dtype = dtype
        self._checked_after = checked_after
        self._records: dict[int, tuple[_Place, ...]] = {}
        self._lock = threading.Lock()
        self._unsynced = False
        self._failure: OSError | None = None
        with output_errors(folder):
            folder.mkdir(exist_ok=True)
            self._open()

    # ------------------------------------------------------------------------------------------------------- opening

    def _open(self) -> None:
        segments = segment_numbers(self._folder)
        base = next((n for n in reversed(segments) if self._starts_anew(n)), 0)
        self._segment = max([*segments, 1])
        end = 0
        for number in [n for n in segments if n >= base]:
            end = self._scan(number)
        self.history.keep(self._records)
        for number in [n for n in segments if n < base]:
            self._file(number).unlink(missing_ok=True)  # a compaction was killed after it had taken effect
        path = self._file(self._segment)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if os.fstat(self._descriptor).st_size > end:
            os.ftruncate(self._descriptor, end)
            os.fsync(self._descriptor)
        os.lseek(self._descriptor, end, os.SEEK_SET)
        self._end = end
        sync_path(self._folder)

    def _starts_anew(self, number: int) -> bool:
        with self._file(number).open("rb") as file:
            header = parse_header(file.read(HEADER_SIZE))
        return header is not None and header.kind is Kind.HISTORY

    def _scan(self, number: int) -> int:
        """Learn where the records of a segment lie; return the end of its last whole stroke."""
        size = self._file(number).stat().st_size
        offset = end = 0
        kept: set[int] = set()
        parts: list[_Place] = []
        with self._file(number).open("rb") as file:
            while offset < size:
                file.seek(offset)
                header = parse_header(file.read(HEADER_SIZE))
                if header is None or offset + header.size > size or not self._sound(file, header):
                    following = self._next_header(file, offset + 1, size)
                    if following is None:
                        break
                    self.damaged = True
                    self.messages.append(f"{self._file(number)}: a damaged record at byte {offset} was skipped.")
                    offset, parts = following, []
                    continue
                if parts and parts[0].header.sequence != header.sequence:
                    parts = []
                parts.append(_Place(number, offset, header))
                offset += header.size
                if header.last:
                    self._learn(tuple(parts), file, kept)
                    parts, end = [], offset
        if end < size:
            self.messages.append(
                f"{self._file(number)}: the last {size - end} bytes, of a stroke cut short while written, were dropped."
            )
        return end

    def _sound(self, file: BinaryIO, header: Header) -> bool:
        """Whether the payload at the file's place is as it was written."""
        return header.sequence <= self._checked_after or zlib.crc32(file.read(header.length)) == header.check

    @staticmethod
    def _next_header(file: BinaryIO, offset: int, size: int) -> int | None:
        """Where the next whole record begins after a damaged one."""
        file.seek(offset)
        data = file.read(size - offset)
        at = data.find(MAGIC)
        while at >= 0:
            header = parse_header(data[at : at + HEADER_SIZE])
            if header is not None and at + header.size <= len(data):
                return offset + at
            at = data.find(MAGIC, at + 1)
        return None

    def _learn(self, parts: tuple[_Place, ...], file: BinaryIO, kept: set[int]) -> None:
        header = parts[0].header
        if header.kind is Kind.HISTORY:
            file.seek(parts[0].offset + HEADER_SIZE)
            note = unpack_note(file.read(header.length))
            self.history = History(note["undo"], note["redo"])
            kept.update(note["undo"], note["redo"])
            self.history.latest = header.sequence
            return
        self._records[header.sequence] = parts
        if header.sequence not in kept:
            self.history.follow(header.kind, header.sequence)

    # ----------------------------------------------------------------------------------------------------- appending

    @property
    def mark(self) -> Mark:
        """The end of the journal."""
        return Mark(self.history.latest, self._segment, self._end)

    def append(self, kind: Kind, sequence: int, records: Iterable[bytes]) -> Mark:
        """Write the records of one stroke: all of them, or none if the disk refuses.

        On return they survive the end of this process; `sync` brings them onto the disk.
        """
        with self._lock:
            if self._failure is not None:
                raise output_error(self._folder, self._failure) from self._failure
            if self._descriptor < 0:
                raise StoreError(f"{self._folder.parent} was closed; open it again with open_labels.")
            start = self._end
            places: list[_Place] = []
            try:
                if start >= SEGMENT_BYTES:
                    self._roll()
                    start = 0
                for record in records:
                    header = parse_header(record[:HEADER_SIZE])
                    if header is None:
                        raise StoreError("A stroke could not be put into a record.")
                    write_all(self._descriptor, record)
                    places.append(_Place(self._segment, self._end, header))
                    self._end += len(record)
            except BaseException as error:
                os.ftruncate(self._descriptor, start)
                os.lseek(self._descriptor, start, os.SEEK_SET)
                self._end = start
                if isinstance(error, OSError):
                    raise output_error(self._folder, error) from error
                raise
            self._records[sequence] = tuple(places)
            self.history.follow(kind, sequence)
            self._unsynced = True
            return self.mark

    def _roll(self) -> None:
        os.fsync(self._descriptor)
        path = self._file(self._segment + 1)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        os.close(self._descriptor)
        self._descriptor, self._segment, self._end = descriptor, self._segment + 1, 0
        sync_path(self._folder)

    def sync(self) -> None:
        """Bring all records onto the disk."""
        with self._lock:
            if not self._unsynced or self._descriptor < 0:
                return
            self._unsynced = False
            descriptor = os.dup(self._descriptor)
        try:
            os.fsync(descriptor)
        except OSError as error:
            self._failure = error
            raise output_error(self._folder, error) from error
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Sync and let go of the file."""
        self.sync()
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    # ------------------------------------------------------------------------------------------------------- reading

    def kind(self, sequence: int) -> Kind:
        """What a stroke was."""
        return self._records[sequence][0].header.kind

    def after(self, sequence: int) -> list[int]:
        """Sequence numbers above the given one, in order."""
        return sorted(number for number in self._records if number > sequence)

    def windows(self, sequence: int) -> list[Window]:
        """The windows of a stroke's parts."""
        return [place.header.window for place in self._records[sequence]]

    def patches(self, sequence: int) -> Iterator[Patch]:
        """The parts of a stroke, release, undo or redo."""
        for place in self._records[sequence]:
            yield unpack_patch(place.header, self._payload(place), self._dtype)

    def note(self, sequence: int) -> dict[str, Any]:
        """The JSON of a merge."""
        return unpack_note(self._payload(self._records[sequence][0]))

    def _payload(self, place: _Place) -> bytes:
        with self._file(place.segment).open("rb") as file:
            file.seek(place.offset + HEADER_SIZE)
            payload = file.read(place.header.length)
        if zlib.crc32(payload) != place.header.check:
            raise StoreError(
                f"{self._file(place.segment)}: the record of stroke {place.header.sequence} is damaged, so it can "
                "neither be undone nor done again."
            )
        return payload

    # ---------------------------------------------------------------------------------------------------- compaction

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(self._file(n).stat().st_size for n in segment_numbers(self._folder))

    @property
    def garbage(self) -> int:
        """Bytes of records that neither undo nor redo needs."""
        return self.size - sum(place.header.size for s in self.history.needed for place in self._records[s])

    def compact(self) -> None:
        """Keep only what undo and redo need; call it when all records are in the chunks and the checkpoint says so."""
        needed = self.history.needed
        number = self._segment + 1
        aside = self._file(number).with_suffix(".partial")
        with self._lock, output_errors(self._folder):
            records: dict[int, tuple[_Place, ...]] = {}
            with aside.open("wb") as file:
                note = {"undo": self.history.undo, "redo": self.history.redo}
                file.write(pack_note(Kind.HISTORY, self.history.latest, note))
                for sequence in sorted(needed):
                    places = []
                    for place in self._records[sequence]:
                        places.append(_Place(number, file.tell(), place.header))
                        with self._file(place.segment).open("rb") as old:
                            old.seek(place.offset)
                            file.write(old.read(place.header.size))
                    records[sequence] = tuple(places)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self._file(number))
            sync_path(self._folder)
            for old_number in segment_numbers(self._folder):
                if old_number < number:
                    self._file(old_number).unlink()
            os.close(self._descriptor)
            self._descriptor = os.open(self._file(number), os.O_RDWR)
            self._end = os.lseek(self._descriptor, 0, os.SEEK_END)
            self._segment, self._records = number, records

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:08d}.log"


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
    return (folder / f"{numbers[-1]:08d}.log").stat().st_size > mark.offset
