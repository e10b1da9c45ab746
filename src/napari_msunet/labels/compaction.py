"""When the journal of an open store is compacted."""

from __future__ import annotations

from collections.abc import Callable

from napari_msunet.labels.journal import Journal

COMPACT_BYTES = 16 * 2**20
"""The journal is compacted when this much of it, and half of it, is needed by neither undo nor redo."""


class Compactor:
    """Takes out of a journal what neither undo nor redo needs, while strokes go on.

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
        """Compact if there is enough to take out; looked at whenever the journal has grown."""
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
