"""Merging finished parts of a prediction into the open labels, piece by piece, in a thread."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_msunet.config import ModelConfig, PredictJob
from napari_msunet.config.prediction import InClasses
from napari_msunet.errors import StoreError
from napari_msunet.events import RegionDone
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.checks import same_pixels
from napari_msunet.labels.levels import tiles
from napari_msunet.slide import open_slide
from napari_msunet.widgets.dock.background import Background

if TYPE_CHECKING:
    from napari_msunet.widgets.paint import PyramidLabels
PIECE = 1024
"""Side of a piece that is merged at once: two by two chunks, so that a stroke never waits long."""


def prepare_store(job: PredictJob, config: ModelConfig, free: Path) -> Path:
    """The store that a prediction fills, locked by this process: `job.out`, or `free` if `job.out` has other pixels.

    Raises
    ------
    MsunetError
        If the slide or the store cannot be opened, or another process writes into it.
    """
    if isinstance(job.where, InClasses):  # flushed, because the worker reads the chunks, not the journal
        open_labels(job.where.labels).flush()
    with open_slide(job.slide, mpp=job.slide_mpp) as slide:
        grid = slide.grid(config.output)
        out = job.out
        if out.exists():
            store = open_labels(out)
            same = store.shape == grid.shape and same_pixels(store, grid)
            if same:
                try:
                    store.check_slide(slide)
                except StoreError:  # the store is of another slide of the same size
                    same = False
            out = out if same else free
        if not out.exists():
            LabelStore.create(out, mpp=config.output, classes=config.classes, slide=slide, check_names=False)
    open_labels(out).hold()
    return out


class Merging(QObject):
    """Merges the finished parts of a run into the store of a layer, and shows them.

    Attributes
    ----------
    idle : Signal()
        Emitted after `finish`, when everything is merged.
    layer : PyramidLabels, optional
        The layer into whose store they are merged.
    """

    idle = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.layer: PyramidLabels | None = None
        self.path = Path()
        self._background = Background("msunet-merging", self)
        self._runs: dict[str, set[Window]] = {}

    @property
    def busy(self) -> bool:
        """Whether parts wait to be merged."""
        return self._background.busy

    def start(self, layer: PyramidLabels) -> None:
        """Merge into this layer from now on."""
        self.layer, self.path = layer, layer.store.path
        self._runs = {}

    def add(self, event: RegionDone) -> None:
        """Merge a finished part."""
        if self.layer is None:
            return
        window = Window(event.y, event.x, event.height, event.width)
        self._runs.setdefault(event.run, set()).add(window)
        self._merge(event.run, window)

    def _merge(self, key: str, window: Window) -> None:
        layer, store = self.layer, self.layer.store
        for piece in tiles(window, PIECE):
            work = partial(_merge_piece, store, key, piece)
            self._background.run(work, partial(self._show, layer, piece))

    def _show(self, layer: PyramidLabels, window: Window, _: object) -> None:
        layer.refresh_window(window)

    def finish(self, key: str | None) -> None:
        """Merge what was finished before the job began (`key`: its run, if known), then emit `idle`; the job has
        ended."""
        store = self.layer.store
        keys = [*self._runs, *([key] if key and key not in self._runs else [])]
        known = {k: set(v) for k, v in self._runs.items()}

        def left() -> list[tuple[str, Window]]:
            return [(k, w) for k in keys for w in store.run(k).done.values() if w not in known.get(k, ())]

        def merge(rest: list[tuple[str, Window]]) -> None:
            for run, window in rest:
                self._merge(run, window)
            self._background.run(store.flush, lambda _: self.idle.emit())

        self._background.run(left, merge)

    def closing(self) -> None:
        """Stop merging. The run keeps the parts that wait, which can be merged later."""
        self._background.close()
        self.layer = None


def _merge_piece(store: LabelStore, key: str, window: Window) -> None:
    store.merge(store.run(key), [window])
