"""The thread that brings an open store onto the disk soon after each stroke."""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import suppress
from typing import Protocol

from napari_msunet.errors import MsunetError

SYNC_SECONDS = 0.4
"""How long a stroke may wait for the disk (not for a crash of this process: that it survives at once)."""

QUIET_SECONDS, CHUNK_SECONDS = 0.3, 5.0
"""While strokes come faster than the first, chunks are written only so often; the journal has them before."""

GIVE_WAY_SECONDS = 0.004
"""After each chunk that is written while strokes are made: about what a stroke takes."""

RETRY_SECONDS = 1.0
"""After a failure the disk is tried this often."""


class Pace:
    """When changed chunks may wait: while strokes follow one another whoever makes them comes first."""

    def __init__(self) -> None:
        self._stroke = self._written = -CHUNK_SECONDS

    def stroke(self) -> None:
        """A stroke was made."""
        self._stroke = time.monotonic()

    def written(self) -> None:
        """The chunks are being written."""
        self._written = time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether the last stroke was a moment ago."""
        return time.monotonic() - self._stroke < QUIET_SECONDS

    @property
    def chunks_may_wait(self) -> bool:
        """Whether strokes follow one another, and the chunks were written not long ago."""
        return self.busy and time.monotonic() - self._written < CHUNK_SECONDS

    def give_way(self) -> None:
        """Between two chunks: leave the interpreter to whoever makes strokes."""
        if self.busy:
            time.sleep(GIVE_WAY_SECONDS)


class Kept(Protocol):
    """What a keeper keeps."""

    @property
    def behind(self) -> bool: ...

    def keep(self) -> None: ...


class Keeper(threading.Thread):
    """Calls `keep` soon after `wake` is set, at once if `hurry` is too, and again and again while the disk refuses."""

    def __init__(self, session: Kept) -> None:
        super().__init__(name="label store keeper", daemon=True)
        self.wake = threading.Event()
        self.hurry = threading.Event()
        self._ended = threading.Event()
        self._session = weakref.ref(session)

    def run(self) -> None:
        behind = False
        while not self._ended.is_set():
            self.wake.wait(RETRY_SECONDS if behind else None)
            self.hurry.wait(SYNC_SECONDS)
            if self._ended.is_set():
                return
            self.wake.clear()
            self.hurry.clear()
            session = self._session()
            if session is None:
                return
            with suppress(MsunetError, OSError):  # `unsaved` tells of it, and the next flush raises it
                session.keep()
            behind = session.behind
            del session

    def stop(self) -> None:
        """End the thread; returns when it has."""
        self._ended.set()
        self.hurry.set()
        self.wake.set()
        if threading.current_thread() is not self:
            self.join()
