"""One writer at a time: a lock of the system, which a dead process cannot keep, and a note of who holds it."""

from __future__ import annotations

import getpass
import json
import os
import socket
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from napari_msunet.errors import StoreLockedError
from napari_msunet.labels.files import output_errors


class WriterLock:
    """The right to write below a folder.

    Parameters
    ----------
    folder : Path
        Holds ``writer.lock`` and, while it is held, ``writer.json``.
    what : str
        How messages call it.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self._what = what
        self._note = folder / "writer.json"
        self._lock = FileLock(folder / "writer.lock", thread_local=False)
        self._pid: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object, in this process, holds it."""
        return self._pid == os.getpid()

    def acquire(self) -> None:
        """Take the lock or raise `StoreLockedError`, which names who holds it."""
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
                    f"{self._what} is being written by {self._holder()}; close it there, or wait until it has ended."
                ) from None
            self._pid = os.getpid()
            note = {
                "pid": self._pid,
                "host": socket.gethostname(),
                "user": _user(),
                "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            }
            aside = self._note.with_suffix(".partial")
            aside.write_text(json.dumps(note))
            os.replace(aside, self._note)

    def release(self) -> None:
        """Give it back; does nothing when it is not held."""
        if self.held:
            self._note.unlink(missing_ok=True)
            self._lock.release()
        self._pid = None

    def _holder(self) -> str:
        try:
            note = json.loads(self._note.read_text())
            return f"process {note['pid']} on {note['host']} (user {note['user']}, since {note['since']})"
        except (OSError, ValueError, KeyError):
            return "another process"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
