"""The panels that the Review step shows below the canvas: the table of objects, and the label issues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt

from napari_msunet.widgets.napari_internals import main_window
from napari_msunet.widgets.review.label_issues_panel import TruthPanel

if TYPE_CHECKING:
    from qtpy.QtWidgets import QDockWidget

    from napari_msunet.widgets.jobs import Jobs
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.objects import ObjectsPanel
    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.state import State
TRUTH_HEIGHT = 172


class Panels:
    """Makes the panels when they are first wanted, and docks them again after they were closed.

    Parameters
    ----------
    state : State
    jobs : Jobs
    layers : Layers

    Attributes
    ----------
    objects : ObjectsPanel, optional
    truth : TruthPanel, optional
    truth_dock : QDockWidget, optional
        The dock widget in which napari shows the label issues.
    """

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        self.state, self.jobs, self.layers = state, jobs, layers
        self.viewer = layers.viewer
        self.objects: ObjectsPanel | None = None
        self.truth: TruthPanel | None = None
        self.truth_dock: QDockWidget | None = None
        self._objects_dock: QDockWidget | None = None

    def show_objects(self, layer: PyramidLabels) -> ObjectsPanel:
        """Show the table of all objects of a layer, and measure them; gives the table's widget."""
        from napari_msunet.widgets.objects import ObjectsPanel

        window = main_window(self.viewer)
        if self.objects is None:
            self.objects = ObjectsPanel(self.viewer)
        if self.objects.window() is not window:  # not yet docked, or its dock was closed
            self._objects_dock = self.viewer.window.add_dock_widget(
                self.objects, name="Objects", area="bottom", tabify=True
            )
            self.objects.show()
        self.objects.set_layer(layer)
        self._objects_dock.show()
        self._objects_dock.raise_()
        if not self.objects.measuring.measured:
            self.objects.start()
        return self.objects

    def show_truth(self) -> TruthPanel:
        """Show the panel of label issues, where the model contradicts the truth; gives the panel."""
        window = main_window(self.viewer)
        if self.truth is None:
            self.truth = TruthPanel(self.state, self.layers)
        if self.truth.window() is not window:  # not yet docked, or its dock was closed
            self.truth_dock = self.viewer.window.add_dock_widget(self.truth, name="Truth", area="bottom", tabify=True)
            self.truth.show()
        self.truth_dock.show()
        self.truth_dock.raise_()
        window.resizeDocks([self.truth_dock], [TRUTH_HEIGHT], Qt.Orientation.Vertical)
        return self.truth

    def closing(self) -> None:
        """Release the panels."""
        if self.objects is not None:
            self.objects.closing()
            self.objects = None
        if self.truth is not None:
            self.truth.closing()
            self.truth = None
