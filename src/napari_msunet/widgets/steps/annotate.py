"""The Annotate step: painting a few strokes of each class, and adding other training data."""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_info
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QInputDialog, QMessageBox, QPushButton

from napari_msunet.annotation.formats import is_outline_file, read_shape_file
from napari_msunet.annotation.importing import ShapeReport, import_shapes, radii
from napari_msunet.annotation.shapes import DrawnImage, ShapeFile
from napari_msunet.config import FolderSource, is_no_class
from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import ImageNeededError, MsunetError
from napari_msunet.geometry import Region
from napari_msunet.labels import LabelStore
from napari_msunet.labels.metadata import BACKGROUND_COLOUR, default_colours
from napari_msunet.slide import open_slide
from napari_msunet.widgets.answering.answering import Answering
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.class_table import KEYS, ClassEdits, ClassTable, ClassTableRow
from napari_msunet.widgets.dock.marking import Marking
from napari_msunet.widgets.dock.python_lines import call, job_lines, lines, literal
from napari_msunet.widgets.dock.show_errors import notify_error, show_errors
from napari_msunet.widgets.dock.training_data import SHAPES, SourcesBox, dropped
from napari_msunet.widgets.forms import Fold
from napari_msunet.widgets.state import SlideRecord
from napari_msunet.widgets.steps.step import Step

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.utils.events import Event
    from qtpy.QtGui import QDragEnterEvent, QDropEvent

    from napari_msunet.widgets.jobs import Jobs
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.state import State
BRUSH_ON_SCREEN = 14
"""Width of the brush in pixels of the screen when annotating starts."""
BRUSH_LIMITS = (4, 400)


PLACEHOLDER = "class 1"
"""The class of a dock in which no class was named yet."""


class AnnotateStep(Step):
    """Edits classes and other sources, and starts the painting and the marking of fully annotated regions."""

    name = "annotate"
    title = "Annotate"
    purpose = "Show the model what is what: a few strokes of each class, and of background."

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        super().__init__(state, jobs, layers)
        self.edits = ClassEdits(state, layers)
        self._watched: weakref.WeakSet[PyramidLabels] = weakref.WeakSet()
        self.marking = Marking(state, layers, self)
        self.start = QPushButton("Start annotating")
        self.start.setObjectName("primary")
        self.start.clicked.connect(show_errors(lambda *_: self.start_annotating()))
        self.body.addWidget(self.start)
        self.table = ClassTable()
        self.table.setToolTip(
            "The classes. Choose one and paint it on the slide with the brush; paint background too, so that the model "
            "learns what is none of them."
        )
        self.table.picked.connect(self._picked)
        self.table.renamed.connect(self._renamed)
        self.table.recoloured.connect(show_errors(lambda row, colour: self.set_colour(self.state.classes[row], colour)))
        self.body.addWidget(self.table)
        self.body.addLayout(self._class_buttons())
        self.help = self.note("Keys: 1–9 class, 0 background, P brush, E eraser, F fill, [ ] brush size.")
        self.body.addWidget(self.help)
        self.body.addLayout(self.marking.buttons())
        self.answering = Answering(state, jobs, layers)
        self.body.addWidget(self.answering)
        self.bring = QPushButton("Import outlines…")
        self.bring.setToolTip(
            "Paints the outlines of another program (QuPath, ASAP, ImageScope, HALO, CVAT, Labelbox, labelme, "
            "Cytomine, COCO) into the annotation, as strokes that can be undone. The file can also be dropped here or "
            "on the slide."
        )
        self.bring.clicked.connect(show_errors(lambda *_: self._choose_outlines()))
        self.body.addWidget(self.bring)
        self.setAcceptDrops(True)
        self._background = Background("msunet-outlines", self)
        self.more = Fold("Sources", "What each slide is for, and labelled images from elsewhere.")
        self.sources = SourcesBox(self.state)
        self.more.inside.addWidget(self.sources)
        self.body.addWidget(self.more)
        self.viewer.layers.events.inserted.connect(self._inserted)

    def _class_buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self.add = QPushButton("Add class")
        self.add.setToolTip("A new class below the others; double-click its name to change it.")
        self.add.clicked.connect(show_errors(lambda *_: self.add_class()))
        self.remove = QPushButton("Remove class")
        self.remove.setToolTip("Removes the chosen class and erases its pixels.")
        self.remove.clicked.connect(self._remove_chosen)
        row.addWidget(self.add)
        row.addWidget(self.remove)
        return row

    # ------------------------------------------------------------------------------------------------------- painting

    def start_annotating(self, classes: Sequence[str] | None = None) -> PyramidLabels:
        """Make an annotation of the active slide, or open the one it has, ready to paint.

        Parameters
        ----------
        classes : sequence of str, optional
            Names of the classes; None: those of the table.

        Returns
        -------
        PyramidLabels
            The layer, selected, with the brush.

        Raises
        ------
        MsunetError
            If there is no slide, its µm per pixel are not known, or the project cannot be written.
        """
        if (sentence := self.missing()) is not None:
            raise MsunetError(sentence)
        record = self.state.active
        assert record is not None
        if classes is not None:
            self.state.set_classes(tuple(classes))
        if record.annotation is None or not record.annotation.exists():
            record.annotation = self._create(record).path
            record.counter = record.unreadable = None
            self.state.set_counts(record, {}, 0)
            self.state.emit("slides")
        layer = self._show(record)
        layer.store.add_classes(self.state.classes)
        layer.refresh_classes()
        self._ready(layer)
        return layer

    def _create(self, record: SlideRecord) -> LabelStore:
        path = self.state.make_project().annotation_path(record.name)
        with open_slide(record.path, record.job_mpp) as slide:
            return LabelStore.create(path, classes=self.state.classes, kind="annotation", slide=slide)

    def _show(self, record: SlideRecord) -> PyramidLabels:
        from napari_msunet.widgets.slide_layers import add_labels, add_slide

        layer = self.layers.annotation(record)
        if layer is None:
            slide = self.layers.slide(record) or add_slide(self.viewer, record.path, record.job_mpp)
            layer = add_labels(self.viewer, record.annotation, slide)
            layer.name = f"Annotation {record.name}"
        self._watch(layer)
        return layer

    def _ready(self, layer: PyramidLabels) -> None:
        """Select a layer and the brush, as wide as a stroke should be at this zoom."""
        self.viewer.layers.selection.active = layer
        if layer.can_be_painted():
            scene = getattr(self.viewer, "scene", self.viewer)  # before napari 0.9 the camera belonged to the viewer
            on_screen = float(layer.scale[-1]) * scene.camera.zoom
            layer.brush_size = round(min(max(BRUSH_ON_SCREEN / on_screen, BRUSH_LIMITS[0]), BRUSH_LIMITS[1]))
            if layer.selected_label == 0:
                layer.selected_label = self._value(layer, 0)
            layer.mode = "paint"

    def _inserted(self, event: Event) -> None:
        self.take(event.value)

    def take(self, layer: Layer) -> None:
        """Use an annotation that was opened in another way (File > Open, the sample)."""
        store = getattr(layer, "store", None)
        if not isinstance(store, LabelStore) or store.kind != "annotation":
            return
        record = next((r for r in self.state.slides if r.annotation == store.path), None)
        if record is None:
            fitting = [r for r in self.state.slides if r.annotation is None and r.shape == tuple(store.extent)]
            record = next((r for r in fitting if r.path.name == store.info.slide), None)
        if record is None:
            return
        if record.annotation != store.path:
            record.annotation, record.counted, record.counter = store.path, False, None
        self._watch(layer)
        self.state.emit("slides")

    def _watch(self, layer: PyramidLabels) -> None:
        """Follow a layer: count its strokes, and bind the keys that choose classes."""
        if layer in self._watched:
            return
        self._watched.add(layer)
        record = next((r for r in self.state.slides if r.annotation == layer.store.path), None)
        if record is None:
            return
        layer.events.stroke.connect(self._stroke)
        layer.events.selected_label.connect(self._selected)
        this = weakref.ref(self)
        for number in range(KEYS + 1):

            def choose(_layer: object, row: int = number - 1) -> None:
                if (step := this()) is not None and not step.layers.closed:
                    step.choose(row, tool=False)

            layer.bind_key(str(number), choose, overwrite=True)
        self.state.emit("annotations")

    def choose(self, row: int, tool: bool = True) -> None:
        """Paint with the class in this row from now on; -1: background. A row beyond the last one changes nothing.

        With `tool` the brush is taken too; keys leave the tool as it is.
        """
        layer = self.layers.annotation(self.state.active)
        if layer is None or row >= len(self.state.classes):
            return
        layer.selected_label = self._value(layer, row)
        if tool and layer.can_be_painted():
            layer.mode = "paint"

    def _value(self, layer: PyramidLabels, row: int) -> int:
        """The store's value of a row of the table."""
        if not 0 <= row < len(self.state.classes):
            return ANNOTATED_BACKGROUND
        return int(layer.store.add_classes([self.state.classes[row]])[self.state.classes[row]])

    @show_errors
    def _picked(self, row: int) -> None:
        layer = self.layers.annotation(self.state.active)
        if layer is not None:
            self.viewer.layers.selection.active = layer
            self.choose(row)

    def _selected(self, _event: object = None) -> None:
        if not self.layers.closed and self.isVisible():
            self.refresh()

    # ------------------------------------------------------------------------------------------------------- outlines

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        path = dropped(event)
        if path is not None and is_outline_file(path):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        path = dropped(event)
        if path is not None:
            event.acceptProposedAction()
            show_errors(self.import_outlines)(path)

    def _choose_outlines(self) -> None:
        if (sentence := self.missing()) is not None:
            raise MsunetError(sentence)
        chosen, _ = QFileDialog.getOpenFileName(self, "The outlines", str(self.state.active.path.parent), SHAPES)
        if chosen:
            self.import_outlines(chosen)

    def import_outlines(self, path: str | Path, radius: float | None = None, image: str | None = None) -> None:
        """Paint the outlines of a file into the annotation of the active slide; returns at once.

        Classes that the annotation does not have are added. A message says what became of the shapes.

        Parameters
        ----------
        path : path
        radius : float, optional
            Radius in µm of the disc that each point becomes (in pixels where the slide has no µm); None: asked for,
            where the file has points.
        image : str, optional
            The image in the file, where it holds the outlines of several; None: the one of the slide's name.

        Raises
        ------
        MsunetError
            If there is no slide, or its µm per pixel are not known.
        """
        if (sentence := self.missing()) is not None:
            raise MsunetError(sentence)
        record = self.state.active

        def read() -> ShapeFile:
            with open_slide(record.path, record.job_mpp) as slide:
                return read_shape_file(path, DrawnImage.of(slide, image), radii(radius, slide.mpp))

        def failed(error: BaseException) -> None:
            if isinstance(error, ImageNeededError) and error.images:
                if chosen := self._asked_image(Path(path).name, error.images):
                    show_errors(self.import_outlines)(path, radius, chosen)
            else:
                notify_error(str(error), "".join(traceback.format_exception(error)))

        self._background.run(read, lambda file: self._bring(record, file, radius, image), failed)

    def _asked_image(self, name: str, images: Sequence[str]) -> str:
        """The image in a file that a person chooses; empty: none."""
        said = f"{name} holds the outlines of several images. Which is this slide?"
        chosen, sure = QInputDialog.getItem(self, "Outlines", said, list(images), 0, False)
        return str(chosen) if sure else ""

    @show_errors
    def _bring(self, record: SlideRecord, file: ShapeFile, radius: float | None, image: str | None) -> None:
        """Paint the shapes that were read, once their classes are there."""
        points = sum("Point" in shape.geometry.geom_type for shape in file.shapes)
        if points and radius is None and (given := self._asked_radius(file.path.name, points)):
            self.import_outlines(file.path, given, image)
            return
        if record is not self.state.active:
            raise MsunetError(f"Another slide is shown by now: {file.path.name} was not imported.")
        known = {name.casefold() for name in self.state.classes}
        names = dict.fromkeys(shape.name for shape in file.shapes if shape.areal and shape.classed and shape.name)
        added = [name for name in names if name.casefold() not in known and not is_no_class(name)]
        new = added and record.annotation is None and self.state.classes == (PLACEHOLDER,)
        layer = self.start_annotating(added if new else None)
        for name in added:
            if name not in self.state.classes:
                self.add_class(name)
        layer.store.add_classes(self.state.classes)
        layer.end_stroke(0)
        layer.wait()

        def painted(report: ShapeReport) -> None:
            if self.layers.closed:
                return
            whole = Region(0.0, 0.0, *(float(side) for side in layer.store.shape))
            layer.refresh_window(whole)
            self.state.painted.emit(layer.store.path, whole)
            new = f" New classes: {', '.join(added)}." if added else ""
            show_info(f"{file.path.name}: {report.counted()} painted. {report.losses()}{new}".strip())

        self._background.run(lambda: import_shapes(file, layer.store), painted)

    def _asked_radius(self, name: str, points: int) -> float:
        """The radius for points that a person gives; 0 leaves them out."""
        record = self.state.active
        unit = "pixels" if record is None or (record.job_mpp is None and not record.mpp) else "µm"
        said = f"{name} holds {points} points. Radius of their discs in {unit} (0: leave them out):"
        value, sure = QInputDialog.getDouble(self, "Points", said, 5.0, 0.0, 10_000.0, 2)
        return float(value) if sure else 0.0

    # --------------------------------------------------------------------------------------------------------- counts

    def _stroke(self, event: Event) -> None:
        if self.layers.closed:
            return
        self.state.painted.emit(event.source.store.path, event.region)

    # -------------------------------------------------------------------------------------------------------- classes

    def add_class(self, name: str | None = None) -> str:
        """Add a class, and give its name; None: a placeholder name, which can be changed."""
        return self.edits.add(name)

    def rename_class(self, old: str, new: str) -> None:
        """Give a class another name, in all annotations; `MsunetError` if there is one of that name."""
        self.edits.rename(old, new)

    def remove_class(self, name: str) -> None:
        """Remove a class and erase its pixels; an undo in the annotation layer brings the pixels back."""
        self.edits.remove(name)

    def set_colour(self, name: str, colour: tuple[int, int, int]) -> None:
        """Show a class in another colour (red, green, blue; 0 to 255)."""
        self.edits.set_colour(name, colour)

    @show_errors
    def _renamed(self, row: int, name: str) -> None:
        try:
            if name != self.state.classes[row]:
                self.rename_class(self.state.classes[row], name)
        finally:
            self.state.emit("classes")

    @show_errors
    def _remove_chosen(self, *_: object) -> None:
        row = self.table.currentRow()
        if not 0 <= row < len(self.state.classes):
            show_info("Choose a class in the table first; background cannot be removed.")
            return
        name, painted = self.state.classes[row], self.state.count(row + 1)
        question = f"Remove {name} and erase its {painted:,} painted pixels?"
        if not painted or self._sure(question):
            self.remove_class(name)

    def _sure(self, question: str) -> bool:
        return QMessageBox.question(self, "Remove a class", question) == QMessageBox.StandardButton.Yes

    # -------------------------------------------------------------------------------------------------------- folders

    def add_folder(self, images: str | Path, masks: str | Path, **options: object) -> FolderSource:
        """Add a folder of images and one of masks, with the options of `FolderSource`."""
        source = FolderSource(images=Path(images), masks=Path(masks), **options)
        self.state.set_sets([*self.state.sets, source])
        return source

    # ----------------------------------------------------------------------------------------------------- what shows

    def summary(self) -> str:
        """The names of the classes."""
        return ", ".join(self.state.classes)

    def refresh(self) -> None:
        """Show the present classes, counts and sources."""
        layer = self.layers.annotation(self.state.active)
        if layer is not None:
            self._watch(layer)
        self.table.show_rows(self._rows(layer), self._row_of(layer))
        missing = self.missing()
        painting = layer is not None and layer is self.viewer.layers.selection.active and str(layer.mode) == "paint"
        self.start.setEnabled(missing is None and not painting)
        active = self.state.active
        has = active is not None and active.annotation is not None
        self.start.setText("Annotating" if painting else "Go on annotating" if has else "Start annotating")
        self.start.setToolTip(missing or "Puts an empty annotation over the slide and takes the brush.")
        self.remove.setEnabled(len(self.state.classes) > 1)
        self.bring.setEnabled(missing is None)
        self.help.setVisible(layer is not None)
        self.marking.refresh(layer)
        self.sources.refresh()

    def _rows(self, layer: PyramidLabels | None) -> list[ClassTableRow]:
        colours = dict(zip(self.state.classes, default_colours(len(self.state.classes)), strict=True))
        if layer is not None:
            colours |= dict(zip(layer.store.classes, layer.store.colours, strict=True))
        rows = [
            ClassTableRow(name, colours[name], self.state.count(value))
            for value, name in enumerate(self.state.classes, 1)
        ]
        return [
            *rows,
            ClassTableRow("Background", BACKGROUND_COLOUR, self.state.count(ANNOTATED_BACKGROUND), fixed=True),
        ]

    def _row_of(self, layer: PyramidLabels | None) -> int:
        if layer is None:
            return -1
        if layer.selected_label == ANNOTATED_BACKGROUND:
            return len(self.state.classes)
        names = layer.store.classes
        name = names[layer.selected_label - 1] if 0 < layer.selected_label <= len(names) else None
        return self.state.classes.index(name) if name in self.state.classes else -1

    def as_python(self) -> str:
        """The lines that open (or make) the annotation and its slide; strokes are painted by `write`."""
        record = self.state.active
        if record is None:
            raise MsunetError(self.missing() or "Open a slide first.")
        path = record.annotation or self.state.project_folder() / "annotations" / f"{record.name}.ome.zarr"
        slide = f"slide = {call('ms.open_slide', record.open_options, positional=(literal(record.path),))}"
        if record.annotation is not None:
            opened = lines(slide, f"labels = ms.open_labels({literal(path)})", "print(labels)")
            if not self.answering.on:
                return opened
            kept = job_lines(self.answering.job(self.state.project_folder() / "models" / "answer.safetensors"))
            return f"{opened}\n{kept}"
        made = {"classes": self.state.classes, "kind": "annotation"}
        create = call("ms.LabelStore.create", made, positional=(literal(path), "slide=slide"))
        return lines(slide, f"labels = {create}", "print(labels)")

    def closing(self) -> None:
        """Release layers and threads."""
        self.viewer.layers.events.inserted.disconnect(self._inserted)
        for layer in list(self._watched):
            layer.events.stroke.disconnect(self._stroke)
            layer.events.selected_label.disconnect(self._selected)
        self._background.close()
        self.marking.closing()
        self.answering.closing()
