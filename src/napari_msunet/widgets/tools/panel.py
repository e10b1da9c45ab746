"""The row of tools and the list of keys in the dock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QIcon, QPainter, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from napari_msunet.widgets import keys
from napari_msunet.widgets.dock.fields import NumberField
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.tools.controller import Tools
from napari_msunet.widgets.tools.tool import Amount

if TYPE_CHECKING:
    from napari_msunet.widgets.tools.tool import Tool
# ----------------------------------------------------------------------------------------------------------------------
# The tools' icons, drawn in the colours of the theme.

SIDE = 18
_SHARP = 2  # pixmaps are drawn at twice the size, for screens of high resolution

Draw = Callable[[QPainter, QColor, QColor], None]


def icon(name: str, text: str, accent: str) -> QIcon:
    """The icon of a tool: objects in the colour of the text, the effect of the tool in the accent colour."""
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


# ----------------------------------------------------------------------------------------------------------------------
# The panel of tools.

COLUMNS = 4
_ICON = 18


class ToolPanel(QWidget):
    """Buttons for the tools, and the amount of the chosen tool.

    Parameters
    ----------
    tools : Tools
    """

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self.tools = tools
        self.buttons: dict[str, QToolButton] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self._grid = QGridLayout()
        self._grid.setSpacing(3)
        for number in range(COLUMNS):
            self._grid.setColumnStretch(number, 1)
        column.addLayout(self._grid)
        row = QHBoxLayout()
        self.amount_name = QLabel()
        self.amount: NumberField | None = None
        self._amount_row = QWidget()
        self._amount_row.setLayout(row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.amount_name)
        self._shown: Amount | None = None
        column.addWidget(self._amount_row)
        for tool in tools.all.values():
            self.buttons[tool.name] = self._button(tool)
        self._place: list[str] = []
        tools.changed.connect(self.refresh)
        self.refresh()

    def _button(self, tool: Tool) -> QToolButton:
        button = QToolButton(self)
        button.setObjectName("msunet_tool")
        button.setText(tool.title)
        button.setToolTip(keys.hint(tool.text, f"tools.{tool.name}"))
        button.setAccessibleName(tool.title)
        button.setCheckable(True)
        button.setIconSize(QSize(_ICON, _ICON))
        button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
        button.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        button.clicked.connect(show_errors(partial(self._pressed, tool.name)))
        return button

    def _pressed(self, name: str, *_: object) -> None:
        try:
            self.tools.toggle(name)
        finally:
            self.refresh()

    def restyle(self, text: str, accent: str) -> None:
        """Draw the icons in the colour of the text."""
        for name, button in self.buttons.items():
            button.setIcon(icon(name, text, accent))

    def refresh(self) -> None:
        """Show the tools that fit, which one is chosen, and its amount."""
        fitting = [tool.name for tool in self.tools.fitting()]
        if fitting != self._place:
            self._place = fitting
            for button in self.buttons.values():
                self._grid.removeWidget(button)
                button.hide()
            for number, name in enumerate(fitting):
                self._grid.addWidget(self.buttons[name], number // COLUMNS, number % COLUMNS)
                self.buttons[name].show()
        chosen = self.tools.tool
        for name, button in self.buttons.items():
            button.setEnabled(self.tools.layer is not None)
            button.setChecked(chosen is not None and chosen.name == name)
        self._show_amount(None if chosen is None else chosen.amount)

    def _show_amount(self, amount: Amount | None) -> None:
        self._amount_row.setVisible(amount is not None)
        if amount is None:
            self._shown = None
            return
        if amount is not self._shown:
            self._shown = amount
            if self.amount is not None:
                self.amount.deleteLater()
            self.amount_name.setText(amount.text)
            self.amount = NumberField(amount.low, amount.high, amount.step, 2, self._unit(amount))
            self.amount.setAccessibleName(amount.text)
            self.amount.valueChanged.connect(partial(self._changed, amount))
            self._amount_row.layout().addWidget(self.amount, 1)
        value = self.tools.amounts[amount.shared]
        if abs(self.amount.value() - value) > 0.005:
            self.amount.blockSignals(True)
            self.amount.setValue(value)
            self.amount.blockSignals(False)

    def _unit(self, amount: Amount) -> str:
        known = self.tools.layer is not None and self.tools.layer.store.mpp is not None
        return ("µm" if known else "px") if amount.unit else ""

    def _changed(self, amount: Amount, value: float) -> None:
        self.tools.set_amount(amount.shared, value)


class KeyList(QWidget):
    """The list of all registered keys, folded away at first."""

    def __init__(self) -> None:
        super().__init__()
        self.fold = QToolButton()
        self.fold.setObjectName("fold")
        self.fold.setCheckable(True)
        self.fold.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.fold.setText("Keys")
        self.fold.setToolTip("All keys of painting, tools and review; they work while the mouse is over the slide.")
        self.fold.setArrowType(Qt.ArrowType.RightArrow)
        self.fold.toggled.connect(self._fold)
        self.list = QLabel()
        self.list.setObjectName("keys")
        self.list.setTextFormat(Qt.TextFormat.RichText)
        self.list.setWordWrap(True)
        self.list.hide()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.fold, 0, Qt.AlignmentFlag.AlignLeft)
        column.addWidget(self.list)

    def _fold(self, is_open: bool) -> None:
        self.fold.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        if is_open:
            self.list.setText(as_table(keys.table()))
        self.list.setVisible(is_open)


def as_table(table: tuple[keys.Key, ...]) -> str:
    """The keys as rich text, by group."""
    groups: dict[str, list[keys.Key]] = {}
    for line in table:
        groups.setdefault(line.group, []).append(line)
    rows = []
    for group, lines in groups.items():
        rows.append(f'<tr><td colspan="2" style="padding-top:6px"><b>{group}</b></td></tr>')
        if group == "Classes":
            rows.append("<tr><td>0 to 9&nbsp;&nbsp;</td><td>Paint background, or the class of this number</td></tr>")
            continue
        rows += [
            f"<tr><td style='white-space:nowrap'>{line.shown}&nbsp;&nbsp;</td><td>{line.text}</td></tr>"
            for line in lines
        ]
    return f"<table cellspacing='0' cellpadding='1'>{''.join(rows)}</table>"
