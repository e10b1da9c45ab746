"""How much is annotated and corrected on each slide, counted in a thread and set in the state.

The counting belongs to the dock and begins with each slide, whichever step is open, because the training data must
not depend on which steps were opened.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from napari.utils.notifications import show_warning
from qtpy.QtCore import QObject

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.levels import tiles
from napari_msunet.review.state import load_state
from napari_msunet.widgets.dock.annotation_counts import Counts
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.state import SlideRecord, State


class AnnotationCounter:
    """Counts the annotations of all slides, again after each stroke where it touched, and once the corrected pixels.

    Parameters
    ----------
    state : State
        Gets the counts; classes that only an annotation has are added to it.
    parent : QObject
    """

    def __init__(self, state: State, parent: QObject) -> None:
        self.state = state
        self._edits: dict[SlideRecord, Path] = {}
        self._busy: set[Counts] = set()
        self._background = Background("msunet-counts", parent)
        state.painted.connect(self.stroke)

    def scan_new(self) -> None:
        """Count annotations that were not counted yet or were changed by another program; returns at once."""
        for record in self.state.slides:
            told = record.unreadable
            try:
                counter = record.annotation_counter()
            except MsunetError as error:
                if record.unreadable != told:
                    show_warning(str(error))
                    self.state.emit("counts")
                continue
            if counter is not None and counter not in self._busy and (not record.counted or counter.outdated):
                self._run(record, counter, counter.scan)
            if record.labels is not None and self._edits.get(record) != record.labels:
                self._edits[record] = record.labels
                self._background.run(partial(_edits, record.labels), partial(self._edited, record), lambda _: None)

    def stroke(self, path: Path, region: Region) -> None:
        """Count again what a stroke touched in the annotation at a path."""
        record = next((r for r in self.state.slides if r.annotation == path), None)
        if record is not None and record.counter is not None:
            self._run(record, record.counter, partial(record.counter.update, region))

    def _run(self, record: SlideRecord, counter: Counts, work: Callable[[], dict[int, int]]) -> None:
        def take(found: dict[int, int]) -> None:
            self._busy.discard(counter)
            if record.counter is counter:
                self.state.take_counts(record, counter.store, found)

        def failed(error: BaseException) -> None:
            self._busy.discard(counter)
            record.unreadable = f"The annotation of {record.path.name} cannot be read ({error})"
            show_warning(record.unreadable)
            self.state.emit("counts")

        self._busy.add(counter)
        self._background.run(work, take, failed)

    def _edited(self, record: SlideRecord, found: tuple[int, bool]) -> None:
        pixels, accepted = found
        self.state.reviewed = self.state.reviewed or accepted
        if record.edited != pixels:
            record.edited = pixels
            self.state.emit("counts")

    def close(self) -> None:
        """Stop counting."""
        self.state.painted.disconnect(self.stroke)
        self._background.close()


def _edits(labels: Path) -> tuple[int, bool]:
    """How many pixels of labels a person changed, and whether any place of them was accepted."""
    store = open_labels(labels)
    return edited_pixels(store), bool(load_state(store).accepted)


def edited_pixels(store: LabelStore) -> int:
    """How many level-0 pixels a person changed; reads only where the coarsest level shows any."""
    coarse = np.asarray(store.edited_levels[-1])
    factor = 2 ** (len(store.edited_levels) - 1)
    found = np.argwhere(coarse)
    if not found.size:
        return 0
    (top, left), (bottom, right) = found.min(0) * factor, (found.max(0) + 1) * factor
    window = Window.between((int(top), int(left)), (int(bottom), int(right))).intersection(Window(0, 0, *store.shape))
    total = 0
    for tile in tiles(window, max(512, factor)):
        if coarse[tile.y // factor : -(-tile.stop[0] // factor), tile.x // factor : -(-tile.stop[1] // factor)].any():
            total += int(store.read_edited(tile).sum())
    return total
