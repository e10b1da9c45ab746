"""Which strokes can be undone and redone: linear, unlimited, over sessions."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window
from napari_msunet.labels.cache import ChunkCache
from napari_msunet.labels.changes import Change
from napari_msunet.labels.records import Kind, Patch

Machine = Callable[[Window], npt.NDArray[Any] | int]
"""From a window to what the newest merged runs show there: an array or one value."""


class History:
    """Sequence numbers of strokes and releases: `undo` those that stand, `redo` those taken back, the next one last."""

    def __init__(self, undo: Iterable[int] = (), redo: Iterable[int] = ()) -> None:
        self.undo = list(undo)
        self.redo = list(redo)
        self.latest = max([0, *self.undo, *self.redo])

    @property
    def needed(self) -> set[int]:
        """All strokes that can still be undone or redone."""
        return {*self.undo, *self.redo}

    def keep(self, sequences: Container[int]) -> None:
        """Forget strokes whose records were lost."""
        self.undo = [s for s in self.undo if s in sequences]
        self.redo = [s for s in self.redo if s in sequences]

    def forget(self, sequence: int) -> None:
        """Leave out a stroke whose record turned out to be damaged."""
        self.undo = [s for s in self.undo if s != sequence]
        self.redo = [s for s in self.redo if s != sequence]

    def follow(self, kind: Kind, sequence: int) -> None:
        """Take in one record."""
        self.latest = max(self.latest, sequence)
        if kind in (Kind.STROKE, Kind.RELEASE):
            self.undo.append(sequence)
            self.redo.clear()
        elif kind is Kind.UNDO and self.undo:
            self.redo.append(self.undo.pop())
        elif kind is Kind.REDO and self.redo:
            self.undo.append(self.redo.pop())


def done(kind: Kind, part: Change, cache: ChunkCache, machine: Machine) -> Patch:
    """What a stroke does to one window, or a release (values: None), which gives the machine's value of today."""
    window, values, mask = part
    new = machine(window) if values is None else values
    edited = cache.part("edited", 0, window)
    was: Any = bool(edited) if isinstance(edited, int) else edited
    return Patch(window, new, kind is Kind.STROKE, mask, cache.part("labels", 0, window), was)


def undone(patch: Patch, machine: Machine, dtype: np.dtype[Any]) -> Patch:
    """What taking a stroke back does: edited pixels get what was there, the others the machine's value of today."""
    before, edited = patch.before, patch.edited_before
    if before is not None and edited is True:
        return Patch(patch.window, before, True, patch.mask)
    base = machine(patch.window)
    if before is None or edited is None or edited is False:
        return Patch(patch.window, base, False, patch.mask)
    values = np.where(edited, np.asarray(before, dtype), np.asarray(base, dtype))
    return Patch(patch.window, values, edited, patch.mask)


def redone(kind: Kind, patch: Patch, machine: Machine) -> Patch:
    """What doing a stroke again does; a release gives the machine's value of today."""
    if kind is Kind.RELEASE:
        return Patch(patch.window, machine(patch.window), False, patch.mask)
    return Patch(patch.window, patch.values, True, patch.mask)
