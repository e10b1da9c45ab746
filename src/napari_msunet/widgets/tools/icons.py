"""The tools' icons, drawn in the colours of the theme."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QIcon, QPainter, QPen, QPixmap, QPolygonF

SIDE = 18
_SHARP = 2  # pixmaps are twice as fine, for screens that are

Draw = Callable[[QPainter, QColor, QColor], None]


def icon(name: str, text: str, accent: str) -> QIcon:
    """The icon of a tool: its objects in the colour of the text, what the tool does in the accent."""
    picture = QPixmap(SIDE * _SHARP, SIDE * _SHARP)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.scale(_SHARP, _SHARP)
    _DRAWN[name](painter, QColor(text), QColor(accent))
    painter.end()
    picture.setDevicePixelRatio(_SHARP)
    return QIcon(picture)


def _pen(painter: QPainter, colour: QColor, width: float = 1.6, dashed: bool = False) -> None:
    style = Qt.PenStyle.DotLine if dashed else Qt.PenStyle.SolidLine
    painter.setPen(QPen(colour, width, style, Qt.PenCapStyle.RoundCap))
    painter.setBrush(Qt.BrushStyle.NoBrush)


def _blob(painter: QPainter, colour: QColor, x: float, y: float, side: float, filled: bool = True) -> None:
    _pen(painter, colour)
    if filled:
        painter.setBrush(colour)
    painter.drawEllipse(QRectF(x, y, side, side))


def _line(painter: QPainter, colour: QColor, *ends: float, width: float = 1.8) -> None:
    _pen(painter, colour, width)
    painter.drawLine(QPointF(ends[0], ends[1]), QPointF(ends[2], ends[3]))


def _cross(painter: QPainter, colour: QColor, x: float, y: float, reach: float) -> None:
    _line(painter, colour, x - reach, y - reach, x + reach, y + reach)
    _line(painter, colour, x - reach, y + reach, x + reach, y - reach)


def _lasso(painter: QPainter, colour: QColor) -> None:
    _pen(painter, colour, 1.4, dashed=True)
    painter.drawEllipse(QRectF(1, 1.5, 16, 15))


def _merge(p: QPainter, text: QColor, accent: QColor) -> None:
    _blob(p, text, 1.5, 5.5, 6)
    _blob(p, text, 10.5, 5.5, 6)
    _line(p, accent, 4.5, 8.5, 13.5, 8.5, width=2.4)


def _split(p: QPainter, text: QColor, accent: QColor) -> None:
    _blob(p, text, 3, 3.5, 12)
    _line(p, QColor(accent), 14.5, 1, 3.5, 17, width=2.4)


def _watershed(p: QPainter, text: QColor, accent: QColor) -> None:
    _blob(p, text, 0.8, 4.5, 8.4)
    _blob(p, text, 8.8, 4.5, 8.4)
    _line(p, accent, 9, 2, 9, 16, width=2.2)


def _delete(p: QPainter, text: QColor, accent: QColor) -> None:
    _blob(p, text, 3, 3, 12, filled=False)
    _cross(p, accent, 9, 9, 3)


def _delete_inside(p: QPainter, text: QColor, accent: QColor) -> None:
    _lasso(p, text)
    _cross(p, accent, 9, 9, 3)


def _change_class(p: QPainter, text: QColor, accent: QColor) -> None:
    _blob(p, text, 3, 3, 12, filled=False)
    p.setBrush(accent)
    p.setPen(Qt.PenStyle.NoPen)
    p.drawPie(QRectF(3, 3, 12, 12), 90 * 16, 180 * 16)


def _change_class_inside(p: QPainter, text: QColor, accent: QColor) -> None:
    _lasso(p, text)
    _blob(p, accent, 4.5, 7, 3.6)
    _blob(p, accent, 10, 6, 3.6)


def _keep_largest(p: QPainter, text: QColor, accent: QColor) -> None:
    _blob(p, text, 1, 5, 10)
    _blob(p, text, 13, 2, 3.4, filled=False)
    _cross(p, accent, 14.7, 12.5, 2)


def _new_object(p: QPainter, text: QColor, accent: QColor) -> None:
    _lasso(p, text)
    _line(p, accent, 9, 5.5, 9, 12.5)
    _line(p, accent, 5.5, 9, 12.5, 9)


def _grow(p: QPainter, text: QColor, accent: QColor) -> None:
    _blob(p, text, 5.5, 5.5, 7)
    _blob(p, accent, 1.5, 1.5, 15, filled=False)


def _shrink(p: QPainter, text: QColor, accent: QColor) -> None:
    _blob(p, text, 1.5, 1.5, 15, filled=False)
    _blob(p, accent, 6, 6, 6)


def _smooth(p: QPainter, text: QColor, accent: QColor) -> None:
    _pen(p, text, 1.4)
    p.drawPolyline(QPolygonF([QPointF(1 + 2 * i, 9 if i % 2 else 4) for i in range(9)]))
    _pen(p, accent, 2)
    p.drawArc(QRectF(1, 9.5, 16, 10), 0, 180 * 16)


def _fill_holes(p: QPainter, text: QColor, accent: QColor) -> None:
    _pen(p, text, 3.2)
    p.drawEllipse(QRectF(2.5, 2.5, 13, 13))
    _blob(p, accent, 7, 7, 4)


def _image_wand(p: QPainter, text: QColor, accent: QColor) -> None:
    _line(p, text, 2, 16, 10, 8, width=2.4)
    for ends in ((13, 1.5, 13, 4.5), (13, 7, 13, 10), (9, 5.8, 11.5, 5.8), (14.8, 5.8, 17, 5.8)):
        _line(p, accent, *ends, width=1.5)


def _probability_wand(p: QPainter, text: QColor, accent: QColor) -> None:
    _line(p, text, 2, 16, 10, 8, width=2.4)
    _pen(p, accent)
    font = p.font()
    font.setPixelSize(10)
    font.setBold(True)
    p.setFont(font)
    p.drawText(QPointF(10.5, 8.5), "p")


def _snap(p: QPainter, text: QColor, accent: QColor) -> None:
    _lasso(p, text)
    _pen(p, accent, 2)
    p.drawPolyline(QPolygonF([QPointF(4.5, 12), QPointF(8, 12), QPointF(10, 6), QPointF(13.5, 6)]))


_DRAWN: dict[str, Draw] = {
    "merge": _merge,
    "split": _split,
    "watershed": _watershed,
    "delete": _delete,
    "delete_inside": _delete_inside,
    "change_class": _change_class,
    "change_class_inside": _change_class_inside,
    "keep_largest": _keep_largest,
    "new_object": _new_object,
    "grow": _grow,
    "shrink": _shrink,
    "smooth": _smooth,
    "fill_holes": _fill_holes,
    "image_wand": _image_wand,
    "probability_wand": _probability_wand,
    "snap": _snap,
}
