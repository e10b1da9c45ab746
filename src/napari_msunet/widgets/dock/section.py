"""One section of the dock, with a heading that opens and closes it, and the style of the dock."""

from __future__ import annotations

from napari.utils.theme import get_theme
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QToolButton, QVBoxLayout
from superqt import QElidingLabel

from napari_msunet.widgets.steps.step import Step

# ----------------------------------------------------------------------------------------------------------------------
# The style of the dock, in the colours of napari's theme.

WIDTH = 360
"""Width of the dock in pixels, which leaves room for a slide on a screen of 1280 pixels."""

STATES = {"done": "✓", "next": "", "waiting": ""}


def colours(theme: str) -> dict[str, str]:
    """The colours of a napari theme as ``#rrggbb``, by their use."""
    chosen = get_theme(theme)
    names = ("background", "foreground", "primary", "secondary", "highlight", "text", "icon", "warning", "current")
    found = {name: getattr(chosen, name).as_hex() for name in names}
    dark = sum(chosen.background.as_rgb_tuple()[:3]) < 3 * 128
    found["done"] = "#5bbf7a" if dark else "#1f8a48"
    found["accent"] = "#5aa9ff" if dark else "#0b62c4"
    found["on_accent"] = "#101418" if dark else "#ffffff"
    if not dark:
        found["warning"] = "#8a5300"  # napari's yellow cannot be read on a light background
    found["faint"] = "#a7adb6" if dark else "#5a6068"
    return found


def stylesheet(theme: str) -> str:
    """The style sheet of the dock; everything else has napari's style."""
    c: dict[str, str] = colours(theme)
    return f"""
    #msunet_advice {{ background: {c["foreground"]}; border-left: 3px solid {c["accent"]}; border-radius: 2px; }}
    #msunet_advice QLabel {{ background: transparent; }}
    #msunet_section {{ background: transparent; border: none; border-top: 1px solid {c["foreground"]}; }}
    QPushButton#msunet_header {{ background: transparent; border: none; text-align: left; padding: 0; }}
    QPushButton#msunet_header:hover {{ background: {c["foreground"]}; }}
    QPushButton#msunet_header:focus {{ border: 1px solid {c["accent"]}; border-radius: 2px; }}
    QPushButton:focus, QComboBox:focus, QAbstractSpinBox:focus, QLineEdit:focus, QAbstractItemView:focus
        {{ border: 1px solid {c["accent"]}; }}
    QCheckBox:focus, QRadioButton:focus {{ color: {c["accent"]}; }}
    QPushButton#primary:focus {{ border: 2px solid {c["text"]}; padding: 3px 10px; }}
    QLabel#msunet_title {{ font-weight: 600; background: transparent; }}
    QLabel#msunet_summary {{ color: {c["faint"]}; background: transparent; }}
    QLabel#msunet_mark {{ border-radius: 10px; border: 1px solid {c["faint"]}; color: {c["faint"]};
        background: transparent; font-weight: 600; }}
    QLabel#msunet_mark[state="done"] {{ border-color: {c["done"]}; color: {c["done"]}; }}
    QLabel#msunet_mark[state="next"] {{ border-color: {c["accent"]}; background: {c["accent"]};
        color: {c["on_accent"]}; }}
    QLabel#note {{ color: {c["faint"]}; }}
    QLabel#problem {{ color: {c["warning"]}; }}
    QPushButton#primary {{ background: {c["accent"]}; color: {c["on_accent"]}; font-weight: 600; padding: 5px 12px; }}
    QPushButton#primary:disabled {{ background: {c["foreground"]}; color: {c["faint"]}; }}
    QPushButton#recent {{ background: transparent; border: 1px solid transparent; text-align: left;
        color: {c["accent"]}; padding: 3px 4px; }}
    QPushButton#recent:hover {{ background: {c["foreground"]}; }}
    QPushButton#recent:focus {{ border-color: {c["accent"]}; }}
    QToolButton#chip {{ background: {c["foreground"]}; border: 1px solid {c["faint"]}; border-radius: 9px;
        padding: 2px 8px; }}
    QToolButton#chip:hover {{ border-color: {c["accent"]}; }}
    QToolButton#chip::menu-indicator {{ image: none; width: 0; }}
    QToolButton#msunet_tool {{ background: {c["foreground"]}; border: 1px solid transparent; border-radius: 3px;
        padding: 3px 1px; font-size: 11px; }}
    QToolButton#msunet_tool:hover {{ border-color: {c["faint"]}; }}
    QToolButton#msunet_tool:focus {{ border-color: {c["faint"]}; }}
    QToolButton#msunet_tool:checked {{ border-color: {c["accent"]}; background: {c["primary"]}; }}
    QToolButton#msunet_tool:disabled {{ color: {c["faint"]}; }}
    QToolButton#msunet_copy, QToolButton#fold {{ background: transparent; border: none; color: {c["faint"]};
        padding: 2px 4px; }}
    QToolButton#msunet_copy:hover, QToolButton#fold:hover {{ color: {c["text"]}; }}
    QToolButton#msunet_copy:focus, QToolButton#fold:focus {{ border: 1px solid {c["accent"]}; }}
    """


# ----------------------------------------------------------------------------------------------------------------------
# A section of the dock, which holds one step.


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
        A person opened (True) or closed the section.
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
        """Whether the section is open."""
        return not self.step.isHidden()

    def set_open(self, is_open: bool) -> None:
        """Open or close the section."""
        self.step.setVisible(is_open)
        self.copy.setVisible(is_open)
        self.show_summary()

    def show_summary(self) -> None:
        """Show the step in a few words while it is folded, such as how far its job is."""
        self.summary.setText("" if self.is_open else self.step.summary())

    def set_state(self, state: str) -> None:
        """Mark the section as "done", "next" or "waiting"."""
        if self.mark.property("state") != state:
            self.mark.setProperty("state", state)
            self.mark.style().unpolish(self.mark)
            self.mark.style().polish(self.mark)
            self.header.setAccessibleDescription(state)
        self.mark.setText("✓" if state == "done" else str(self.number))
        self.show_summary()

    def _clicked(self) -> None:
        self.set_open(not self.is_open)
        self.toggled.emit(self.is_open)
