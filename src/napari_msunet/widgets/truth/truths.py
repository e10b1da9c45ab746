"""The truths of a slide, and the layers that show them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QComboBox

from napari_msunet.errors import MsunetError
from napari_msunet.widgets.truth.finding import NO_TRUTH

if TYPE_CHECKING:
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.pyramid_labels import PyramidLabels
    from napari_msunet.widgets.state import SlideRecord


def truths_of(record: SlideRecord | None) -> dict[str, Path]:
    """The label stores that hold truth of a slide, by what they are called."""
    if record is None:
        return {}
    known = {"Annotation": record.annotation, "Corrected and accepted labels": record.labels}
    return {name: path for name, path in known.items() if path is not None and path.exists()}


class TruthChoice(QComboBox):
    """The truths of a slide; the data of a row is its store's path."""

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("Which truth is reviewed")
        self.setToolTip("The truth that is compared with the prediction of this slide.")

    def offer(self, record: SlideRecord | None) -> None:
        """Offer the truths of a slide; the one that was chosen stays, if it is one of them."""
        known = truths_of(record)
        if [self.itemData(n) for n in range(self.count())] != list(known.values()):
            chosen = self.currentData()
            self.clear()
            for name, path in known.items():
                self.addItem(name, path)
            self.setCurrentIndex(max(0, self.findData(chosen)))


def layer_of_truth(layers: Layers, path: Path | None) -> PyramidLabels:
    """The layer of a truth of the active slide; opened if need be."""
    from napari_msunet.widgets.slide_layers import add_labels

    record = layers.state.active
    if record is None or path is None:
        raise MsunetError(NO_TRUTH)
    layer = layers.of_store(path)
    if layer is None:
        layer = add_labels(layers.viewer, path, layers.need_slide(record))
        kind = "Annotation" if path == record.annotation else "Labels"
        layer.name, layer.opacity = f"{kind} {record.name}", 0.5
    return layer
