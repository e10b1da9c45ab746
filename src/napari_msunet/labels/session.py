"""The work of an open store on its files: journal, cache, checkpoint and autosave; and changes by other processes."""

from __future__ import annotations

import base64
import shutil
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_msunet._io import not_saved, read_json, write_json
from napari_msunet.errors import MsunetError, NotSavedError, OutputError, StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.cache import ChunkCache
from napari_msunet.labels.journal import (
    HEADER_SIZE,
    Change,
    Header,
    Journal,
    Kind,
    Mark,
    Patch,
    cut,
    done,
    grew_since,
    pack_note,
    pack_patch,
    parse_header,
    redone,
    segment_file,
    segment_numbers,
    undone,
    unpack_note,
)
from napari_msunet.labels.levels import around, update_coarser
from napari_msunet.labels.runs.merge import Merge, MergeLog, Table, machine_values, merge_chunks, merge_from, merge_note
from napari_msunet.labels.runs.run import Run

# ----------------------------------------------------------------------------------------------------------------------
# The checkpoint of a store, which says how much of its journal is in its chunks.

Chunk = tuple[int, int]
"""Row and column of a chunk of level 0."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint of a store.

    Its `sequence`, `segment` and `offset` are the `Mark` it covers, `merges` what `MergeLog` saved, `highest`, in a
    store of objects, the largest number that was ever used, and `chunks` which chunks have files (`listed_chunks`).
    """
    checkpoint = read_json(path / "checkpoint.json")
    if not {"sequence", "segment", "offset", "merges"} <= set(checkpoint):
        raise StoreError(f"{path / 'checkpoint.json'} is damaged: copy the store again from where it came from.")
    return checkpoint


def checkpoint_mark(checkpoint: dict[str, Any]) -> Mark:
    """How much of the journal a checkpoint covers."""
    return Mark(int(checkpoint["sequence"]), int(checkpoint["segment"]), int(checkpoint["offset"]))


def save_checkpoint(
    path: Path,
    mark: Mark,
    merges: MergeLog,
    highest: int | None = None,
    chunks: Mapping[str, Collection[Chunk]] | None = None,
) -> None:
    """Write the checkpoint of a store."""
    used: dict[str, Any] = {} if highest is None else {"highest": highest}
    if chunks is not None:
        used["chunks"] = {plane: _packed(keys) for plane, keys in chunks.items()}
    write_json(path / "checkpoint.json", {**mark._asdict(), **used, "merges": merges.saved(mark.sequence)})


def listed_chunks(checkpoint: Mapping[str, Any], plane: str) -> set[Chunk] | None:
    """The chunks of level 0 that had files; None for a store older than this list, or a damaged list.

    A chunk without a file is all zero, so without this list a lost chunk would be taken as zero too.
    """
    try:
        count, text = checkpoint["chunks"][plane]
        numbers = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u4").reshape(count, 2)
    except (KeyError, TypeError, ValueError, zlib.error):
        return None
    return {(int(y), int(x)) for y, x in numbers}


def _packed(keys: Collection[Chunk]) -> tuple[int, str]:
    numbers = np.array(sorted(keys), "<u4").reshape(len(keys), 2)
    return len(keys), base64.b64encode(zlib.compress(numbers.tobytes(), 1)).decode()


def unfinished(path: Path) -> bool:
    """Whether the journal of a store has records that may not be in its chunks."""
    return grew_since(path / "journal", checkpoint_mark(load_checkpoint(path)))


# ----------------------------------------------------------------------------------------------------------------------
# When the journal of an open store is compacted.

COMPACT_BYTES = 16 * 2**20
"""The journal is compacted when at least this much of it, and half of it, is not needed by undo and redo."""


class Compactor:
    """Removes records from a journal that neither undo nor redo needs, while strokes are made.

    Parameters
    ----------
    journal : Journal
    saved : callable
        Brings the records so far into the chunks; returns the number of the last stroke of which that is known.
    """

    def __init__(self, journal: Journal, saved: Callable[[], int]) -> None:
        self._journal = journal
        self._saved = saved
        self._looked_at = 0

    def if_worth_it(self) -> None:
        """Compact if enough can be removed; called whenever the journal has grown."""
        size = self._journal.size
        if size - self._looked_at < COMPACT_BYTES // 4:
            return
        self._looked_at = size
        if self._journal.garbage > max(COMPACT_BYTES, size // 2):
            self.compact()
            self._looked_at = self._journal.size

    def compact(self) -> None:
        """Compact, unless something still waits for the disk."""
        work = self._journal.begin_compaction()
        if work is not None and self._saved() >= work.latest:
            self._journal.finish_compaction(work)


# ----------------------------------------------------------------------------------------------------------------------
# The autosave: a thread that writes an open store to the disk soon after each stroke.

SYNC_SECONDS = 0.4
"""Seconds that a stroke may wait for the disk; it survives a crash of this process from the beginning."""

QUIET_SECONDS, CHUNK_SECONDS = 0.3, 5.0
"""Seconds between two writes of chunks while strokes come faster than that; the journal has them before."""

GIVE_WAY_SECONDS = 0.004
"""Pause after each chunk that is written while strokes are made: about the time of a stroke."""

RETRY_SECONDS = 1.0
"""Seconds after which the disk is tried again after a failure."""


class Pace:
    """Decides when changed chunks wait: while strokes follow one another, the thread that makes them comes first."""

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
        """Leave the interpreter to the thread that makes strokes; called between two chunks."""
        if self.busy:
            time.sleep(GIVE_WAY_SECONDS)


class Autosaved(Protocol):
    """The interface of a session for the autosave."""

    @property
    def behind(self) -> bool: ...

    def keep(self) -> None: ...


class Autosave(threading.Thread):
    """Calls `keep` soon after `wake` is set, at once if `hurry` is too, and again and again while the disk refuses."""

    def __init__(self, session: Autosaved) -> None:
        super().__init__(name="label store autosave", daemon=True)
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
            with suppress(MsunetError, OSError):  # `unsaved` counts the stroke, and the next flush raises the error
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


# ----------------------------------------------------------------------------------------------------------------------
# Changes by another process, for a store that is open for reading only.


class ExternalChanges:
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
        except OSError:  # files appear and vanish while the other process compacts its journal
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


# ----------------------------------------------------------------------------------------------------------------------
# The session, through which an open store is changed.

PART = 512
"""Side of the parts in which a larger stroke is put into the journal, so that uniform chunks stay uniform."""

_SLACK = 64 * 2**20  # bytes above the cache's limit at which a stroke waits for the disk
_GROUP = 64  # parts of a stroke whose coarser levels are made together


class Session:
    """The writing part of a store, from the first write until `close`.

    The order is always journal, cache, chunks, checkpoint. The checkpoint names the last record whose pixels are in the
    chunks; the records after it are applied again when the store is opened. They hold values, not differences, so this
    is right however many of the chunks were written already.

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
        self._autosave: Autosave | None = None
        try:
            self._replay()
        except BaseException:
            self.journal.close(lose=True)
            raise

    @property
    def messages(self) -> list[str]:
        """Sentences about damage that was found when the journal was opened."""
        return self.journal.messages

    def start_autosave(self) -> None:
        """Start the thread that brings strokes onto the disk soon after they were made."""
        self._autosave = Autosave(self)
        self._autosave.start()
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
        """The values of the newest merged runs in a window."""
        return machine_values(self.merges, window, self._dtype, self._run_of)

    def _commit(self, kind: Kind, patches: Iterable[Patch], windows: list[Window]) -> int:
        """Journal, then cache."""
        self.make_room()
        count = len(windows)
        with self._edit:
            sequence = self.journal.history.latest + 1
            kept: list[Patch] = []
            # the values of a stroke are those of the caller, and take no more memory
            keep = kind is Kind.STROKE or count <= _GROUP

            def records() -> Iterator[bytes]:
                for number, patch in enumerate(patches, 1):
                    if keep:
                        kept.append(replace(patch, before=None, edited_before=None))
                    yield pack_patch(kind, sequence, patch, last=number == count)

            mark = self.journal.append(kind, sequence, records())
            try:
                self._apply_all(kept or self.journal.patches(sequence))
            except BaseException:
                # no checkpoint covers it, so the next opening applies it again, whole
                self._pending.append(self._applied)
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
        """Apply patches to the cache, some at a time."""
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
        """Copy a run's labels to pixels that are not edited; strokes may be made meanwhile."""
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
        """Apply the records after the checkpoint again."""
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
        """Write all records so far into the chunks, then a checkpoint; `gently`: with pauses while strokes are made.

        No chunk is renamed before everything in it is in the journal and on disk.
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
        save_checkpoint(self._path, mark, self.merges, highest, self.cache.present)
        self._saved = mark

    def make_room(self) -> None:
        """Keep the cache near its limit, by waking the autosave; far above the limit this waits, or raises."""
        if self.cache.trim():
            return
        self._wake()
        while self.cache.nbytes > self.cache.limit + min(_SLACK, self.cache.limit // 8):
            if self._autosave is None or self._stuck:
                try:
                    self.flush()
                except OutputError as error:
                    raise OutputError(f"{error} Nothing more can be kept in memory until then.") from error
                self.cache.trim()
                return
            self._autosave.hurry.set()
            self._wake()
            time.sleep(0.01)
            self.cache.trim()

    def close(self, lose: bool = False) -> None:
        """Write everything and close the files; unless `lose`, strokes that are not on disk raise an error."""
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
            if self._autosave is not None:
                self._autosave.stop()
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
        """Save; called by the autosave soon after a stroke."""
        try:
            room = self.cache.nbytes <= self.cache.limit
            self.journal.sync() if room and self._pace.chunks_may_wait else self.flush(gently=room)
            self.tell()
            self._stuck = False
        except BaseException:
            self._stuck = True  # a stroke that waits for room finds the reason by flushing
            raise
        self.cache.trim()
        self.compact(if_worth_it=True)

    @property
    def behind(self) -> bool:
        """Whether anything has to be written."""
        return bool(self.journal.waiting or self.cache.dirty)

    def tell(self) -> None:
        """Report how many strokes are in memory only, if that has changed."""
        if self._unsaved != self.journal.waiting:
            self._unsaved = self.journal.waiting
            self.told(self._unsaved)

    def _wake(self) -> None:
        if self._autosave is not None:
            self._autosave.wake.set()
