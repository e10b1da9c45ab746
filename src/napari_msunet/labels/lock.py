"""Locks: one writer of a store at a time, and the processes that may fill a run."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from napari_msunet._io import output_errors, read_json, write_json
from napari_msunet.errors import StoreError, StoreLockedError

# ----------------------------------------------------------------------------------------------------------------------
# One writer at a time, by a lock of the system, which a dead process cannot keep, and a note about its holder.


class WriterLock:
    """The right to write below a folder.

    Parameters
    ----------
    folder : Path
        Holds ``writer.lock`` and, while it is held, ``writer.json``.
    what : str
        The name of it in messages.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self._what = what
        self._note = folder / "writer.json"
        self._lock = FileLock(folder / "writer.lock", thread_local=False)
        self._pid: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object, in this process, holds the lock."""
        return self._pid == os.getpid()

    def acquire(self) -> None:
        """Take the lock or raise `StoreLockedError`, which names the holder."""
        if self._pid is not None and not self.held:
            raise StoreLockedError(
                f"{self._what} was opened by process {self._pid}, of which this is a copy (fork); open it again here, "
                "after that process has closed it."
            )
        with output_errors(self._note.parent):
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise StoreLockedError(
                    f"{self._what} is being written by {self.holder()}; close it there, or wait until it has ended."
                ) from None
            self._pid = os.getpid()
            note = {
                "pid": self._pid,
                "host": socket.gethostname(),
                "user": _user(),
                "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            }
            write_json(self._note, note)

    def release(self) -> None:
        """Release the lock; does nothing when it is not held."""
        if self.held:
            self._note.unlink(missing_ok=True)
            self._lock.release()
        self._pid = None

    def holder(self) -> str:
        """The process that holds the lock, in words."""
        try:
            note = read_json(self._note)
            return f"process {note['pid']} on {note['host']} (user {note['user']}, since {note['since']})"
        except (StoreError, KeyError):
            return "another process"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


# ----------------------------------------------------------------------------------------------------------------------
# The lock of a run, which several processes may fill together.

_SECONDS = 60.0  # longest wait for another writer that is being admitted and checks the run
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class RunLock:
    """The right to fill a run: alone, or as a part among parts.

    Parameters
    ----------
    folder : Path
        The folder of the run.
    what : str
        The name of it in messages.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self._folder = folder
        self._what = what
        self._held: WriterLock | None = None
        self.part: str | None = None

    @property
    def held(self) -> bool:
        """Whether this object, in this process, holds the lock."""
        return self._held is not None and self._held.held

    @contextmanager
    def gate(self) -> Iterator[None]:
        """A context for work that only one process may do at a time: taking the lock, and changing ``run.json``."""
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
        """Take the lock, inside the gate, and return whether no other process holds a part of it.

        Raises
        ------
        StoreLockedError
            If a sole writer, or another writer of this part, holds it; for a sole writer, if any part is held.
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
        """Release the lock; does nothing if it is not held."""
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
