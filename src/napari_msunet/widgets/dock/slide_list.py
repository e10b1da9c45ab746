"""The list of slides in the Slide step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QListWidget, QListWidgetItem

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_msunet.widgets.state import SlideRecord

ROWS = 4


class SlideList(QListWidget):
    """Slides, and below them layers without a file; an item's data is its record or its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.setToolTip(
            "The slides of this project. The one that is chosen is annotated, predicted and exported; every image "
            "layer of the viewer is a slide too."
        )
        self.setAccessibleName("Slides")

    def thing(self, item: QListWidgetItem | None) -> SlideRecord | Layer | None:
        """The record or the layer that an item shows."""
        return None if item is None else item.data(Qt.ItemDataRole.UserRole)

    def show_slides(self, records: Iterable[SlideRecord], waiting: Iterable[Layer], active: SlideRecord | None) -> None:
        """Show slides and layers that have no file yet, without a signal; the active slide is chosen."""
        wanted: list[tuple[SlideRecord | Layer, str, str]] = [(r, *_row(r)) for r in records]
        wanted += [(w, f"{w.name} (layer without a file)", "Choose it to write it as a slide file.") for w in waiting]
        shown = [(self.thing(self.item(n)), self.item(n).text()) for n in range(self.count())]
        self.blockSignals(True)
        if shown != [(thing, text) for thing, text, _ in wanted]:
            self.clear()
            for thing, text, tip in wanted:
                item = QListWidgetItem(text)
                item.setData(Qt.ItemDataRole.UserRole, thing)
                item.setToolTip(tip)
                self.addItem(item)
        row = next((n for n, (thing, _, _) in enumerate(wanted) if thing is active), -1)
        self.setCurrentRow(row)
        self.blockSignals(False)
        self.setVisible(bool(wanted))
        self.setFixedHeight(8 + 24 * min(max(len(wanted), 1), ROWS))


def _row(record: SlideRecord) -> tuple[str, str]:
    size = "px" if record.in_pixels else "? µm/px" if record.mpp is None else f"{record.mpp[0]:.3g} µm/px"
    gone = "" if record.path.exists() else "  (gone)"
    text = f"{record.path.name}   {record.shape[1]} × {record.shape[0]}   {size}{gone}"
    return text, str(record.path)
