"""The append-only journal of a label store: what makes a stroke safe before its pixels reach the chunks."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from napari_msunet.errors import OutputError, StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.files import output_error, output_errors, sync_path, write_all
from napari_msunet.labels.records import (
    HEADER_SIZE,
    Kind,
    Patch,
    pack_note,
    parse_header,
    unpack_note,
    unpack_patch,
)
from napari_msunet.labels.segments import Mark, Place, Records, Scan, segment_file, segment_numbers

SEGMENT_BYTES = 256 * 2**20
"""A new segment begins after one of this size."""


class Compaction(NamedTuple):
    """A compaction under way: the segment it makes and what goes into it."""

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
        The check sums of records with higher sequence numbers are looked at: a power cut can leave any of them torn.

    Attributes
    ----------
    history : History
        Which strokes can be undone and redone, as the records tell.
    messages : list of str
        What was found damaged and dropped when the journal was opened.
    damaged : bool
        Whether that was more than the end; a compaction leaves it behind.
    failure : OSError, optional
        Why the disk refused the last record that waits.
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
        # One that is just being written is in memory, too, but nothing has refused it.
        return len(self._waiting) if self.failure is not None else 0

    def append(self, kind: Kind, sequence: int, records: Iterable[bytes]) -> Mark:
        """Write the records of one stroke, whole or not at all; if the disk refuses, it waits in memory.

        On return it survives the end of this process, unless it waits; `sync` brings it onto the disk.
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
        """Write what waits."""
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
        self._records[sequence] = tuple(Place(segment, start + p.offset, p.header) for p in self._records[sequence])
        self._end += len(data)

    def _take_up(self) -> None:
        """Open the last segment again after a failure: by its name, as the disk may have been away."""
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
            If the disk refuses; then what is not on it waits in memory.
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
        """What was written since the last sync may be lost: let it wait and be written again."""
        with self._lock:
            self.failure = error
            self._waiting = dict(sorted({**self._unsynced, **self._waiting}.items()))
            self._unsynced.clear()
            for sequence, data in self._waiting.items():
                self._records[sequence] = _places(0, 0, _split(data))
            self._end = self._synced[1]
            self._let_go()

    def close(self, lose: bool = False) -> None:
        """Sync and let go of the file; with `lose`, what the disk refuses is given up."""
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
        """What a stroke was."""
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

    def _payload(self, sequence: int, number: int) -> tuple[Place, bytes]:
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
        """Let new records go into another segment, so that those before it can be replaced; None if some wait."""
        with self._lock, output_errors(self._folder):
            if self._waiting or self._descriptor < 0:
                return None
            number = self._segment + 1
            self._roll(number + 1)
            return Compaction(number, self.history.latest, list(self.history.undo), list(self.history.redo))

    def finish_compaction(self, work: Compaction) -> None:
        """Keep only what undo and redo need of the records up to `work.latest`.

        All of them must be in the chunks, and the checkpoint must say so. Strokes are appended meanwhile.
        """
        path = segment_file(self._folder, work.number)
        moved: Records = {}
        with output_errors(self._folder):
            with path.with_suffix(".partial").open("wb") as file:
                note = {"undo": work.undo, "redo": work.redo}
                file.write(pack_note(Kind.HISTORY, work.latest, note))
                for sequence in sorted({*work.undo, *work.redo}):
                    places = []
                    for place in self._records[sequence]:
                        places.append(Place(work.number, file.tell(), place.header))
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


def _places(segment: int, offset: int, records: Iterable[bytes]) -> tuple[Place, ...]:
    """Where records lie that are written one after the other."""
    places = []
    for record in records:
        header = parse_header(record[:HEADER_SIZE])
        if header is None:
            raise StoreError("A stroke could not be put into a record.")
        places.append(Place(segment, offset, header))
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
