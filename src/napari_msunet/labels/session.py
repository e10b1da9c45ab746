"""What an open store does with its files: one writer's journal, cache and checkpoint."""

from __future__ import annotations

import shutil
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import MsunetError, StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.cache import ChunkCache
from napari_msunet.labels.files import read_json, write_json
from napari_msunet.labels.history import redone, undone
from napari_msunet.labels.journal import Journal, Mark, grew_since
from napari_msunet.labels.levels import tiles, update_coarser
from napari_msunet.labels.merge import Merge, MergeLog, Table, machine_values, merge_chunks, merge_from, merge_note
from napari_msunet.labels.records import Kind, Patch, pack_note, pack_patch
from napari_msunet.labels.runs import Run

PART = 2048
"""A stroke over a larger window is put into the journal in parts of this side."""

SYNC_SECONDS = 0.4
"""How long a stroke may wait for the disk (not for a crash of this process: that it survives at once)."""

COMPACT_BYTES = 16 * 2**20

Change = tuple[Window, Any, npt.NDArray[np.bool_] | None]
"""A window, its values (None: what the machine shows) and which of its pixels change."""


class Session:
    """The writing half of a store, from the first write until `close`.

    The order of everything: journal, cache, chunks, checkpoint. The checkpoint names the last record whose pixels are
    in the chunks; the records after it are done again when the store is opened. They hold values, not differences, so
    doing them again is right however many of the chunks were written already.

    Parameters
    ----------
    path : Path
        The store; its lock is held.
    cache : ChunkCache
    dtype : numpy.dtype
    run_of : callable
        From the key of a run to the run and how its values translate into the store's.
    """

    def __init__(
        self, path: Path, cache: ChunkCache, dtype: np.dtype[Any], run_of: Callable[[str], tuple[Run, Table]]
    ) -> None:
        self.cache = cache
        self._path = path
        self._dtype = dtype
        self._run_of = run_of
        self._edit = threading.RLock()
        self._flush = threading.RLock()
        self._merge = threading.Lock()
        self._pending: list[Mark] = []
        shutil.rmtree(path / "aside", ignore_errors=True)
        checkpoint = load_checkpoint(path)
        self._saved = checkpoint_mark(checkpoint)
        self.merges = MergeLog(checkpoint["merges"])
        self.journal = Journal(path / "journal", dtype, checked_after=self._saved.sequence)
        self.journal.history.latest = max(self.journal.history.latest, self._saved.sequence)
        self._applied = self.journal.mark
        self._keeper: _Keeper | None = None
        try:
            self._replay()
        except BaseException:
            self.journal.close()
            raise

    @property
    def messages(self) -> list[str]:
        """What was found damaged when the journal was opened."""
        return self.journal.messages

    def start_keeper(self) -> None:
        """Start the thread that brings strokes onto the disk soon after they were made."""
        self._keeper = _Keeper(self)
        self._keeper.start()

    # ------------------------------------------------------------------------------------------------------- strokes

    def change(self, kind: Kind, changes: Iterable[Change]) -> int:
        """A stroke (values: an array or one value) or a release (values: None); 0 if every mask is empty.

        The windows of `changes` do not overlap.
        """
        parts = []
        for window, values, mask in changes:
            for part in tiles(window, PART):
                place = part.slices((window.y, window.x))
                part_mask = None if mask is None else mask[place]
                if part_mask is None or part_mask.any():
                    parts.append((part, values if np.ndim(values) == 0 else values[place], part_mask))

        def patches() -> Iterator[Patch]:
            for part, values, part_mask in parts:
                new = self.machine(part) if values is None else values
                before, edited = self.cache.read("labels", 0, part), self.cache.read("edited", 0, part)
                yield Patch(part, new, kind is Kind.STROKE, part_mask, before, edited)

        return self._commit(kind, patches(), len(parts)) if parts else 0

    def turn(self, kind: Kind) -> Window | None:
        """Undo or redo one stroke; the window it changed, None if there is none."""
        with self._edit:
            history = self.journal.history
            stack = history.undo if kind is Kind.UNDO else history.redo
            if not stack:
                return None
            stroke = stack[-1]
            windows = self.journal.windows(stroke)
            was = self.journal.kind(stroke)

            def patches() -> Iterator[Patch]:
                for patch in self.journal.patches(stroke):
                    base = self.machine(patch.window)
                    yield undone(patch, base) if kind is Kind.UNDO else redone(was, patch, base)

            self._commit(kind, patches(), len(windows))
        start = (min(w.y for w in windows), min(w.x for w in windows))
        return Window.between(start, (max(w.stop[0] for w in windows), max(w.stop[1] for w in windows)))

    def machine(self, window: Window) -> npt.NDArray[Any]:
        """What the newest merged runs show in a window."""
        return machine_values(self.merges, window, self._dtype, self._run_of)

    def _commit(self, kind: Kind, patches: Iterable[Patch], count: int) -> int:
        """Journal, then cache."""
        with self._edit:
            sequence = self.journal.history.latest + 1
            kept: list[Patch] = []

            def records() -> Iterator[bytes]:
                for number, patch in enumerate(patches, 1):
                    if count == 1:
                        kept.append(patch)
                    yield pack_patch(kind, sequence, patch, last=number == count)

            mark = self.journal.append(kind, sequence, records())
            self._wake()
            try:
                for patch in kept or self.journal.patches(sequence):
                    self._apply(patch)
                    if count > 1:
                        self.make_room()
            except BaseException:
                self._pending.append(self._applied)  # no checkpoint after it: the next opening does it again, whole
                raise
            self._applied = mark
        self.make_room()
        return sequence

    def _apply(self, patch: Patch) -> None:
        with self.cache.lock:
            self.cache.assign("labels", 0, patch.window, patch.values, patch.mask)
            self.cache.assign("edited", 0, patch.window, patch.edited, patch.mask)
            update_coarser(self.cache, patch.window)

    # -------------------------------------------------------------------------------------------------------- merges

    def merge(self, run: Run, table: Table, windows: list[Window]) -> None:
        """Put a run's labels where nobody edited; strokes may be made meanwhile."""
        with self._merge:
            with self._edit:
                before = self._applied
                sequence = self.journal.history.latest + 1
                merge = Merge(sequence, run.key, windows)
                self._pending.append(before)
                mark = self.journal.append(Kind.MERGE, sequence, [pack_note(Kind.MERGE, sequence, merge_note(merge))])
                self.merges.add(merge)
                self._applied = mark
            self._wake()
            self._copy(run, table, windows, again=False)
            self._pending.remove(before)

    def _copy(self, run: Run, table: Table, windows: list[Window], again: bool) -> None:
        for number, _ in enumerate(merge_chunks(self.cache, run, table, windows, again)):
            if number % 16 == 0:
                self.make_room()

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def _replay(self) -> None:
        """Do the records after the checkpoint again."""
        for sequence in self.journal.after(self._saved.sequence):
            kind = self.journal.kind(sequence)
            if kind is Kind.MERGE:
                note = self.journal.note(sequence)
                try:
                    run, table = self._run_of(note["run"])
                    merge = merge_from(note)
                    self.merges.add(merge)
                    self._copy(run, table, merge.windows, again=True)
                except StoreError as error:
                    self.messages.append(f"A merge that was cut short could not be completed: {error}")
            else:
                for patch in self.journal.patches(sequence):
                    self._apply(patch)
                    self.cache.trim()
        if self.journal.mark.sequence > self._saved.sequence:
            self.flush()
        if self.journal.damaged:
            self._compact()

    def flush(self) -> None:
        """All records so far into the chunks, and a checkpoint that says so."""
        with self._flush:
            with self.cache.lock:
                mark = min([self._applied, *self._pending])
            self.journal.sync()
            self.cache.flush()
            if mark != self._saved:
                self.merges.tidy(mark.sequence)
                save_checkpoint(self._path, mark, self.merges)
                self._saved = mark

    def make_room(self) -> None:
        """Keep the cache within its limit."""
        if not self.cache.trim():
            self.flush()
            self.cache.trim()

    def close(self) -> None:
        """Write everything and let go of the files."""
        with self._merge, self._edit:
            if self._keeper is not None:
                self._keeper.stop()
            try:
                self.flush()
                if self.journal.garbage > max(COMPACT_BYTES, self.journal.size // 2):
                    self._compact()
            finally:
                self.journal.close()

    def _compact(self) -> None:
        self.journal.compact()
        self._saved = self.journal.mark
        save_checkpoint(self._path, self._saved, self.merges)

    def keep(self) -> None:
        """What the keeper does now and then."""
        self.journal.sync()
        if self.cache.dirty_bytes > self.cache.limit // 2:
            self.flush()

    def _wake(self) -> None:
        if self._keeper is not None:
            self._keeper.wake.set()


class _Keeper(threading.Thread):
    """Brings strokes onto the disk, and changed chunks when they fill half of the memory allowed."""

    def __init__(self, session: Session) -> None:
        super().__init__(name="label store keeper", daemon=True)
        self.wake = threading.Event()
        self._ended = threading.Event()
        self._session = weakref.ref(session)

    def run(self) -> None:
        while not self._ended.is_set():
            self.wake.wait()
            if self._ended.wait(SYNC_SECONDS):
                return
            self.wake.clear()
            session = self._session()
            if session is None:
                return
            with suppress(MsunetError):  # the next stroke or flush raises it, where somebody can see it
                session.keep()
            del session

    def stop(self) -> None:
        self._ended.set()
        self.wake.set()
        self.join()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint of a store."""
    checkpoint = read_json(path / "checkpoint.json")
    if not {"sequence", "segment", "offset", "merges"} <= set(checkpoint):
        raise StoreError(f"{path / 'checkpoint.json'} is damaged: copy the store again from where it came from.")
    return checkpoint


def checkpoint_mark(checkpoint: dict[str, Any]) -> Mark:
    """How much of the journal a checkpoint covers."""
    return Mark(int(checkpoint["sequence"]), int(checkpoint["segment"]), int(checkpoint["offset"]))


def save_checkpoint(path: Path, mark: Mark, merges: MergeLog) -> None:
    """Write the checkpoint of a store."""
    write_json(path / "checkpoint.json", {**mark._asdict(), "merges": merges.saved(mark.sequence)})


def unfinished(path: Path) -> bool:
    """Whether the journal of a store has records that may not be in its chunks."""
    return grew_since(path / "journal", checkpoint_mark(load_checkpoint(path)))
