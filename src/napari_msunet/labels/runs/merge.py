"""Merging runs into the labels, and the values that the merged runs have at a place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.constants import CHUNK
from napari_msunet.geometry import Window
from napari_msunet.labels.cache import ChunkCache
from napari_msunet.labels.levels import tiles, update_coarser
from napari_msunet.labels.runs.run import Run

Table = npt.NDArray[np.generic] | None
"""The store's value for each value of a run; None: the values are the same."""


def joined(windows: Iterable[Window]) -> list[Window]:
    """The same pixels in fewer windows: neighbours of one height are joined along x, of one width along y."""
    rows: list[Window] = []
    for w in sorted(set(windows), key=lambda w: (w.y, w.height, w.x, w.width)):
        last = rows[-1] if rows else None
        if last is not None and (last.y, last.height) == (w.y, w.height) and w.x <= last.stop[1]:
            rows[-1] = Window.between((last.y, last.x), (w.stop[0], max(last.stop[1], w.stop[1])))
        else:
            rows.append(w)
    out: list[Window] = []
    for w in sorted(rows, key=lambda w: (w.x, w.width, w.y, w.height)):
        last = out[-1] if out else None
        if last is not None and (last.x, last.width) == (w.x, w.width) and w.y <= last.stop[0]:
            out[-1] = Window.between((last.y, last.x), (max(last.stop[0], w.stop[0]), w.stop[1]))
        else:
            out.append(w)
    return out


@dataclass
class Merge:
    """One merge: the number of its journal record, the run, and where."""

    sequence: int
    key: str
    windows: list[Window]

    def hits(self, window: Window) -> list[Window]:
        """The parts of `window` that it covers."""
        parts = (window.intersection(w) for w in self.windows)
        return [part for part in parts if not part.empty]


class MergeLog:
    """All merges, the newest last."""

    def __init__(self, saved: Sequence[dict[str, Any]] = ()) -> None:
        self._merges = [merge_from(note) for note in saved]
        self._lock = threading.Lock()

    def add(self, merge: Merge) -> None:
        """Add a merge; one that is known already changes nothing."""
        with self._lock:
            if not self._merges or self._merges[-1].sequence < merge.sequence:
                self._merges.append(merge)

    def newest_first(self) -> Iterator[Merge]:
        """All merges."""
        return reversed(list(self._merges))

    def tidy(self, upto: int) -> None:
        """Join neighbouring merges of one run, of those with sequence numbers up to the given one."""
        with self._lock:
            merges: list[Merge] = []
            for merge in self._merges:
                last = merges[-1] if merges else None
                if last is not None and last.key == merge.key and merge.sequence <= upto:
                    merges[-1] = Merge(merge.sequence, merge.key, joined([*last.windows, *merge.windows]))
                else:
                    merges.append(merge)
            self._merges = merges

    def saved(self, upto: int) -> list[dict[str, Any]]:
        """What `MergeLog` can be made of again, of the merges up to a sequence number."""
        return [merge_note(m) for m in self._merges if m.sequence <= upto]


def merge_note(merge: Merge) -> dict[str, Any]:
    """A merge as plain values."""
    windows = [[w.y, w.x, w.height, w.width] for w in merge.windows]
    return {"sequence": merge.sequence, "run": merge.key, "windows": windows}


def merge_from(note: dict[str, Any]) -> Merge:
    """The merge that `merge_note` noted."""
    return Merge(int(note["sequence"]), str(note["run"]), [Window(*map(int, w)) for w in note["windows"]])


def value_table(run: Run, classes: Sequence[str], instances: bool) -> Table:
    """The store's class number for each of a run's, by name."""
    if instances:
        return None
    table = np.zeros(256, np.uint8)
    for value, name in enumerate(run.classes, 1):
        table[value] = classes.index(name) + 1
    return table


def machine_values(
    log: MergeLog, window: Window, dtype: np.dtype[Any], run_of: Callable[[str], tuple[Run, Table]]
) -> npt.NDArray[Any] | int:
    """The values of the newest merged runs in a window, 0 where none was merged; only 0 if none was merged at all."""
    found = ((merge, hits) for merge in log.newest_first() if (hits := merge.hits(window)))
    newest = next(found, None)
    if newest is None:
        return 0
    values = np.zeros(window.shape, dtype)
    open_pixels = np.ones(window.shape, np.bool_)
    for merge, hits in chain([newest], found):
        run, table = run_of(merge.key)
        for hit in hits:
            place = hit.slices((window.y, window.x))
            labels = run.read(hit)
            np.copyto(values[place], labels if table is None else table[labels], where=open_pixels[place])
        for hit in hits:
            open_pixels[hit.slices((window.y, window.x))] = False
        if not open_pixels.any():
            break
    return values


def merge_chunks(cache: ChunkCache, run: Run, table: Table, windows: Sequence[Window], again: bool) -> Iterator[None]:
    """Copy a run's labels to pixels that are not edited, one chunk for each step.

    `again` redoes a merge that was interrupted, where chunks that are right already may lack their coarser levels.
    """
    touched: dict[tuple[int, int], list[Window]] = {}
    for window in windows:
        for tile in tiles(window, CHUNK):
            touched.setdefault((tile.y // CHUNK, tile.x // CHUNK), []).append(tile)
    for (cy, cx), parts in sorted(touched.items(), key=lambda item: _z_order(*item[0])):
        found = run.chunk(cy, cx)
        if found is None and run.lost(Window(cy * CHUNK, cx * CHUNK, 1, 1), ("labels",)) is not None:
            yield  # the labels stay as they are where the run's chunk is damaged
            continue
        with cache.lock:
            if found is not None or again or cache.uniform("labels", 0, cy, cx) != 0:
                labels = None if found is None else (found if table is None else table[found])
                for part in parts:
                    _merge_part(cache, labels, part, again)
        if sum(part.height * part.width for part in parts) == cache.pixels_of(cy, cx):
            cache.made_anew(cy, cx)
        yield


def _merge_part(cache: ChunkCache, labels: npt.NDArray[Any] | None, part: Window, again: bool) -> None:
    """Merge one window within a chunk; `labels` are those of the whole chunk."""
    inner = Window(part.y % CHUNK, part.x % CHUNK, *part.shape).slices()
    new: Any = 0 if labels is None else labels[inner]
    mask = None
    edited = cache.uniform("edited", 0, part.y // CHUNK, part.x // CHUNK)
    if ("edited", 0, part.y // CHUNK, part.x // CHUNK) in cache.damaged:
        return  # it is not known which pixels a person edited there
    if edited != 0:
        mask = ~cache.read("edited", 0, part)
        if not mask.any() and not again:
            return
    old = cache.read("labels", 0, part)
    changed = (old != new) if mask is None else (old != new) & mask
    if again or changed.any():
        cache.assign("labels", 0, part, new, mask)
        update_coarser(cache, part)


def _z_order(y: int, x: int) -> int:
    """A key of an order in which neighbours follow soon, so that chunks of coarser levels stay in memory."""
    return sum(((y >> bit & 1) << (2 * bit + 1)) | ((x >> bit & 1) << (2 * bit)) for bit in range(24))
