"""The ledgers of a run: which tiles are finished, a line for each, and which chunk files they need.

`inference.predict` compares them with its plan, and computes what is not finished.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_msunet._io import append, input_error, replace_file
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window

Chunk = tuple[str, tuple[int, ...]]
"""The name of an output, and the key of a chunk of its finest level."""


@dataclass
class _Ledger:
    """The entries of one file, read as far as `offset`."""

    inode: int = -1
    offset: int = 0
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    damaged: int = 0


class Ledgers:
    """All ledgers of a run: that of a sole writer, and one of each part.

    A line that is no entry (torn, cut, overwritten) is skipped, and its tile counts as not done.

    Parameters
    ----------
    folder : Path
        The run's.
    shape : (h, w)
        Of the run.
    """

    def __init__(self, folder: Path, shape: tuple[int, int]) -> None:
        self._folder = folder
        self._whole = Window(0, 0, *shape)
        self._read: dict[Path, _Ledger] = {}
        self._merged: tuple[dict[int, Window], dict[int, str]] = ({}, {})

    def file(self, part: str | None = None) -> Path:
        """The ledger of a part, or of the sole writer."""
        return self._folder / ("ledger.jsonl" if part is None else f"ledger.{part}.jsonl")

    @property
    def done(self) -> dict[int, Window]:
        """The finished tiles, in the order in which each writer finished them."""
        self._refresh()
        return dict(self._merged[0])

    @property
    def failed(self) -> dict[int, str]:
        """Why tiles could not be computed."""
        self._refresh()
        return dict(self._merged[1])

    @property
    def damaged_lines(self) -> int:
        """Lines that are no entry."""
        self._refresh()
        return sum(ledger.damaged for ledger in self._read.values())

    def needed(self) -> dict[int, list[Chunk]]:
        """The chunk files that must be there, for each finished tile."""
        self._refresh()
        dropped = {name for ledger in self._read.values() for name in ledger.dropped}
        needed: dict[int, list[Chunk]] = {}
        for ledger in self._read.values():
            for tile, entry in ledger.lines.items():
                if "failed" in entry:
                    continue
                names = [f"{output}/{key}" for output, keys in entry.get("files", {}).items() for key in keys.split()]
                needed[tile] = [chunk_of(name) for name in names if name not in dropped]
        return needed

    def finish(
        self, part: str | None, tile: int, window: Window, files: dict[str, str], failed: str | None = None
    ) -> None:
        """Note a tile as finished, or as failed, on the disk."""
        entry: dict[str, Any] = {"block": tile, "window": [window.y, window.x, *window.shape], "files": files}
        if failed is not None:
            entry["failed"] = failed
        append(self.file(part), json.dumps(entry).encode() + b"\n", sync=True)

    def drop(self, part: str | None, chunk: Chunk) -> None:
        """Note that a chunk is about to become all zero: no tile needs its file from now on."""
        append(self.file(part), json.dumps({"dropped": chunk_name(chunk)}).encode() + b"\n")

    def open(self, part: str | None) -> None:
        """Make a writer's ledger, or cut off an incomplete last line of it, so that the next entry begins a line."""
        path = self.file(part)
        if not path.exists():
            replace_file(path, b"")
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)

    def mend(self, without: Collection[int] = ()) -> None:
        """Write the ledgers again without lines that are no entries, and without some tiles. No process may be
        writing."""
        self._refresh()
        for path, ledger in list(self._read.items()):
            data = path.read_bytes()
            kept = [line for line in data.split(b"\n")[:-1] if self._sound(line, without)]
            mended = b"".join(line + b"\n" for line in kept)
            if mended != data:
                replace_file(path, mended)
                ledger.inode = -1

    def _sound(self, line: bytes, without: Collection[int]) -> bool:
        entry = _entry(line, self._whole)
        return entry is not None and entry.get("block", -1) not in without

    def _refresh(self) -> None:
        """Read the lines that were added since the last time."""
        paths = sorted(self._folder.glob("ledger*.jsonl"))
        changed = set(self._read) != set(paths)
        for gone in set(self._read) - set(paths):
            del self._read[gone]
        for path in paths:
            ledger = self._read.setdefault(path, _Ledger())
            try:
                found = path.stat()
                if (found.st_ino, found.st_size) != (ledger.inode, ledger.offset):
                    if found.st_ino != ledger.inode or found.st_size < ledger.offset:
                        ledger = self._read[path] = _Ledger(found.st_ino)
                    changed |= self._take(path, ledger)
            except OSError as error:
                raise input_error(path, error, "check the disk", StoreError) from error
        if changed or not paths:
            self._merged = _union(self._read[path].lines for path in paths)

    def _take(self, path: Path, ledger: _Ledger) -> bool:
        with path.open("rb") as file:
            file.seek(ledger.offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        for line in data[:end].split(b"\n")[:-1]:
            entry = _entry(line, self._whole)
            if entry is None:
                ledger.damaged += 1
            elif "dropped" in entry:
                ledger.dropped.add(str(entry["dropped"]))
            else:
                tile = int(entry["block"])
                ledger.lines.pop(tile, None)
                ledger.lines[tile] = entry
                ledger.dropped -= {f"{o}/{k}" for o, keys in entry.get("files", {}).items() for k in keys.split()}
        ledger.offset += end
        return bool(end)


def chunk_name(chunk: Chunk) -> str:
    """A chunk as a line names it."""
    return "/".join((chunk[0], *map(str, chunk[1])))


def chunk_of(name: str) -> Chunk:
    """The chunk that a line names."""
    output, *key = name.split("/")
    return output, tuple(map(int, key))


def _union(ledgers: Iterable[dict[int, dict[str, Any]]]) -> tuple[dict[int, Window], dict[int, str]]:
    done: dict[int, Window] = {}
    failed: dict[int, str] = {}
    for lines in ledgers:
        for tile, entry in lines.items():
            if "failed" in entry:
                failed[tile] = str(entry["failed"])
            else:
                done[tile] = Window(*map(int, entry["window"]))
    return done, {tile: why for tile, why in failed.items() if tile not in done}


def _entry(line: bytes, whole: Window) -> dict[str, Any] | None:
    """A line's entry; None if it is none."""
    try:
        entry = json.loads(line)
        if "dropped" in entry:
            chunk_of(entry["dropped"])
            return dict(entry)
        window = Window(*map(int, entry["window"]))
        int(entry["block"])
        for keys in entry.get("files", {}).values():
            [chunk_of(f"x/{key}") for key in keys.split()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return dict(entry) if not window.empty and window.intersection(whole) == window else None
