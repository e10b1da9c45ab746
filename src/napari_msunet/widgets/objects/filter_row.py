"""Which objects a table shows: fields in a row."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLineEdit, QWidget

from napari_msunet.widgets.objects.model import Filter

ALL = "All classes"


class FilterRow(QWidget):
    """The editor of a `Filter`.

    Attributes
    ----------
    changed : Signal(Filter)
    """

    changed = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.text = QLineEdit()
        self.text.setPlaceholderText("Filter by class or number")
        self.text.setClearButtonEnabled(True)
        self.kind = QComboBox()
        self.kind.addItem(ALL)
        self.kind.setToolTip("Shows one class only.")
        self.low, self.high = QLineEdit(), QLineEdit()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text, 1)
        row.addWidget(self.kind)
        for field, hint in ((self.low, "area from"), (self.high, "to")):
            field.setPlaceholderText(hint)
            field.setFixedWidth(74)
            field.setToolTip("Least and largest area that are shown, in the table's unit; empty: any.")
            field.textChanged.connect(lambda _: self._tell())
            row.addWidget(field)
        self.text.textChanged.connect(lambda _: self._tell())
        self.kind.currentIndexChanged.connect(lambda _: self._tell())

    def offer(self, names: Sequence[str]) -> bool:
        """Let one choose among these classes; whether they are others than before."""
        self.kind.setVisible(bool(names))
        if [self.kind.itemText(i) for i in range(1, self.kind.count())] == list(names):
            return False
        self.kind.blockSignals(True)
        self.kind.clear()
        self.kind.addItems([ALL, *names])
        self.kind.blockSignals(False)
        self._tell()
        return True

    def value(self) -> Filter:
        """What is chosen now; what is no number counts as empty."""
        low, high = _number(self.low.text()), _number(self.high.text())
        return Filter(
            text=self.text.text(),
            kind=self.kind.currentIndex() if self.kind.currentIndex() > 0 else None,
            low=0.0 if low is None else low,
            high=float("inf") if high is None else high,
        )

    def _tell(self) -> None:
        self.changed.emit(self.value())


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "")) if text.strip() else None
    except ValueError:
        return None
