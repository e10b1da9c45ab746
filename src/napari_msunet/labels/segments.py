"""The files of a journal: where its records lie in them, and what of them is damaged."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from napari_msunet.labels.history import History
from napari_msunet.labels.records import HEADER_SIZE, MAGIC, Header, Kind, parse_header, unpack_note


class Mark(NamedTuple):
    """A place in the journal: after the record of this sequence number, at this byte of this segment."""

    sequence: int
    segment: int
    offset: int


@dataclass(frozen=True)
class Place:
    """Where a record lies: at a byte of a segment, or (segment 0) of what waits in memory to be written."""

    segment: int
    offset: int
    header: Header


Records = dict[int, tuple[Place, ...]]
"""The places of each stroke's parts, by its sequence number."""


def segment_file(folder: Path, number: int) -> Path:
    """Where a segment lies."""
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
    """What the segments of a journal hold.

    Parameters
    ----------
    folder : Path
    checked_after : int
        The check sums of records with higher sequence numbers are looked at.

    Attributes
    ----------
    segment, end : int
        The last segment, and where its last whole stroke ends.
    outdated : list of int
        Segments that a compaction replaced and did not get to remove.
    damaged : bool
        Whether more than the end of the last segment is damaged.
    """

    folder: Path
    checked_after: int
    records: Records = field(default_factory=dict)
    history: History = field(default_factory=History)
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
        """Learn where the records of a segment lie; return the end of its last whole stroke."""
        path = segment_file(self.folder, number)
        size = path.stat().st_size
        offset = end = 0
        kept: set[int] = set()
        parts: list[Place] = []
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
                parts.append(Place(number, offset, header))
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

    def _learn(self, parts: tuple[Place, ...], file: BinaryIO, kept: set[int]) -> None:
        header = parts[0].header
        if header.kind is Kind.HISTORY:
            file.seek(parts[0].offset + HEADER_SIZE)
            note = unpack_note(file.read(header.length))
            self.history = History(note["undo"], note["redo"])
            kept.update(note["undo"], note["redo"])
            self.history.latest = header.sequence
            return
        self.records[header.sequence] = parts
        if header.sequence not in kept:
            self.history.follow(header.kind, header.sequence)


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
