"""Ranking the places to review, and counting the reviewed ones, in a thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QComboBox

from napari_msunet.review import queue
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.fields import TICKS

if TYPE_CHECKING:
    from napari_msunet.labels import LabelStore
    from napari_msunet.objects.table import ObjectTable
    from napari_msunet.review.queue import TissueLike
# ----------------------------------------------------------------------------------------------------------------------
# The rankings of places to review.

RANKINGS = {
    "disagreement": ("The scales disagree", "Where the networks of the scales say different things."),
    "entropy": ("The model is unsure", "Where the probabilities of the classes are close to one another."),
    "distance": ("Far from what was seen", "Spread over the tissue, far from what was reviewed or corrected."),
    "oddity": ("Odd objects", "Objects whose area or shape is unlike that of the others of their class."),
}


class RankingBox(QComboBox):
    """All rankings. Those for which the runs of a store kept no output cannot be chosen."""

    def __init__(self) -> None:
        super().__init__()
        self._chosen = False
        self.setAccessibleName("What places are ranked by")
        for name, (text, tip) in RANKINGS.items():
            self.addItem(text, name)
            self.setItemData(self.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.activated.connect(self._activated)

    def forget_choice(self) -> None:
        """Choose the best ranking of each store again, until the person chooses one."""
        self._chosen = False

    def offer(self, store: LabelStore, background: Background) -> None:
        """Enable the rankings that are possible with the runs of a store; looked up in the background."""
        background.run(partial(queue.available, store), self._show)

    def _show(self, names: tuple[str, ...]) -> None:
        model = self.model()
        for row, name in enumerate(RANKINGS):
            item = model.item(row)
            item.setEnabled(name in names)
            text, tip = RANKINGS[name]
            # the reason stands beside what is grey
            item.setText(text if name in names else f"{text} (tick {TICKS[name][0]} in Predict first)")
            item.setToolTip(tip)
        if not self._chosen:
            self.setCurrentIndex(list(RANKINGS).index(names[0]))

    def _activated(self) -> None:
        self._chosen = True
        self.setToolTip(RANKINGS[self.currentData()][1])


# ----------------------------------------------------------------------------------------------------------------------
# Ranking the places to review, in a thread.

_SETTLE_MS = 500
_TELL_SECONDS = 0.05


class Surveyor(QObject):
    """Ranks and counts the places of the labels under review; signals come on the GUI thread.

    Parameters
    ----------
    background : Background
        The thread in which it works.
    asked : callable
        Gives the store under review, the side of a place in pixels, and the tissue mask or None; or None in place of
        all three where no labels are reviewed.
    parent : QObject, optional

    Attributes
    ----------
    progressed : Signal(int, int)
        Places ranked, and all places.
    found : Signal(str, object)
        The ranking, and the `Survey` with the places.
    counted : Signal(object)
        A `Survey` without places, with the present counts.
    failed : Signal(object)
        The exception of a ranking.
    """

    progressed = Signal(int, int)
    found = Signal(str, object)
    counted = Signal(object)
    failed = Signal(object)

    def __init__(
        self,
        background: Background,
        asked: Callable[[], tuple[LabelStore, int, TissueLike | None] | None],
        parent: QObject | None,
    ) -> None:
        super().__init__(parent)
        self._background = background
        self._asked = asked
        self._told = 0.0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)
        self._timer.timeout.connect(self._count)

    def rank(self, by: str, objects: ObjectTable | None = None) -> None:
        """Rank the places that were not reviewed; returns at once."""
        asked = self._asked()
        if asked is None:
            return
        store, size, tissue = asked
        work = partial(queue.survey, store, by, size, tissue=tissue, objects=objects, tell=self._tell)
        self._background.run(work, partial(self.found.emit, by), self.failed.emit)

    def _tell(self, done: int, total: int) -> None:
        """Report progress; called in the thread."""
        if time.monotonic() - self._told > _TELL_SECONDS:
            self._told = time.monotonic()
            self.progressed.emit(done, total)

    def count_soon(self) -> None:
        """Count the reviewed places again once nothing has changed for a while."""
        self._timer.start()

    def _count(self) -> None:
        asked = self._asked()
        if asked is None:
            return
        if self._background.busy:
            self._timer.start()
            return
        store, size, tissue = asked
        work = partial(queue.survey, store, None, size, tissue=tissue)
        self._background.run(work, self.counted.emit, lambda error: None)

    def close(self) -> None:
        """Stop counting."""
        self._timer.stop()
