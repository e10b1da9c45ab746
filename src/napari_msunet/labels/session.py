"""What an open store does with its files: one writer's journal, cache and checkpoint."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import NotSavedError, OutputError, StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.cache import ChunkCache
from napari_msunet.labels.changes import Change, cut
from napari_msunet.labels.checkpoint import checkpoint_mark, listed_chunks, load_checkpoint, save_checkpoint
from napari_msunet.labels.compaction import Compactor
from napari_msunet.labels.files import not_saved, output_errors
from napari_msunet.labels.history import done, redone, undone
from napari_msunet.labels.journal import Journal
from napari_msunet.labels.keeper import Keeper, Pace
from napari_msunet.labels.levels import around, update_coarser
from napari_msunet.labels.merge import Merge, MergeLog, Table, machine_values, merge_chunks, merge_from, merge_note
from napari_msunet.labels.records import Kind, Patch, pack_note, pack_patch
from napari_msunet.labels.runs import Run
from napari_msunet.labels.segments import Mark

PART = 512
"""A stroke over a larger window is put into the journal in parts of this side: chunks that are uniform stay so."""

_SLACK = 64 * 2**20  # bytes above the cache's limit at which a stroke waits for the disk
_GROUP = 64  # parts of a stroke whose coarser levels are made together


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

    Attributes
    ----------
    told : callable
        Called with the number of strokes that are in memory only, whenever it changes; from any thread.
    """

    def __init__(
        self, path: Path, cache: ChunkCache, dtype: np.dtype[Any], run_of: Callable[[str], tuple[Run, Table]]
    ) -> None:
        self.cache = cache
        self.told: Callable[[int], None] = lambda unsaved: None
        self._path = path
        self._dtype = dtype
        self._run_of = run_of
        self._edit = threading.RLock()
        self._flush = threading.RLock()
        self._merge = threading.Lock()
        self._pending: list[Mark] = []
        self._unsaved = 0
        self._pace = Pace()
        self._stuck = False
        shutil.rmtree(path / "aside", ignore_errors=True)
        checkpoint = load_checkpoint(path)
        self._saved = checkpoint_mark(checkpoint)
        cache.highest = int(checkpoint.get("highest", 0))
        self.counted = "highest" in checkpoint
        for plane in ("labels", "edited"):
            cache.know(plane, listed_chunks(checkpoint, plane))
        self.merges = MergeLog(checkpoint["merges"])
        self.journal = Journal(path / "journal", dtype, checked_after=self._saved.sequence)
        self.journal.history.latest = max(self.journal.history.latest, self._saved.sequence)
        self._compactor = Compactor(self.journal, self._flushed)
        self._applied = self._saved
        self._keeper: Keeper | None = None
        try:
            self._replay()
        except BaseException:
            self.journal.close(lose=True)
            raise

    @property
    def messages(self) -> list[str]:
        """What was found damaged when the journal was opened."""
        return self.journal.messages

    def start_keeper(self) -> None:
        """Start the thread that brings strokes onto the disk soon after they were made."""
        self._keeper = Keeper(self)
        self._keeper.start()
        if self.behind:
            self._wake()

    # ------------------------------------------------------------------------------------------------------- strokes

    def change(self, kind: Kind, changes: Iterable[Change]) -> int:
        """A stroke (values: an array or one value) or a release (values: None); 0 if every mask is empty.

        The windows of `changes` do not overlap.
        """
        parts = [part for change in changes for part in cut(*change, PART)]
        patches = (done(kind, part, self.cache, self.machine) for part in parts)
        return self._commit(kind, patches, [part[0] for part in parts]) if parts else 0

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
                    back = kind is Kind.UNDO
                    yield undone(patch, self.machine, self._dtype) if back else redone(was, patch, self.machine)

            try:
                self._commit(kind, patches(), windows)
            except NotSavedError:
                raise
            except StoreError as error:
                history.forget(stroke)
                raise StoreError(
                    f"{error}: it can neither be undone nor done again and is left out; those before it still can."
                ) from error
        return around(windows)

    def highest(self) -> int:
        """The largest number of an object that was ever used; counted once in a store that does not note it."""
        if not self.counted:
            self.cache.count()
            self.counted = True
        return self.cache.highest

    def machine(self, window: Window) -> npt.NDArray[Any] | int:
        """What the newest merged runs show in a window."""
        return machine_values(self.merges, window, self._dtype, self._run_of)

    def _commit(self, kind: Kind, patches: Iterable[Patch], windows: list[Window]) -> int:
        """Journal, then cache."""
        self.make_room()
        count = len(windows)
        with self._edit:
            sequence = self.journal.history.latest + 1
            kept: list[Patch] = []
            keep = kind is Kind.STROKE or count <= _GROUP  # a stroke's values are the caller's and take no more memory

            def records() -> Iterator[bytes]:
                for number, patch in enumerate(patches, 1):
                    if keep:
                        kept.append(replace(patch, before=None, edited_before=None))
                    yield pack_patch(kind, sequence, patch, last=number == count)

            mark = self.journal.append(kind, sequence, records())
            try:
                self._apply_all(kept or self.journal.patches(sequence))
            except BaseException:
                self._pending.append(self._applied)  # no checkpoint after it: the next opening does it again, whole
                raise
            self._applied = mark
            self._pace.stroke()
            waits = self.journal.waits(sequence)
        self.cache.trim()
        self._wake()
        self.tell()
        if waits:
            raise not_saved(self._path, self.journal.failure, sequence, around(windows))
        return sequence

    def _apply_all(self, patches: Iterable[Patch]) -> None:
        """Put patches into the cache, some at a time."""
        group: list[Patch] = []
        for patch in patches:
            group.append(patch)
            if len(group) == _GROUP:
                self._apply(group)
                group = []
                with suppress(OutputError):  # the stroke is safe in the journal; the next one is refused
                    self.make_room()
        if group:
            self._apply(group)

    def _apply(self, patches: list[Patch]) -> None:
        with self.cache.lock:
            for patch in patches:
                self.cache.forget_edited(patch.window)
                self.cache.assign("labels", 0, patch.window, patch.values, patch.mask)
                self.cache.assign("edited", 0, patch.window, patch.edited, patch.mask)
            update_coarser(self.cache, *(patch.window for patch in patches))

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
        self.tell()

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
                self._apply_all(self.journal.patches(sequence))
                self.cache.trim()
        self._applied = self.journal.mark
        if self.journal.damaged:
            self.flush()
            self.compact()

    def flush(self, gently: bool = False) -> None:
        """All records so far into the chunks, and a checkpoint that says so; `gently`: with pauses while strokes go on.

        No chunk gets its name before everything in it is in the journal and on the disk.
        """
        with self._flush:
            self._pace.written()
            mark = min([self._applied, *self._pending])  # `_applied` first: a merge puts itself into `_pending` before
            try:
                self.journal.sync()
                self.tell()
                self.cache.flush(self.journal.sync, self._pace.give_way if gently else None)
                if mark != self._saved:
                    self.merges.tidy(mark.sequence)
                    self._checkpoint(mark)
            finally:
                self.tell()

    def _checkpoint(self, mark: Mark) -> None:
        highest = self.cache.highest if self._dtype.itemsize > 1 and self.counted else None
        with output_errors(self._path):
            save_checkpoint(self._path, mark, self.merges, highest, self.cache.present)
        self._saved = mark

    def make_room(self) -> None:
        """Keep the cache near its limit: the keeper writes changed chunks; far above it this waits, or raises."""
        if self.cache.trim():
            return
        self._wake()
        while self.cache.nbytes > self.cache.limit + min(_SLACK, self.cache.limit // 8):
            if self._keeper is None or self._stuck:
                try:
                    self.flush()
                except OutputError as error:
                    raise OutputError(f"{error} Nothing more can be kept in memory until then.") from error
                self.cache.trim()
                return
            self._keeper.hurry.set()
            self._wake()
            time.sleep(0.01)
            self.cache.trim()

    def close(self, lose: bool = False) -> None:
        """Write everything and let go of the files; unless `lose`, nothing is let go of that is not on the disk."""
        with self._merge, self._edit:
            try:
                self.flush()
            except OutputError:
                if not lose and self.journal.waiting:
                    raise
                with suppress(OutputError):
                    self.journal.sync()
                if not lose and self.journal.waiting:
                    raise
            if self._keeper is not None:
                self._keeper.stop()
            try:
                with suppress(OutputError):
                    self.compact(if_worth_it=True)
            finally:
                self.journal.close(lose=True)

    def compact(self, if_worth_it: bool = False) -> None:
        """Compact the journal while strokes go on."""
        with self._flush:
            self._compactor.if_worth_it() if if_worth_it else self._compactor.compact()

    def _flushed(self) -> int:
        """Flush; the last stroke that the checkpoint covers."""
        self.flush()
        return self._saved.sequence

    def keep(self) -> None:
        """What the keeper does soon after a stroke."""
        try:
            room = self.cache.nbytes <= self.cache.limit
            self.journal.sync() if room and self._pace.chunks_may_wait else self.flush(gently=room)
            self.tell()
            self._stuck = False
        except BaseException:
            self._stuck = True  # who waits for room finds out why by flushing
            raise
        self.cache.trim()
        self.compact(if_worth_it=True)

    @property
    def behind(self) -> bool:
        """Whether something still has to be written."""
        return bool(self.journal.waiting or self.cache.dirty)

    def tell(self) -> None:
        """Tell how many strokes are in memory only, if that has changed."""
        if self._unsaved != self.journal.waiting:
            self._unsaved = self.journal.waiting
            self.told(self._unsaved)

    def _wake(self) -> None:
        if self._keeper is not None:
            self._keeper.wake.set()
