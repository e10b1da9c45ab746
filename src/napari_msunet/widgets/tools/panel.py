"""The row of tools and the list of keys in the dock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from napari_msunet.widgets import keys
from napari_msunet.widgets.dock.fields import NumberField
from napari_msunet.widgets.dock.telling import told
from napari_msunet.widgets.tools.controller import Tools
from napari_msunet.widgets.tools.icons import icon
from napari_msunet.widgets.tools.tool import Amount

if TYPE_CHECKING:
    from napari_msunet.widgets.tools.tool import Tool

COLUMNS = 4
_ICON = 18


class ToolPanel(QWidget):
    """Buttons for the tools, and the number of the one that is chosen.

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
        button.clicked.connect(told(partial(self._pressed, tool.name)))
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
        """Show which tools there are, which is chosen, and its number."""
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
    """All registered keys, folded away until asked for."""

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
