"""Who may fill a run: one writer alone, or several parts at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from napari_msunet.errors import StoreError, StoreLockedError
from napari_msunet.labels.files import output_errors
from napari_msunet.labels.lock import WriterLock

_SECONDS = 60.0  # at most that a writer who comes waits for one who comes just then and looks the run over
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class RunLock:
    """The right to fill a run: alone, or as a part among parts.

    Parameters
    ----------
    folder : Path
        The run's.
    what : str
        How messages call it.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self._folder = folder
        self._what = what
        self._held: WriterLock | None = None
        self.part: str | None = None

    @property
    def held(self) -> bool:
        """Whether this object, in this process, holds it."""
        return self._held is not None and self._held.held

    @contextmanager
    def gate(self) -> Iterator[None]:
        """What must not happen twice at once: coming in, and changing ``run.json``."""
        lock = FileLock(self._folder / "gate.lock", thread_local=False)
        with output_errors(self._folder):
            try:
                lock.acquire(timeout=_SECONDS)
            except Timeout:
                raise StoreLockedError(f"{self._what} is being opened by another process; try again.") from None
        try:
            yield
        finally:
            lock.release()

    def acquire(self, part: str | None) -> bool:
        """Come in, inside the gate; whether nobody else is in.

        Raises
        ------
        StoreLockedError
            If a sole writer is in, or somebody else with this part, or (for a sole writer) any part.
        """
        if part is not None and not _PART.fullmatch(part):
            raise StoreError(f"{part!r} cannot name a part of a run; use up to 64 letters, digits, dashes.")
        if self.held:
            raise StoreLockedError(f"{self._what} is being written by this process already; close it there.")
        sole = WriterLock(self._folder, self._what)
        sole.acquire()
        try:
            others = [name for name in self._parts() if name != part]
            busy = [name for name in others if self._taken(name, refuse=part is None)]
            if part is not None:
                own = self._lock_of(part)
                own.acquire()
                self._held = own
        except BaseException:
            sole.release()
            raise
        if part is None:
            self._held = sole
        else:
            sole.release()
        self.part = part
        return not busy

    def release(self) -> None:
        """Go out; does nothing for who is not in."""
        if self._held is not None:
            self._held.release()
        self._held = None

    def _parts(self) -> list[str]:
        return sorted(path.name for path in (self._folder / "parts").glob("*") if path.is_dir())

    def _lock_of(self, part: str) -> WriterLock:
        folder = self._folder / "parts" / part
        with output_errors(self._folder):
            folder.mkdir(parents=True, exist_ok=True)
        return WriterLock(folder, f"The part {part} of {self._what[0].lower()}{self._what[1:]}")

    def _taken(self, part: str, refuse: bool) -> bool:
        lock = self._lock_of(part)
        try:
            lock.acquire()
        except StoreLockedError:
            if refuse:
                raise
            return True
        lock.release()
        return False
