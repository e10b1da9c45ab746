"""What another process has written into a store, for those who only look at it."""

from __future__ import annotations

from pathlib import Path

from napari_msunet.geometry import Window
from napari_msunet.labels.checkpoint import checkpoint_mark, load_checkpoint
from napari_msunet.labels.records import HEADER_SIZE, Header, Kind, parse_header, unpack_note
from napari_msunet.labels.segments import Mark, segment_file, segment_numbers


class News:
    """Follows a store's journal up to what is in its chunks.

    Parameters
    ----------
    path : Path
    shape : (height, width)
        Of the store.
    """

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self._path = path
        self._whole = Window(0, 0, *shape)
        self._time = self._changed()
        self._seen = checkpoint_mark(load_checkpoint(path))

    def _changed(self) -> int:
        return (self._path / "checkpoint.json").stat().st_mtime_ns

    def look(self) -> list[Window]:
        """Windows that changed since the last look; the whole store where that cannot be told."""
        try:
            time = self._changed()
            if time == self._time:
                return []
            mark = checkpoint_mark(load_checkpoint(self._path))
            windows = self._between(self._seen, mark)
        except OSError:  # files come and go while the other process compacts its journal
            return [self._whole]
        self._time, self._seen = time, mark
        return [self._whole] if windows is None else windows

    def _between(self, old: Mark, new: Mark) -> list[Window] | None:
        """The windows of the records between two marks, or None where they are gone."""
        numbers = [n for n in segment_numbers(self._path / "journal") if old.segment <= n <= new.segment]
        if not numbers or numbers[0] != old.segment:
            return None
        windows: list[Window] = []
        for number in numbers:
            with segment_file(self._path / "journal", number).open("rb") as file:
                file.seek(old.offset if number == old.segment else 0)
                while header := parse_header(file.read(HEADER_SIZE)):
                    payload = file.read(header.length)
                    if header.sequence > new.sequence or header.kind is Kind.HISTORY:
                        break
                    windows += self._windows(header, payload)
        return windows

    def _windows(self, header: Header, payload: bytes) -> list[Window]:
        if header.kind is Kind.MERGE:
            return [Window(*map(int, w)) for w in unpack_note(payload)["windows"]]
        return [header.window]
