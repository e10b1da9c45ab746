"""The config and scores in a model file, read without torch, and a widget for the weight of each scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari.utils.theme import get_theme
from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_msunet.config import ModelConfig
from napari_msunet.constants import output_colour
from napari_msunet.errors import ModelError
from napari_msunet.models.header import ModelHeader, read_header

_ROW = 20
_INDENT = 5  # the indent of napari's own labels


def _header(path: Path) -> ModelHeader:
    try:
        return read_header(path)
    except ModelError as error:
        raise ModelError(f"{path} is no model of napari-msunet, or it is damaged; choose another file.") from error


def model_config(path: Path) -> ModelConfig:
    """The config in a model file's header.

    Raises
    ------
    ModelError
        If there is no such file, or it is no model.
    """
    return _header(path).config


def model_summary(path: Path) -> dict[str, Any]:
    """What a model file says of its training: "best_epoch", scores under "validation" and "train"; or nothing."""
    return _header(path).summary


def is_dark(theme: str) -> bool:
    """Whether a theme of napari has a dark background."""
    return sum(get_theme(theme).background.as_rgb_tuple()[:3]) < 3 * 128


class WeightBars(QWidget):
    """A bar for the share that the fusion gives to each scale, in the colours of the curves.

    Parameters
    ----------
    dark : bool
        Whether the theme is dark.
    """

    def __init__(self, dark: bool = True) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        self.values: tuple[float, ...] = ()
        self.dark = dark
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.hide()

    def set_weights(self, names: Sequence[str], values: Sequence[float]) -> None:
        """Show these shares (0..1), one for each scale."""
        self.names, self.values = tuple(names), tuple(float(v) for v in values)
        rows = [f"{name}: {value:.0%}" for name, value in zip(self.names, self.values, strict=True)]
        self.setToolTip("Share of each scale in the result: " + ", ".join(rows) + ".")
        self.setAccessibleName(self.toolTip())
        self.setVisible(bool(rows))
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(200, max(1, len(self.values)) * _ROW + 2)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = QColor("#f0f1f2" if self.dark else "#202020")
        metrics = painter.fontMetrics()
        left = max((metrics.horizontalAdvance(name) for name in self.names), default=0) + 10 + _INDENT
        right = metrics.horizontalAdvance("100 %") + 10
        room = max(10, self.width() - left - right)
        for row, (name, value) in enumerate(zip(self.names, self.values, strict=True)):
            top = row * _ROW
            painter.setPen(text)
            painter.drawText(QRectF(_INDENT, top, left, _ROW), Qt.AlignmentFlag.AlignVCenter, name)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(output_colour(row + 1, self.dark)))
            painter.drawRoundedRect(QRectF(left, top + 4, max(1.0, room * value), _ROW - 8), 2, 2)
            painter.setPen(text)
            place = QRectF(left + room * value + 6, top, right, _ROW)
            painter.drawText(place, Qt.AlignmentFlag.AlignVCenter, f"{value:.0%}")
        painter.end()
