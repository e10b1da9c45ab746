"""The base class of the dock's steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_msunet.widgets import resolve
from napari_msunet.widgets.state import State, StepName

if TYPE_CHECKING:
    import napari

    from napari_msunet.widgets.jobs import Jobs
    from napari_msunet.widgets.layers import Layers


class Step(QWidget):
    """One step of the dock: the widget inside its section.

    A subclass sets `name` and `title`, puts its fields into `self.body` and overrides `as_python` and `refresh`.

    Parameters
    ----------
    state, jobs, layers
        The parts of the dock that a step uses.

    Attributes
    ----------
    name : str
        Its key among the steps and in `resolve`.
    title : str
        The heading of its section.
    purpose : str
        What the step is for, as the tooltip of the heading.
    body : QVBoxLayout
        The layout that holds its fields, from top to bottom.
    """

    name: StepName
    title: str = ""
    purpose: str = ""

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        super().__init__()
        self.state, self.jobs, self.layers = state, jobs, layers
        self.viewer: napari.Viewer = layers.viewer
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(4, 4, 4, 8)
        self.body.setSpacing(6)

    def missing(self) -> str | None:
        """What is missing before the step can be done, as a sentence; None when it can be done."""
        return resolve.missing(self.state, self.name)

    def summary(self) -> str:
        """A few words beside the heading, such as the slide's name."""
        return ""

    def as_python(self) -> str:
        """The lines that repeat this step without the dock."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Show the present state; called after each of its changes, so it must be quick."""

    def closing(self) -> None:
        """Release layers, callbacks and threads; called when the dock closes."""

    def note(self, text: str = "") -> QLabel:
        """A label of grey, wrapping text for the body, not yet added to it."""
        label = QLabel(text)
        label.setObjectName("note")
        label.setWordWrap(True)
        return label
