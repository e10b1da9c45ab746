"""Which objects a table shows: fields in a row."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLineEdit, QWidget

from napari_msunet.typed_numbers import read_number
from napari_msunet.widgets.objects.model import Filter

ALL = "All classes"
AREA_TIP = "Least and largest area that are shown, in the table's unit; empty: any."


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
            field.setToolTip(AREA_TIP)
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
        """What is chosen now; what is no number counts as empty, and its field says so."""
        low, high = (self._number(field) for field in (self.low, self.high))
        return Filter(
            text=self.text.text(),
            kind=self.kind.currentIndex() if self.kind.currentIndex() > 0 else None,
            low=0.0 if low is None else low,
            high=float("inf") if high is None else high,
        )

    def _number(self, field: QLineEdit) -> float | None:
        problem, number = "", None
        if field.text().strip():
            try:
                number = read_number(field.text(), point=field.locale().decimalPoint())
            except ValueError as error:
                problem = str(error)
        field.setToolTip(problem or AREA_TIP)
        if bool(problem) != (field.objectName() == "problem"):
            field.setObjectName("problem" if problem else "")
            field.setStyleSheet("color: #e07b39" if problem else "")
        return number

    def _tell(self) -> None:
        self.changed.emit(self.value())
