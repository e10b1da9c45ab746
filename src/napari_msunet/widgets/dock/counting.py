"""What is annotated on each slide, counted beside the GUI thread and told to the state."""

from __future__ import annotations

from pathlib import Path

from napari.utils.notifications import show_warning
from qtpy.QtCore import QObject

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region
from napari_msunet.labels import open_labels
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.counts import Counts
from napari_msunet.widgets.dock.state import BACKGROUND, SlideRecord, State


class Counting:
    """Counts the annotations of the slides, and again what a stroke touched.

    Parameters
    ----------
    state : State
        Is told the counts; classes that only an annotation has are added to it.
    parent : QObject

    Attributes
    ----------
    of : dict of SlideRecord to Counts
        The slides whose annotations are counted.
    """

    def __init__(self, state: State, parent: QObject) -> None:
        self.state = state
        self.of: dict[SlideRecord, Counts] = {}
        self._background = Background("msunet-counts", parent)

    def scan(self, record: SlideRecord) -> None:
        """Count a slide's annotation; returns at once."""
        counts = self.of[record] = Counts(open_labels(record.annotation))
        self._background.run(counts.scan, lambda found: self._counted(record, found))

    def scan_new(self) -> None:
        """Count the annotations that were not yet; one that cannot be opened is let go with a warning."""
        for record in self.state.slides:
            if record.annotation is not None and record not in self.of:
                try:
                    self.scan(record)
                except MsunetError as error:
                    record.annotation = None
                    show_warning(str(error))

    def stroke(self, path: Path, region: Region) -> None:
        """Count again what a stroke touched in the annotation at a path."""
        record = next((r for r in self.state.slides if r.annotation == path), None)
        counts = None if record is None else self.of.get(record)
        if counts is not None:
            self._background.run(lambda: counts.update(region), lambda found: self._counted(record, found))

    def _counted(self, record: SlideRecord, found: dict[int, int]) -> None:
        """In the order of the dock's classes, which a store made elsewhere need not have."""
        store = self.of[record].store
        names = store.classes
        unknown = [name for value, name in enumerate(names, 1) if found.get(value) and name not in self.state.classes]
        if unknown:
            fresh = self.state.classes == ("class 1",) and not any(r.counts for r in self.state.slides)
            kept = tuple(n for n in self.state.classes if n in names or not fresh)
            self.state.set_classes((*kept, *unknown))
        by_name = {name: found.get(value, 0) for value, name in enumerate(names, 1)}
        ordered = {value: by_name[n] for value, n in enumerate(self.state.classes, 1) if by_name.get(n)}
        if found.get(BACKGROUND):
            ordered[BACKGROUND] = found[BACKGROUND]
        self.state.set_counts(record, ordered, len(store.fully_annotated))

    def close(self) -> None:
        """Count no more."""
        self._background.close()
