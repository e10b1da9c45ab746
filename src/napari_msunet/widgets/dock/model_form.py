"""The editor of a model: resolution, scales, fusion, networks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from qtpy.QtCore import QByteArray, Qt
from qtpy.QtGui import QPainter, QPixmap
from qtpy.QtSvg import QSvgRenderer
from qtpy.QtWidgets import QLabel

import napari_msunet
from napari_msunet.config import FUSIONS, Fusion, ModelConfig
from napari_msunet.widgets.dock.branch_form import BranchesField
from napari_msunet.widgets.dock.fields import ResolutionField, ScalesField
from napari_msunet.widgets.forms import Form

DRAWINGS = Path(napari_msunet.__file__).parent / "widgets" / "drawings"


class ModelForm(Form):
    """Edits a `ModelConfig`; its classes, channels and normalisation stay as they were set."""

    def __init__(self, value: ModelConfig) -> None:
        self.scales, self.branches = ScalesField(), BranchesField()
        self.scales.valueChanged.connect(self.branches.set_scales)  # before the form reads them
        special = {"mpp": ResolutionField(), "scales": self.scales, "branch": self.branches}
        super().__init__(value, special)
        self.meaning = QLabel()
        self.meaning.setObjectName("note")
        self.meaning.setWordWrap(True)
        self.rows.addRow(self.meaning)
        self.picture = QLabel()
        self.picture.setAccessibleName("What this fusion does")
        self.rows.addRow(self.picture)
        self.editors["fusion"].valueChanged.connect(self._explain)
        self._explain(value.fusion)

    def _explain(self, name: Fusion) -> None:
        """The sentence and the drawing of a fusion."""
        self.meaning.setText(FUSIONS[name][1])
        self.picture.setPixmap(drawing(name, self.devicePixelRatioF()))

    def _show(self, value: ModelConfig) -> None:
        self.branches.set_scales(value.scales)
        super()._show(value)

    def _read(self) -> ModelConfig:
        # A number that the field shows rounded is not changed by being shown.
        config: ModelConfig = super()._read()
        before = self._value.mpp
        if config.mpp is not None and before is not None and abs(config.mpp - before) < 0.0005:
            config = config.model_copy(update={"mpp": before})
        return config


@cache
def drawing(name: str, ratio: float = 1.0) -> QPixmap:
    """One of the drawings in `widgets/drawings`, 264 pixels wide."""
    renderer = QSvgRenderer(QByteArray((DRAWINGS / f"{name}.svg").read_bytes()))
    size = renderer.defaultSize().scaled(int(264 * ratio), 10_000, Qt.AspectRatioMode.KeepAspectRatio)
    picture = QPixmap(size)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    renderer.render(painter)
    painter.end()
    picture.setDevicePixelRatio(ratio)
    return picture
