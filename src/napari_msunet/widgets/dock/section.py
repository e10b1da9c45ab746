"""One section of the dock: a heading that opens and closes what is below it."""

from __future__ import annotations

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QToolButton, QVBoxLayout
from superqt import QElidingLabel

from napari_msunet.widgets.dock.steps.step import Step


class _Header(QPushButton):
    """A heading as high as its labels."""

    def sizeHint(self) -> QSize:
        return QSize(200, 32)


class Section(QFrame):
    """A step under its heading.

    Parameters
    ----------
    number : int
        Shown before the title.
    step : Step

    Attributes
    ----------
    toggled : Signal(bool)
        A person opened (True) or closed it.
    copy_wanted : Signal()
        "Copy as Python" was pressed.
    """

    toggled = Signal(bool)
    copy_wanted = Signal()

    def __init__(self, number: int, step: Step) -> None:
        super().__init__()
        self.setObjectName("msunet_section")
        self.step, self.number = step, number
        self.header = _Header()
        self.header.setObjectName("msunet_header")
        self.header.setToolTip(step.purpose)
        self.header.setAccessibleName(step.title)
        self.header.clicked.connect(self._clicked)
        self.mark = self._label("msunet_mark", str(number))
        self.mark.setFixedSize(20, 20)
        self.mark.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.summary = QElidingLabel()
        self.summary.setObjectName("msunet_summary")
        self.summary.setElideMode(Qt.TextElideMode.ElideRight)
        self.summary.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.summary.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.summary.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.copy = QToolButton()
        self.copy.setObjectName("msunet_copy")
        self.copy.setText("Copy as Python")
        self.copy.setToolTip("Copies the lines of Python that do this step without the dock.")
        self.copy.clicked.connect(self.copy_wanted)
        self._lay_out()
        self.set_open(False)
        self.set_state("waiting")

    def _lay_out(self) -> None:
        row = QHBoxLayout(self.header)
        row.setContentsMargins(6, 2, 4, 2)
        row.setSpacing(8)
        row.addWidget(self.mark)
        row.addWidget(self._label("msunet_title", self.step.title))
        row.addWidget(self.summary, 1)
        row.addWidget(self.copy)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.header)
        column.addWidget(self.step)

    def _label(self, name: str, text: str) -> QLabel:
        label = QLabel(text)
        label.setObjectName(name)
        label.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        return label

    @property
    def is_open(self) -> bool:
        """Whether what is below the heading shows."""
        return not self.step.isHidden()

    def set_open(self, is_open: bool) -> None:
        """Show or hide what is below the heading."""
        self.step.setVisible(is_open)
        self.summary.setText("" if is_open else self.step.summary())
        self.copy.setVisible(is_open)

    def set_state(self, state: str) -> None:
        """Mark it as "done", "next" or "waiting"."""
        if self.mark.property("state") != state:
            self.mark.setProperty("state", state)
            self.mark.style().unpolish(self.mark)
            self.mark.style().polish(self.mark)
            self.header.setAccessibleDescription(state)
        self.mark.setText("✓" if state == "done" else str(self.number))
        if not self.is_open:
            self.summary.setText(self.step.summary())

    def _clicked(self) -> None:
        self.set_open(not self.is_open)
        self.toggled.emit(self.is_open)
