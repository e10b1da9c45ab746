"""The choice of where to predict: everywhere, in the tissue, in drawn regions, or in classes of other labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Shapes
from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_msunet.annotation.formats import is_outline_file
from napari_msunet.annotation.shapes import DrawnImage
from napari_msunet.app.project import Ring
from napari_msunet.config import Drawn, InClasses, Where
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region, to_place, to_position
from napari_msunet.inference.slide_inputs import drawn
from napari_msunet.widgets.dock.fields import ChoiceField
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.dock.training_data import SHAPES, dropped
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.layers import ShapesUnderWay, store_path
from napari_msunet.widgets.placement import over, to_level0

if TYPE_CHECKING:
    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.components import ViewerModel
    from napari.layers import Layer
    from qtpy.QtGui import QDragEnterEvent, QDropEvent

    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import SlideRecord, State
# ----------------------------------------------------------------------------------------------------------------------
# Drawing one rectangle that is predicted at once.

NAME = "region to predict"


class RegionDrawing(QObject):
    """A shapes layer that exists until one rectangle is drawn.

    Attributes
    ----------
    drawn : Signal(Region)
        The rectangle, in level-0 pixels of the slide.
    """

    drawn = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self.viewer = viewer
        self.layer: Shapes | None = None

    @property
    def active(self) -> bool:
        """Whether the user is to draw a rectangle."""
        return self.layer is not None and self.layer in self.viewer.layers

    def start(self, slide_layer: Layer) -> None:
        """Let the user draw a rectangle on this slide."""
        self.stop()
        size = float(np.mean(slide_layer.scale[-2:]))
        self.layer = self.viewer.add_shapes(
            name=NAME,
            ndim=2,
            edge_color="#ffd84d",
            face_color="transparent",
            edge_width=2 * size / max(self.viewer.scene.camera.zoom * size, 1e-9),
            **over(slide_layer, (1.0, 1.0)),
        )
        self.layer.mode = "add_rectangle"
        self.viewer.layers.selection.active = self.layer
        self.layer.mouse_drag_callbacks.append(self._watch)

    def _watch(self, layer: object, event: NapariMouseEvent) -> Iterator[None]:
        """Follow napari's own drawing: when the mouse is released, the rectangle is there."""
        yield
        while event.type == "mouse_move":
            yield
        from qtpy.QtCore import QTimer

        QTimer.singleShot(0, self._take)

    def _take(self) -> None:
        if not self.active or not self.layer.data:
            return
        corners = to_place(np.asarray(self.layer.data[-1])[:, -2:])
        low, high = corners.min(0), corners.max(0)
        if (high - low < 1).any():
            return
        self.stop()
        self.drawn.emit(Region(float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])))

    def stop(self) -> None:
        """Stop waiting for a rectangle."""
        if self.active:
            self.viewer.layers.remove(self.layer)
        self.layer = None


# ----------------------------------------------------------------------------------------------------------------------
# Regions to predict: polygons and rectangles drawn on a slide, in a layer of shapes that is kept.

MARK = "regions_of"
SETTLED = 150
"""Milliseconds after a change of a shape at which the regions are read again."""

MOST_REGIONS = 1000
"""Most regions from a file: napari takes long to show more shapes."""

CORNERS = 64
"""Corners of the polygon that replaces an ellipse."""


class Regions(QObject):
    """The drawn regions of the slides in a viewer.

    Attributes
    ----------
    changed : Signal()
        A region was drawn, moved or removed.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self.viewer = viewer
        self.drawing = ShapesUnderWay()
        self._settling = QTimer(self)
        self._settling.setSingleShot(True)
        self._settling.setInterval(SETTLED)
        self._settling.timeout.connect(self._settled)

    def find(self, slide: Path) -> Shapes | None:
        """The layer with a slide's regions, if there is one."""
        for layer in self.viewer.layers:
            if isinstance(layer, Shapes) and layer.metadata.get(KEY, {}).get(MARK) == str(slide):
                return layer
        return None

    def draw(self, slide: Path, slide_layer: Layer, mode: str) -> Shapes:
        """Choose the tool ("add_polygon", "add_rectangle") that draws a region of a slide; gives the layer."""
        layer = self.find(slide) or self._add(slide, slide_layer)
        layer.visible = True
        self.viewer.layers.selection.active = layer
        layer.mode = mode
        return layer

    def restore(self, slide: Path, slide_layer: Layer, rings: tuple[Ring, ...]) -> None:
        """Show regions that were drawn before as polygons, with corners in level-0 pixels."""
        layer = self.find(slide) or self._add(slide, slide_layer)
        layer.add([to_position(np.array(ring)) for ring in rings], shape_type="polygon")

    def _add(self, slide: Path, slide_layer: Layer) -> Shapes:
        size = float(np.mean(slide_layer.scale[-2:]))
        layer = Shapes(
            ndim=2,
            name=f"Regions to predict {slide.name.split('.')[0]}",
            edge_color="#ffd84d",
            face_color="transparent",
            edge_width=2 / max(self.viewer.scene.camera.zoom * size, 1e-9),
            metadata={KEY: {MARK: str(slide)}},
            **over(slide_layer),
        )
        self.viewer.add_layer(layer)
        layer.events.data.connect(self._touched)
        self.drawing.follow(layer)
        return layer

    def _touched(self, _: object = None) -> None:
        self._settling.start()

    def _settled(self) -> None:
        if self.drawing:
            self._settling.start()
        else:
            self.changed.emit()

    def rings(self, slide: Path, slide_layer: Layer) -> tuple[Ring, ...]:
        """The regions as polygons in level-0 pixels of their slide; lines are left out, since they have no inside."""
        layer = self.find(slide)
        if layer is None:
            return ()
        found = []
        for shape, kind in zip(layer.data, layer.shape_type, strict=True):
            corners = _outline(np.asarray(shape, float)[:, -2:], str(kind))
            if corners is not None and len(corners) >= 3:
                places = (to_level0(self.viewer, slide_layer, layer.data_to_world(c)) for c in corners)
                found.append(tuple((round(y, 2), round(x, 2)) for y, x in places))
        return tuple(found)

    def closing(self) -> None:
        """Let go of the layers."""
        self._settling.stop()
        for layer in self.drawing.layers:
            layer.events.data.disconnect(self._touched)
        self.drawing.let_go()


def area(rings: tuple[Ring, ...], mpp: tuple[float, float]) -> float:
    """The area of the union of polygons, in mm²."""
    import shapely

    whole = shapely.union_all([shapely.make_valid(shapely.polygons(np.asarray(ring)[:, ::-1])) for ring in rings])
    return float(whole.area) * mpp[0] * mpp[1] / 1e6


def _outline(corners: npt.NDArray[np.float64], kind: str) -> npt.NDArray[np.float64] | None:
    """The corners of a shape's outline; None for lines."""
    if kind in ("line", "path"):
        return None
    if kind != "ellipse":
        return corners
    centre, down, right = corners.mean(0), (corners[2] - corners[1]) / 2, (corners[1] - corners[0]) / 2
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    return centre + np.cos(angles)[:, None] * down + np.sin(angles)[:, None] * right


def checked(rings: tuple[Ring, ...]) -> tuple[Ring, ...]:
    """The polygons, or `MsunetError` where there are none."""
    if not rings:
        raise MsunetError("No region is drawn yet: press Polygon or Rectangle and draw one on the slide.")
    return rings


# ----------------------------------------------------------------------------------------------------------------------
# The row of the Predict step that chooses where to predict.

PLACES = {
    "all": "the whole slide",
    "tissue": "only the tissue",
    "drawn": "drawn regions",
    "classes": "classes of other labels",
}
VERBS = {
    "all": "Predict the whole slide",
    "tissue": "Predict the tissue",
    "drawn": "Predict the drawn regions",
    "classes": "Predict in these classes",
}
TIP = "What is outside is not computed and becomes background."
NO_LABELS = (
    "No other labels of this slide are open: an annotation, its tissue, or a label store opened from the File menu."
)


class WhereRow(QWidget):
    """Edits `PredictJob.where` for the active slide.

    Parameters
    ----------
    state : State
    layers : Layers

    Attributes
    ----------
    changed : Signal()
        Another area was chosen or drawn.
    """

    changed = Signal()

    def __init__(self, state: State, layers: Layers) -> None:
        super().__init__()
        self.state, self.layers = state, layers
        self.regions = Regions(layers.viewer)
        self.regions.changed.connect(self._drawn)
        self.choice = ChoiceField(PLACES)
        self.choice.setToolTip(TIP)
        self.choice.setAccessibleName("Where")
        self.choice.valueChanged.connect(lambda _: self._chosen())
        self.polygon = self._tool("Polygon", "Draw it corner by corner; a double click ends it.", "add_polygon")
        self.rectangle = self._tool("Rectangle", "Draw it from corner to corner.", "add_rectangle")
        self.file = QPushButton("File…")
        self.file.setToolTip(
            "Takes the areas of a file of outlines (QuPath, ASAP, ImageScope, HALO, CVAT, Labelbox, labelme, Cytomine, "
            "COCO); it can also be dropped here."
        )
        self.file.clicked.connect(show_errors(lambda *_: self._choose_file()))
        self.setAcceptDrops(True)
        self.stores = QComboBox()
        self.stores.setToolTip("The labels in whose classes the prediction is made.")
        self.stores.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.stores.setMinimumContentsLength(12)
        self.stores.currentIndexChanged.connect(lambda _: self._store_chosen())
        self.ticks: dict[str, QCheckBox] = {}
        self.words = QLabel()
        self.words.setObjectName("note")
        self.words.setWordWrap(True)
        self._listed: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
        self._lay_out()

    def _tool(self, text: str, tip: str, mode: str) -> QPushButton:
        button = QPushButton(text)
        button.setToolTip(tip)
        button.clicked.connect(show_errors(lambda *_: self.draw(mode)))
        return button

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        label = QLabel("Where")
        label.setToolTip(TIP)
        label.setBuddy(self.choice)
        top.addWidget(label)
        top.addWidget(self.choice, 1)
        self.tools = QWidget()
        tools = QHBoxLayout(self.tools)
        tools.setContentsMargins(0, 0, 0, 0)
        tools.addWidget(self.polygon)
        tools.addWidget(self.rectangle)
        tools.addWidget(self.file)
        self.classes = QWidget()
        self._grid = QGridLayout(self.classes)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.addWidget(self.stores, 0, 0, 1, 2)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addLayout(top)
        for widget in (self.tools, self.classes, self.words):
            column.addWidget(widget)

    # ---------------------------------------------------------------------------------------------------------- choice

    @property
    def kind(self) -> str:
        """The chosen kind: "all", "tissue", "drawn" or "classes"; known even if the step was never opened."""
        shown, kept = str(self.choice.value()), self.state.predict_options.where
        return str(kept) if shown in ("all", "tissue") and kept in ("all", "tissue") else shown

    @property
    def verb(self) -> str:
        """The text of the button that predicts."""
        return VERBS[self.kind]

    def choose(self, kind: str) -> None:
        """Choose a kind of area."""
        self.choice.setValue(kind)

    def value(self, record: SlideRecord) -> Where:
        """The area, as the `where` of a job.

        Raises
        ------
        MsunetError
            If no region is drawn, or no class is ticked.
        """
        if self.kind == "all":
            return "all"
        if self.kind == "tissue":
            return record.within or "tissue"
        if self.kind == "drawn":
            rings = self.regions.rings(record.path, self.layers.need_slide(record))
            return Drawn(polygons=checked(rings))
        path = self.stores.currentData()
        if path is None:
            raise MsunetError(NO_LABELS)
        names = tuple(name for name, tick in self.ticks.items() if tick.isChecked())
        if not names:
            raise MsunetError(f"No class of {self.stores.currentText()} is ticked: tick where to predict.")
        return InClasses(labels=Path(path), classes=names)

    def draw(self, mode: str) -> Shapes:
        """Choose the tool that draws a region; gives the layer of shapes."""
        record = self.state.active
        if record is None:
            raise MsunetError("Open a slide first: regions are drawn on one.")
        return self.regions.draw(record.path, self.layers.need_slide(record), mode)

    def load(self, path: str | Path, image: str | None = None) -> None:
        """Add the areas of a file of outlines to the drawn regions, and choose these.

        Parameters
        ----------
        path : path
        image : str, optional
            The image in the file, where it holds the outlines of several; None: the one of the slide's name.

        Raises
        ------
        MsunetError
            If there is no slide, the file has no area, or too many to be shown as shapes.
        """
        record = self.state.active
        if record is None:
            raise MsunetError("Open a slide first: the areas of the file lie on one.")
        found = drawn(Path(path), DrawnImage(image or str(record.path), record.shape, image is not None))
        if len(found.polygons) > MOST_REGIONS:
            raise MsunetError(
                f"{path} holds {len(found.polygons)} areas, more than {MOST_REGIONS} that can be shown as regions; "
                "import it in the Annotate step, and choose classes of other labels here."
            )
        self.regions.restore(record.path, self.layers.need_slide(record), found.polygons)
        self.choose("drawn")
        self.changed.emit()
        if found.left_out:
            show_info(found.left_out)

    def _choose_file(self) -> None:
        folder = "" if self.state.active is None else str(self.state.active.path.parent)
        chosen, _ = QFileDialog.getOpenFileName(self, "The outlines", folder, SHAPES)
        if chosen:
            self.load(chosen)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        path = dropped(event)
        if path is not None and is_outline_file(path):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        path = dropped(event)
        if path is not None:
            event.acceptProposedAction()
            show_errors(self.load)(path)

    def rest(self) -> None:
        """Put the drawing tool away, so that the mouse moves the view again."""
        layer = None if self.state.active is None else self.regions.find(self.state.active.path)
        if layer is not None and str(layer.mode).startswith("add_"):
            layer.mode = "pan_zoom"

    def _chosen(self) -> None:
        shown = str(self.choice.value())
        if shown in ("all", "tissue"):
            options = self.state.predict_options
            self.state.set_predict_options(options.model_copy(update={"where": shown}))
        if self.kind == "drawn" and self.state.active is not None:
            self._begin_drawing()
        else:
            self.rest()
        self.refresh()
        self.changed.emit()

    @show_errors
    def _begin_drawing(self) -> None:
        """Show the regions that were drawn before; where there are none, choose the drawing tool at once."""
        record = self.state.active
        layer = self.layers.need_slide(record)
        if self.regions.rings(record.path, layer):
            return
        if record.regions:
            self.regions.restore(record.path, layer, record.regions)
        else:
            self.draw("add_polygon")

    def _drawn(self) -> None:
        if not self.layers.closed:
            for record in self.state.slides:
                layer = self.layers.slide(record)
                if layer is not None and self.regions.find(record.path) is not None:
                    record.regions = self.regions.rings(record.path, layer)
            self.state.emit("predict")
            self.refresh()
            self.changed.emit()

    # ----------------------------------------------------------------------------------------------- what is on screen

    def refresh(self) -> None:
        """Show the areas that can be chosen for the active slide."""
        if self.choice.value() != self.kind:
            self.choice.blockSignals(True)
            self.choice.setValue(self.kind)
            self.choice.blockSignals(False)
        self.tools.setVisible(self.kind == "drawn")
        self.classes.setVisible(self.kind == "classes")
        if self.kind == "classes":
            self._list_stores()
        self.words.setText(self._text())
        self.words.setVisible(bool(self.words.text()))

    def _text(self) -> str:
        record = self.state.active
        if record is None or self.kind == "all":
            return ""
        if self.kind == "tissue":
            if record.tissue is None:
                return "The tissue is found when it starts. To see and correct it first, find it in the Slide step."
            return "The tissue of the Slide step, as it is corrected now."
        if self.kind == "classes":
            return "" if self.stores.count() else NO_LABELS
        layer = self.layers.slide(record)
        rings = () if layer is None else self.regions.rings(record.path, layer)
        if not rings:
            return "Draw on the slide: click corner by corner, a double click ends a polygon. Several are possible."
        count = "1 region" if len(rings) == 1 else f"{len(rings)} regions"
        return count if record.mpp is None else f"{count}, {area(rings, record.mpp):.3g} mm²."

    def _list_stores(self) -> None:
        """List the open label stores of the active slide, without the labels that a prediction fills."""
        record = self.state.active
        extent = None if record is None else tuple(record.shape)
        found = []
        for layer in self.layers.viewer.layers:
            path = store_path(layer)
            if path is None or record is None or path == record.labels:
                continue
            if tuple(layer.store.extent) == extent and layer.store.classes:
                found.append((layer.name, str(path), tuple(layer.store.classes)))
        self.stores.setVisible(bool(found))
        if tuple(found) == self._listed:
            return
        self._listed = tuple(found)
        chosen = self.stores.currentData()
        self.stores.blockSignals(True)
        self.stores.clear()
        for name, path, _ in found:
            self.stores.addItem(name, path)
        self.stores.setCurrentIndex(max(0, self.stores.findData(chosen)) if found else -1)
        self.stores.blockSignals(False)
        self._list_classes()

    def _store_chosen(self) -> None:
        self._list_classes()
        self.changed.emit()

    def _list_classes(self) -> None:
        names = next((c for _, path, c in self._listed if path == self.stores.currentData()), ())
        before = {name for name, tick in self.ticks.items() if tick.isChecked()}
        for tick in self.ticks.values():
            self._grid.removeWidget(tick)
            tick.hide()
            tick.deleteLater()
        self.ticks = {}
        for number, name in enumerate(names):
            tick = QCheckBox(name)
            tick.setToolTip(f"Predict where these labels show {name}.")
            tick.setChecked(name in before if before & set(names) else True)
            tick.toggled.connect(lambda _: self.changed.emit())
            self.ticks[name] = tick
            self._grid.addWidget(tick, 1 + number // 2, number % 2)

    def closing(self) -> None:
        """Let go of the layers."""
        self.regions.closing()
