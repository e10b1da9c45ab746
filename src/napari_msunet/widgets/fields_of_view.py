"""The fields of view of all scales, drawn on the slide at the cursor, with what each branch sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal
from vispy.scene.visuals import Line

from napari_msunet.config import ModelConfig
from napari_msunet.errors import MsunetError, SlideError
from napari_msunet.geometry import Region
from napari_msunet.slide import Slide
from napari_msunet.widgets.fields import FieldOfView, fields_at
from napari_msunet.widgets.fields_panel import COLOURS, FieldsPanel
from napari_msunet.widgets.layer_slides import slide_of
from napari_msunet.widgets.placement import to_level0, to_world
from napari_msunet.widgets.thumbnails import ThumbnailReader

if TYPE_CHECKING:
    from fractions import Fraction

    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.components import ViewerModel
    from napari.utils.events import Event
    from napari.viewer import Viewer
    from qtpy.QtWidgets import QDockWidget

DASHES = 12
"""Dashes on a side of a square."""
WHITE = (1.0, 1.0, 1.0)
"""A square that belongs to all scales."""
ORDER = 1_000_000
"""Drawn after all layers."""


class FieldsOfView(QObject):
    """Squares at the cursor, one for each scale, and thumbnails of what each branch sees there.

    A solid square is the window that the branch sees in training, a dashed one all that its prediction at the cursor
    can depend on. Thumbnails are read in a thread; the latest place wins.

    Parameters
    ----------
    viewer : napari.Viewer
    layer : Layer
        The slide's layer.
    config : ModelConfig
    size : int
        Side of the training window in target pixels (`TrainJob.size`).

    Attributes
    ----------
    panel : FieldsPanel
        The widget with the thumbnails; `show` docks it unless it has a place already.
    """

    visibleChanged = Signal(bool)

    def __init__(self, viewer: Viewer, layer: Layer, config: ModelConfig, size: int = 256) -> None:
        super().__init__()
        self.viewer, self.layer, self.config, self.size = viewer, layer, config, size
        self.panel = FieldsPanel()
        self.place: tuple[float, float] | None = None
        self.fields: list[FieldOfView] = []
        self.visible = False
        self._slide: Slide | None = None
        self._lines: list[Line] = []
        self._dock: QDockWidget | None = None
        self._reader: ThumbnailReader | None = None

    # ------------------------------------------------------------------------------------------------------ on and off

    def show(self, dock: bool = True) -> bool:
        """Draw at the cursor from now on.

        Parameters
        ----------
        dock : bool
            Put the panel below the canvas; False: it has a place of its own.

        Returns
        -------
        bool
            False where that cannot be; the reason is shown as a notification.
        """
        if self.visible:
            return True
        try:
            self._begin()
        except MsunetError as error:
            show_error(str(error))
            return False
        if dock:
            self._dock = self.viewer.window.add_dock_widget(self.panel, name="What each scale sees", area="bottom")
            self._dock.destroyed.connect(self._dock_gone)
            self._dock.visibilityChanged.connect(self._dock_shown)
        self._set_visible(True)
        return True

    def hide(self) -> None:
        """Take all of it away again."""
        if not self.visible:
            return
        self._set_visible(False)
        if self._on_move in self.viewer.mouse_move_callbacks:
            self.viewer.mouse_move_callbacks.remove(self._on_move)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        for line in self._lines:
            line.parent = None
        self._lines = []
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        dock, self._dock = self._dock, None
        if dock is not None:
            dock.visibilityChanged.disconnect(self._dock_shown)
            dock.destroyed.disconnect(self._dock_gone)
            self.panel.setParent(None)
            self.viewer.window.remove_dock_widget(dock)

    def toggle(self) -> bool:
        """Show or hide; whether it is shown now."""
        if self.visible:
            self.hide()
        else:
            self.show()
        return self.visible

    def set_model(self, config: ModelConfig, size: int | None = None) -> None:
        """Draw the fields of another model, or of another training window."""
        self.config, self.size = config, self.size if size is None else size
        if self.visible:
            self._rename()
            self._again()

    def set_layer(self, layer: Layer) -> None:
        """Draw on another slide."""
        if layer is self.layer:
            return
        was = self.visible
        docked = self._dock is not None
        self.hide()
        self.layer, self.place, self.fields = layer, None, []
        if was:
            self.show(docked)

    def _begin(self) -> None:
        self._slide = slide_of(self.layer)
        if self._slide is None:
            raise SlideError(f'"{self.layer.name}" is no image; choose the layer of a slide.')
        place = self.place or tuple(n / 2 for n in self._slide.shape[:2])
        fields_at(self._slide, self.config, place, self.size)
        self._reader = ThumbnailReader()
        self._reader.ready.connect(self.panel.show_pictures)
        scene = self.viewer.window._qt_viewer.canvas.view.scene
        for width in (4, 2):
            line = Line(np.zeros((2, 2)), connect="segments", width=width, method="gl", antialias=True, parent=scene)
            line.order = ORDER + len(self._lines)
            line.set_gl_state("translucent", depth_test=False)
            self._lines.append(line)
        self.viewer.mouse_move_callbacks.append(self._on_move)
        self.viewer.layers.events.removed.connect(self._on_removed)
        self._rename()
        self.move_to(place)

    def _set_visible(self, visible: bool) -> None:
        self.visible = visible
        self.visibleChanged.emit(visible)

    def _rename(self) -> None:
        self.panel.set_scales([(name, self.config.resolution.times(1 / float(r))) for name, r in self._names()])

    def _names(self) -> list[tuple[str, Fraction]]:
        return [(f"scale {ratio}", ratio) for ratio in self.config.ratios]

    # ---------------------------------------------------------------------------------------------------- at the cursor

    def move_to(self, place: tuple[float, float]) -> None:
        """Draw around a place of the slide, `(y, x)` in level-0 pixels."""
        self.place = (float(place[0]), float(place[1]))
        self._again()

    def _again(self) -> None:
        if self._slide is None or self._reader is None or self.place is None:
            return
        try:
            self.fields = fields_at(self._slide, self.config, self.place, self.size)
        except MsunetError as error:  # a config being edited may not fit for a moment
            self.panel.say(str(error))
            return
        self._draw()
        self._reader.ask(self._slide, self.fields)

    def _draw(self) -> None:
        """All squares as one line of separate pieces, dark beneath and coloured above."""
        pieces, colours = [], []
        same = self.config.field == "same" and len(self.fields) > 1
        for number, field in enumerate(self.fields):
            colour = COLOURS[number % len(COLOURS)]
            for corners, tint in (
                (_outline(field.region), WHITE if same else colour),
                (_dashed(field.context), colour),
            ):
                pieces.append(corners)
                colours.append(np.tile([*tint, 1.0], (len(corners), 1)))
        world = to_world(self.viewer, self.layer, np.concatenate(pieces))[:, ::-1]
        dark, bright = self._lines
        dark.set_data(pos=world, color=(0, 0, 0, 0.6), connect="segments")
        bright.set_data(pos=world, color=np.concatenate(colours), connect="segments")

    def _on_move(self, viewer: ViewerModel, event: NapariMouseEvent) -> None:
        if viewer.dims.ndisplay == 2:
            self.move_to(to_level0(viewer, self.layer, event.position))

    def _on_removed(self, event: Event) -> None:
        if event.value is self.layer:
            self.hide()

    def _dock_shown(self, visible: bool) -> None:
        if not visible and self.visible and self._dock is not None and self._dock.isHidden():
            self.hide()

    def _dock_gone(self) -> None:
        self._dock = None
        self.hide()


def _outline(region: Region) -> npt.NDArray[np.float64]:
    """A square as pairs of points."""
    y, x = region.y, region.x
    bottom, right = region.stop
    corners = np.array([(y, x), (y, right), (bottom, right), (bottom, x)])
    return np.stack([corners, np.roll(corners, -1, axis=0)], axis=1).reshape(-1, 2)


def _dashed(region: Region) -> npt.NDArray[np.float64]:
    """A square as dashes."""
    sides = _outline(region).reshape(-1, 2, 2)
    steps = np.linspace(0, 1, 2 * DASHES, endpoint=False)[None, :, None]
    points = sides[:, :1] + (sides[:, 1:] - sides[:, :1]) * steps
    result: npt.NDArray[np.float64] = points.reshape(-1, 2)
    return result
