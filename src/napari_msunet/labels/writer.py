"""The half of a label store that takes the lock, keeps what was written safe, and closes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from napari_msunet.errors import NotSavedError, OutputError, StoreError, StoreLockedError
from napari_msunet.labels.cache import ChunkCache
from napari_msunet.labels.checkpoint import load_checkpoint, unfinished
from napari_msunet.labels.files import output_errors
from napari_msunet.labels.lock import WriterLock
from napari_msunet.labels.merge import Table, value_table
from napari_msunet.labels.metadata import StoreInfo, load_info, save_info
from napari_msunet.labels.runs import Run
from napari_msunet.labels.session import Session
from napari_msunet.labels.view import LabelView

open_stores: dict[Path, Any] = {}
"""The stores this process has open, by path."""

opening = threading.RLock()
"""Held while `open_stores` is looked at and changed."""


class Writer(LabelView):
    """A label store's lock, session and end; `LabelStore` adds what can be written.

    Parameters
    ----------
    path : Path
    memory : int
        Bytes of chunks kept in memory while writing.

    Attributes
    ----------
    messages : list of str
        What was found damaged and repaired when the store was opened.
    on_unsaved : list of callables
        Each is called with `unsaved` whenever that changes, from any thread.
    before_flush : list of callables
        Called by `flush` and `close` first: an editor that sends its strokes from a thread waits for them there.
    """

    def __init__(self, path: Path, memory: int) -> None:
        super().__init__(path)
        load_checkpoint(path)
        self.messages: list[str] = []
        self.unreadable_runs: list[str] = []
        self.on_unsaved: list[Callable[[int], None]] = []
        self.before_flush: list[Callable[[], None]] = []
        self._memory = memory
        self._lock = WriterLock(path, f"The label store {path}")
        self._mutex = threading.RLock()
        self._runs: dict[str, Run] = {}
        self._handed = 0
        self._wanted = False
        self._pid = os.getpid()
        self._inode = path.stat().st_ino
        self._recover()

    def hold(self) -> None:
        """Take the right to write now, as an editor does when it opens; otherwise the first write takes it.

        Raises
        ------
        StoreLockedError
            If somebody else writes into this store. Once they have closed it, this works.
        """
        self._begin()

    @property
    def version(self) -> int:
        """A number that is another after each change of the labels, whoever made it."""
        if self._session is not None:
            return int(self._session.journal.history.latest)
        return int(load_checkpoint(self.path)["sequence"])

    @property
    def unsaved(self) -> int:
        """Number of strokes that the disk refused and that are in memory only, until it takes them."""
        return 0 if self._session is None else self._session.journal.waiting

    def flush(self) -> None:
        """Write all edits into the chunks now; a moment after each stroke that happens by itself.

        Raises
        ------
        OutputError
            If the disk refuses; nothing is lost by that, and it is tried again and again.
        """
        for call in list(self.before_flush):
            call()
        if self._session is not None:
            self._session.flush()

    def close(self, *, lose_unsaved: bool = False) -> None:
        """Flush, and let others write. The object cannot be used after that.

        Parameters
        ----------
        lose_unsaved : bool
            Give up strokes that the disk still refuses.

        Raises
        ------
        NotSavedError
            If there are such strokes and `lose_unsaved` is false; then the store stays open.
        """
        for call in list(self.before_flush):
            call()
        with self._mutex:
            session = self._session
            try:
                if session is not None and self._lock.held:
                    session.close(lose=lose_unsaved)
            except OutputError as error:
                if not lose_unsaved and self.unsaved:
                    raise NotSavedError(
                        f"{self.path} was not closed, as {self.unsaved} of its strokes are in memory only: {error}"
                    ) from error
                self._end()
                raise
            except BaseException:
                self._end()
                raise
            self._end()

    def _end(self) -> None:
        self._session, self._closed = None, True
        self._lock.release()
        with opening:
            if open_stores.get(self.path) is self:
                del open_stores[self.path]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self) -> Session:
        """The session of writing; the first call takes the lock and reads what others did since."""
        with self._mutex:
            if self._closed:
                raise StoreError(f"{self.path} was closed; open it again with open_labels.")
            self._wanted = True
            if self._session is not None and self._lock.held:
                return self._session
            self._lock.acquire()
            try:
                self._info = load_info(self.path)
                cache = ChunkCache(self._planes, self._memory, self.path / "aside")
                with output_errors(self.path):
                    session = Session(self.path, cache, self.dtype, self._run_and_table)
                session.told = self._tell_unsaved
                session.start_keeper()
                self.messages += session.messages
            except BaseException:
                self._lock.release()
                raise
            self._session = session
            return session

    def _tell_unsaved(self, unsaved: int) -> None:
        for callback in list(self.on_unsaved):
            callback(unsaved)

    def _recover(self) -> None:
        """Finish what a process that died left in the journal, unless another is at work."""
        if not unfinished(self.path):
            return
        try:
            session = self._begin()
        except StoreLockedError:
            return
        except OutputError as error:
            self.messages.append(f"The last edits are in the journal but cannot be shown here: {error}")
            return
        self._wanted = False
        threading.Thread(target=self._let_go, args=(session,), name="label store recovery", daemon=True).start()

    def _let_go(self, session: Session) -> None:
        """Bring what was recovered into the chunks and let others write, unless somebody began to write here."""
        try:
            session.flush()
            with self._mutex:
                if self._session is session and not self._wanted:
                    session.close()
                    self._session = None
                    self._lock.release()
        except OutputError as error:
            self.messages.append(f"The last edits are in the journal, but not in the chunks: {error}")

    def _save(self, info: StoreInfo) -> None:
        with output_errors(self.path):
            save_info(self.path, info)
        self._info = info

    def run(self, key: str) -> Run:
        """The run of this key."""
        with self._mutex:
            if key not in self._runs:
                if not (self.path / "runs" / key / "run.json").exists():
                    raise StoreError(f"{self.path} has no run {key!r}; its folder runs/ shows which there are.")
                self._runs[key] = Run(self.path / "runs" / key)
            return self._runs[key]

    def _run_and_table(self, key: str) -> tuple[Run, Table]:
        run = self.run(key)
        return run, value_table(run, self._info.classes, self._info.instances)

    def _is_current(self) -> bool:
        """Whether this object still stands for its path in this process."""
        try:
            return not self._closed and self._pid == os.getpid() and self.path.stat().st_ino == self._inode
        except OSError:
            return self.unsaved > 0  # the disk is away; what it has not taken is here
