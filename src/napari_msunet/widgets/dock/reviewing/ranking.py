"""What places to review can be ranked by."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox

from napari_msunet.labels import review
from napari_msunet.widgets.dock.background import Background

if TYPE_CHECKING:
    from napari_msunet.labels import LabelStore

RANKINGS = {
    "disagreement": ("The scales disagree", "Where the networks of the scales say different things."),
    "entropy": ("The model is unsure", "Where the probabilities of the classes are close to one another."),
    "distance": ("Far from what was seen", "Spread over the tissue, far from what was reviewed or corrected."),
    "oddity": ("Odd objects", "Objects whose area or shape is unlike that of the others of their class."),
}


class RankingBox(QComboBox):
    """All rankings; those that a store's runs kept nothing for cannot be chosen."""

    def __init__(self) -> None:
        super().__init__()
        self._chosen = False
        self.setAccessibleName("What places are ranked by")
        for name, (text, tip) in RANKINGS.items():
            self.addItem(text, name)
            self.setItemData(self.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.activated.connect(self._activated)

    def forget_choice(self) -> None:
        """From now on the best ranking of a store is chosen again, until a person chooses."""
        self._chosen = False

    def offer(self, store: LabelStore, background: Background) -> None:
        """Only what the store's runs kept can be ranked by; looked up in the background."""
        background.run(partial(review.available, store), self._show)

    def _show(self, names: tuple[str, ...]) -> None:
        model = self.model()
        for row, name in enumerate(RANKINGS):
            item = model.item(row)
            item.setEnabled(name in names)
            how = "" if name in names else f' To rank so, predict with the output "{name}".'
            item.setToolTip(RANKINGS[name][1] + how)
        if not self._chosen:
            self.setCurrentIndex(list(RANKINGS).index(names[0]))

    def _activated(self) -> None:
        self._chosen = True
        self.setToolTip(RANKINGS[self.currentData()][1])
