"""The Correct step: painting over wrong labels, and retraining on the corrections."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer, Signal
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QPushButton

from napari_msunet.errors import MsunetError
from napari_msunet.labels import open_labels
from napari_msunet.widgets import keys, resolve
from napari_msunet.widgets.dock import section
from napari_msunet.widgets.dock.annotation_counting import edited_pixels
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.python_lines import lines, literal
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.forms import swatch
from napari_msunet.widgets.layer_slides import slide_of
from napari_msunet.widgets.layers import hide_maps
from napari_msunet.widgets.steps.step import Step
from napari_msunet.widgets.tools import KeyList, ToolPanel, Tools

if TYPE_CHECKING:
    from napari.utils.events import Event

    from napari_msunet.labels.metadata import Colour
    from napari_msunet.slide import Slide
    from napari_msunet.widgets.jobs import Jobs
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.state import State
BRUSH_ON_SCREEN = 14
_COLUMNS = 3
_COUNT_MS = 400
_KEYS = 9


class CorrectStep(Step):
    """Offers the brush, the classes, undo and tools; shows how much was corrected; starts a retraining."""

    name = "correct"
    title = "Correct"
    train_wanted = Signal()
    purpose = "Paint over what the model got wrong. Your pixels stay yours, and the model can learn from them."

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        super().__init__(state, jobs, layers)
        self.needed = self.note()
        self.brush = QPushButton("Correct with the brush")
        self.brush.setObjectName("primary")
        self.brush.setToolTip("Selects the predicted labels and the brush; paint at any zoom.")
        self.brush.clicked.connect(show_errors(lambda *_: self.start()))
        self.classes = QGridLayout()
        self.classes.setSpacing(4)
        self.buttons: list[QPushButton] = []
        self.undo = QPushButton("Undo")
        self.undo.setToolTip("Takes the last stroke back (Ctrl+Z). Strokes of earlier sessions can be undone too.")
        self.undo.clicked.connect(show_errors(lambda *_: self._layer().undo()))
        self.redo = QPushButton("Redo")
        self.redo.setToolTip("Does the stroke that was undone last again (Ctrl+Shift+Z).")
        self.redo.clicked.connect(show_errors(lambda *_: self._layer().redo()))
        self.count = self.note()
        self.retrain = QPushButton("Retrain on corrections")
        self.retrain.setToolTip(
            "The model goes on learning from what it had and from every pixel you corrected or accepted, background "
            "too; what you did not touch is not taken as true."
        )
        self.retrain.clicked.connect(show_errors(lambda *_: self.train_on_corrections()))
        self.tools = Tools(layers.viewer, self._slide_of, self)
        self.tool_row = ToolPanel(self.tools)
        self.key_list = KeyList()
        layers.viewer.events.theme.connect(self._restyle)
        self._restyle()
        self._lay_out()
        self.strokes = 0
        self.pixels: int | None = None
        self._watched: PyramidLabels | None = None
        self._shown_classes: tuple[tuple[str, ...], tuple[Colour, ...]] | None = None
        self._background = Background("msunet-corrections", self)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_COUNT_MS)
        self._timer.timeout.connect(self._count)
        self.tools.changed.connect(self._selected)

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.addWidget(self.undo)
        row.addWidget(self.redo)
        self.body.addWidget(self.needed)
        self.body.addWidget(self.brush)
        self.body.addLayout(self.classes)
        self.body.addWidget(self.tool_row)
        self.body.addLayout(row)
        self.body.addWidget(self.count)
        self.body.addWidget(self.retrain)
        self.body.addWidget(self.key_list)

    def _restyle(self, event: object = None) -> None:
        found = section.colours(self.viewer.theme)
        self.tool_row.restyle(found["text"], found["accent"])

    def _slide_of(self, layer: PyramidLabels) -> Slide | None:
        """The slide that a labels layer lies on."""
        found = self.layers.slide(self.layers.record(layer))
        return None if found is None else slide_of(found)

    # -------------------------------------------------------------------------------------------------------- showing

    def refresh(self) -> None:
        missing = self.missing()
        self.needed.setText(missing or "")
        self.needed.setVisible(missing is not None)
        layer = None if missing else self.layers.of_store(self.state.active.labels)
        self.brush.setEnabled(missing is None)
        for button in (self.undo, self.redo):
            button.setEnabled(layer is not None)
        self._show_classes(layer)
        self._watch(layer)
        record = self.state.active
        edited = missing is None and record is not None and record.edited > 0
        ready = edited and resolve.blocked_by(self.state, "train") is None
        self.retrain.setEnabled(ready)
        self.count.setText(self._count_text())
        self.count.setVisible(missing is None)

    def summary(self) -> str:
        record = self.state.active
        return f"{record.edited:,} pixels" if record is not None and record.edited else ""

    def _count_text(self) -> str:
        if self.pixels is None:
            return ""
        if self.pixels == 0:
            return "Nothing is corrected yet."
        strokes = f", {self.strokes} stroke{'s' * (self.strokes != 1)} today" if self.strokes else ""
        return f"{self.pixels:,} pixels are corrected{strokes}."

    def _show_classes(self, layer: PyramidLabels | None) -> None:
        """A button for background and for each class of the labels."""
        wanted = None if layer is None else (layer.store.classes, layer.store.colours)
        if wanted == self._shown_classes:
            self._mark(layer)
            return
        self._shown_classes = wanted
        for button in self.buttons:
            self.classes.removeWidget(button)
            button.deleteLater()
        self.buttons = []
        if wanted is None:
            return
        names, colours = ("Background", *wanted[0]), ((0, 0, 0), *wanted[1])
        for value, (name, colour) in enumerate(zip(names, colours, strict=True)):
            button = QPushButton(name)
            button.setCheckable(True)
            button.setIcon(QIcon(swatch(colour, 12)))
            text = f"Paints {name.lower() if value == 0 else name}."
            button.setToolTip(keys.hint(text, keys.choose_class_name(value)) if value <= _KEYS else text)
            button.clicked.connect(show_errors(partial(self._choose, value)))
            self.buttons.append(button)
            self.classes.addWidget(button, value // _COLUMNS, value % _COLUMNS)
        self._mark(layer)

    def _mark(self, layer: PyramidLabels | None) -> None:
        for value, button in enumerate(self.buttons):
            button.setChecked(
                layer is not None
                and layer.selected_label == value
                and (layer.mode == "paint" or self.tools.tool is not None)
            )

    def _watch(self, layer: PyramidLabels | None) -> None:
        """Follow the strokes of the labels."""
        if layer is self._watched:
            return
        self._let_go()
        self._watched, self.strokes, self.pixels = layer, 0, None
        self.tools.attach(layer)
        if layer is None:
            return
        layer.events.stroke.connect(self._stroked)
        layer.events.selected_label.connect(self._selected)
        layer.events.mode.connect(self._selected)
        for value in range(_KEYS + 1):
            keys.bind(layer, keys.choose_class_name(value), partial(self._by_key, layer, value))
        keys.bind(layer, "paint.polygon", partial(setattr, layer, "mode", "polygon"))
        keys.bind(layer, "paint.transform", partial(setattr, layer, "mode", "transform"))
        self._timer.start()

    def _let_go(self) -> None:
        if self._watched is not None:
            self.tools.attach(None)
            self._watched.events.stroke.disconnect(self._stroked)
            self._watched.events.selected_label.disconnect(self._selected)
            self._watched.events.mode.disconnect(self._selected)
            self._watched = None

    def _selected(self, event: object = None) -> None:
        self._mark(self._watched)

    def _stroked(self, event: Event) -> None:
        self.strokes = max(0, self.strokes + (1 if event.number else 0))
        self._timer.start()

    def _count(self) -> None:
        """Count the edited pixels, in the background."""
        layer = self._watched
        record = None if layer is None else self.layers.record(layer)  # another slide may be active by now
        if layer is None or record is None:
            return
        if self._background.busy:
            self._timer.start()
            return

        def show(pixels: int) -> None:
            self.pixels = pixels
            if pixels and not self.state.corrected:
                self.state.corrected = True
            if record.edited != pixels:
                record.edited = pixels
                self.state.emit("counts")
            self.count.setText(self._count_text())

        self._background.run(partial(edited_pixels, layer.store), show)

    # ------------------------------------------------------------------------------------------------------ correcting

    def _layer(self) -> PyramidLabels:
        """The layer of the labels; it is opened where it is not in the viewer."""
        if (missing := self.missing()) is not None:
            raise MsunetError(missing)
        return self.layers.need_labels(self.state.active)

    def start(self) -> PyramidLabels:
        """Select the predicted labels with the brush; gives their layer."""
        layer = self._layer()
        layer.visible = True
        hide_maps(self.viewer)
        self.viewer.layers.selection.active = layer
        if layer.can_be_painted():
            on_screen = float(layer.scale[-1]) * self.viewer.scene.camera.zoom
            layer.brush_size = round(min(max(BRUSH_ON_SCREEN / on_screen, 2), 400))
            layer.mode = "paint"
        self.refresh()
        return layer

    def _choose(self, value: int, *_: object) -> None:
        if self.tools.tool is None:
            self.start().selected_label = value
        else:  # a tool stays chosen, and uses the new class
            self.tools.layer.selected_label = value
            self._mark(self._watched)

    def _by_key(self, layer: PyramidLabels, value: int) -> None:
        """Use this class from now on, with whatever tool is in the hand."""
        if value <= len(layer.store.classes):
            layer.selected_label = value

    def train_on_corrections(self) -> None:
        """Emit `train_wanted`, to continue training the model on its earlier data and the corrected pixels."""
        self.count_corrections()
        self.train_wanted.emit()

    def count_corrections(self) -> None:
        """Let the corrected pixels of the active slide count in training; `MsunetError` where there are none."""
        record = self.state.active
        if record is None or record.labels is None or (missing := self.missing()) is not None:
            raise MsunetError(missing if record is not None and record.labels is not None else "Predict first.")
        if record.edited == 0:  # they may just not be counted yet
            record.edited = edited_pixels(open_labels(record.labels))
        if record.edited == 0:
            raise MsunetError("Nothing is corrected yet: paint over what is wrong first.")
        record.corrections = True
        self.state.emit("sources")

    def as_python(self) -> str:
        """The lines that open the labels, paint a stroke, and train on corrections."""
        record = self.state.active
        if record is None or record.labels is None:
            raise MsunetError(self.missing() or "Predict first.")
        return lines(
            f"labels = ms.open_labels({literal(record.labels)})",
            "# One stroke: background in a square of 10 x 10 pixels. It is on disk when this returns.",
            "labels.write(ms.Region(0, 0, 10, 10), 0)",
            "labels.undo()",
            "# To learn from corrections, train with a source in which only edited pixels are true:",
            f"source = ms.SlideSource(slide={literal(record.path)}, labels=labels.path, edited_only=True)",
            *self._retraining(),
        )

    def _retraining(self) -> tuple[str, ...]:
        """The lines that continue from the model's run."""
        model = self.state.model_path
        if model is None or not (model.parent / "job.json").is_file():
            return ()
        return (
            f'job = ms.retraining_job({literal(model.parent)}, [source], out="retrained")',
            "result = ms.train(job, on_event=print)",
            "result.chosen_path  # the old model, where the new one did worse on frozen test images",
        )

    def closing(self) -> None:
        self._timer.stop()
        self.viewer.events.theme.disconnect(self._restyle)
        self._let_go()
        self.tools.close()
        self._background.close()
