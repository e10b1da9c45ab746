"""The Slide step: the slides, the size of their pixels, and the folder of the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal
from weakref import WeakSet

from napari.layers import Image, Layer
from napari.utils.notifications import show_info, show_warning
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_msunet.app.project import Project, SlideNote
from napari_msunet.config import Kind, ValueRange
from napari_msunet.errors import MsunetError, SlideError
from napari_msunet.slide.numbers import TOLD, parse_range
from napari_msunet.slide.slide import READABLE
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.fields import NumberField
from napari_msunet.widgets.dock.project_sync import adopt, known_before, recall, record_of, remember
from napari_msunet.widgets.dock.python_lines import call, lines
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.dock.tissue import TissueRow
from napari_msunet.widgets.layers import Layers
from napari_msunet.widgets.reader import chosen
from napari_msunet.widgets.slides.bring_back import bring_back, note_view
from napari_msunet.widgets.slides.first_try import FirstTry
from napari_msunet.widgets.slides.known_length import KnownLength
from napari_msunet.widgets.slides.project_box import ProjectBox
from napari_msunet.widgets.slides.slide_list import SlideList
from napari_msunet.widgets.state import STEPS, SlideRecord
from napari_msunet.widgets.steps.step import Step

if TYPE_CHECKING:
    from napari.utils.events import Event

    from napari_msunet.widgets.jobs import Jobs
    from napari_msunet.widgets.state import State
FILES = (
    f"Slides and images ({' '.join(f'*{ending}' for ending in READABLE)});;"
    "OME-Zarr (zarr.json .zattrs .zgroup);;All files (*)"
)
"""Filters of the file dialog; an OME-Zarr folder is chosen by its metadata file, see `chosen`."""


FOUND = "as the file says"


class SlideStep(Step):
    """Opens slides, and edits the size and meaning of their pixels and the project folder."""

    name = "slide"
    title = "Slide"
    purpose = "Which slides to work on, the size of their pixels, and where results are kept."

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        super().__init__(state, jobs, layers)
        self._waiting: set[Layer] = set()
        self._followed: WeakSet[Layer] = WeakSet()
        self.project = ProjectBox(state)
        self.project.new_wanted.connect(show_errors(self.open_project))
        self.project.open_wanted.connect(show_errors(lambda folder: self.open_project(Project.open(folder).folder)))
        self.body.addWidget(self.project)
        self.body.addLayout(self._buttons())
        self.first_try = FirstTry(state)
        self.body.addWidget(self.first_try)
        self.list = SlideList()
        self.list.currentItemChanged.connect(self._chosen)
        self.list.role_wanted.connect(self.state.set_role)
        self.body.addWidget(self.list)
        self.about = QWidget()  # of the active slide; nothing of it can be used before there is one
        inside = QVBoxLayout(self.about)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(6)
        inside.addLayout(self._mpp_row())
        self.mpp_note = self.note()
        inside.addWidget(self.mpp_note)
        inside.addWidget(self.measure)
        self.known_length = KnownLength(self.viewer)
        self.known_length.found.connect(show_errors(self.set_mpp))
        inside.addWidget(self.known_length)
        inside.addLayout(self._numbers_row())
        self.tissue = TissueRow(state, layers)
        inside.addWidget(self.tissue)
        self.body.addWidget(self.about)
        self.viewer.layers.events.inserted.connect(self._inserted)
        self.viewer.layers.events.removed.connect(self._removed)
        for layer in list(self.viewer.layers):
            self._take(layer)

    # --------------------------------------------------------------------------------------------------------- layout

    def _buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self.choose = QPushButton("Open slide…")
        self.choose.setObjectName("primary")
        self.choose.setToolTip(
            "Whole-slide files (SVS, NDPI, MRXS, SCN, BIF), TIFF and OME-TIFF, OME-Zarr, PNG and JPEG. "
            "Several files at once work too, and so does dropping them onto the window."
        )
        self.choose.clicked.connect(self._choose)
        self.forget = QPushButton("Remove")
        self.forget.setToolTip("Takes the chosen slide out of this list and out of the viewer. Its files stay.")
        self.forget.clicked.connect(self._forget)
        row.addWidget(self.choose, 1)
        row.addWidget(self.forget)
        return row

    def _mpp_row(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self.mpp = NumberField(0, 1000, 0.05, 4, "µm")
        self.mpp.setSpecialValueText("unknown")
        self.mpp.setToolTip(
            "Size of a pixel of the slide, in µm. It comes from the file; give it where the file has none or a wrong "
            "one: everything that is measured depends on it."
        )
        self.mpp.setAccessibleName("Pixel size in µm")
        self.mpp.valueChanged.connect(self._mpp_edited)
        label = QLabel("Pixel size")
        label.setBuddy(self.mpp)
        row.addWidget(label)
        row.addWidget(self.mpp, 1)
        self.pixels = QCheckBox("pixels")
        self.pixels.setToolTip(
            "The slide has no size in µm, or it is not to count: models, labels and measurements are in its own "
            "pixels. For photographs and X-rays."
        )
        self.pixels.toggled.connect(self._pixels_chosen)
        row.addWidget(self.pixels)
        self.measure = QPushButton("Measure a known length…")
        self.measure.setToolTip("Draw a line along something whose length you know; the size of a pixel follows.")
        self.measure.clicked.connect(show_errors(lambda *_: self.measure_length()))
        return row

    def _numbers_row(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self.kind = QComboBox()
        for text, kind in ((FOUND, None), ("bright-field", "brightfield"), ("fluorescence", "fluorescence")):
            self.kind.addItem(text, kind)
        self.kind.setToolTip(
            "Whether the slide is bright-field or fluorescence: tissue, the colour outside the slide and changes of "
            "stain in training follow it. Choose it where the file does not say it and the guess is wrong."
        )
        self.kind.setAccessibleName("Kind of slide")
        self.kind.activated.connect(self._numbers_edited)
        self.values = QLineEdit()
        self.values.setToolTip(
            "The values that are black and white, such as 0-4095 for a camera of 12 bits. Empty: as the file says, or "
            "a guess from the largest value. A model sees all slides by it."
        )
        self.values.setAccessibleName("Range of values")
        self.values.setClearButtonEnabled(True)
        self.values.editingFinished.connect(self._numbers_edited)
        row.addWidget(QLabel("Kind"))
        row.addWidget(self.kind, 1)
        row.addWidget(QLabel("Values"))
        row.addWidget(self.values, 1)
        return row

    # --------------------------------------------------------------------------------------- what buttons and keys do

    def open_slide(self, path: str | Path, mpp: float | tuple[float, float] | Literal["px"] | None = None) -> Image:
        """Open a slide and make it the active one.

        Parameters
        ----------
        path : path
        mpp : float, (y, x) or "px", optional
            µm per level-0 pixel, where the file does not give it; "px": the slide is used in its own pixels.

        Returns
        -------
        Image
            Its layer; for a slide that is open already, the existing one.

        Raises
        ------
        SlideError
            If the file cannot be read.
        """
        from napari_msunet.widgets.slide_layers import add_slide, set_mpp

        where = Path(path).absolute()
        record = self.state.slide_at(where)
        layer = None if record is None else self.layers.slide(record)
        if layer is None:
            layer = add_slide(self.viewer, where, mpp)
            self._take(layer)
        elif mpp is not None:
            set_mpp(self.viewer, layer, mpp)
        record = self.layers.record(layer)
        if record is not None:
            if mpp is not None:
                record.give_size(mpp)
            self.state.activate(record)
        return layer

    def open_project(self, folder: str | Path) -> None:
        """Open a project with its slides and annotations, or make one there; `MsunetError` where this fails.

        The project that is open is left first, and so are its slides; slides that belong to no project yet come into
        this one.
        """
        project = Project.create(folder)
        before = self.state.project
        if before is not None and before.folder == project.folder:
            remember(self.state)  # it is open already
            return
        project.hold()  # before anything is left
        if before is not None:
            project.release()
            self.leave_project()
        problems = recall(self.state, project)
        if (record := self.state.active) is not None:
            problems += bring_back(self.layers, record)
        for problem in problems:
            show_warning(problem)
        remember(self.state)
        if self.state.step in STEPS:
            self.state.wanted.emit(self.state.step)

    def leave_project(self) -> None:
        """Save the project and leave it, with its slides and their layers; everything stays on disk.

        Raises
        ------
        MsunetError
            While a job of it runs.
        """
        if self.state.running:
            raise MsunetError("A job of this project is under way: wait until it has ended, or stop it first.")
        if self.state.active is not None:
            note_view(self.layers, self.state.active)
        remember(self.state)
        for layer in [one for one in self.viewer.layers if self.layers.owner(one) is not None]:
            self.viewer.layers.remove(layer)
        self.state.clear()

    def find_lost(self, note: SlideNote, path: str | Path) -> None:
        """Say where a slide of the project is now; `MsunetError` if there is another image."""
        record = record_of(Path(path).absolute(), note.mpp)
        if note.identity is not None and record.identity is not None and note.identity != record.identity:
            was = Path(note.path.absolute or note.path.relative).name
            raise MsunetError(f"{record.path.name} is another image than {was} was; choose that one.")
        adopt(self.state, record, note)
        self.state.add_slide(record)
        self._show(record)

    @show_errors
    def _choose(self, *_: object) -> None:
        paths, _kind = QFileDialog.getOpenFileNames(self, "Open slides", self._start(), FILES)
        for path in paths:
            self.open_slide(chosen(path))

    @show_errors
    def _forget(self, *_: object) -> None:
        item = self.list.currentItem()
        if item is None:
            return
        thing = self.list.thing(item)
        found = self.layers.all_of(thing) if isinstance(thing, SlideRecord) else [thing]
        if isinstance(thing, SlideRecord):
            self.state.remove_slide(thing)
        for layer in found:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    @show_errors
    def _mpp_edited(self, value: float) -> None:
        record = self.state.active
        if record is None or value <= 0 or (record.mpp is not None and abs(record.mpp[0] - value) < 5e-5):
            return
        self.set_mpp(value)

    @show_errors
    def _pixels_chosen(self, chosen: bool) -> None:
        record = self.state.active
        if record is None or record.in_pixels == chosen:
            return
        if chosen:
            self.set_mpp("px")
            return
        from napari_msunet.widgets.dock.project_sync import record_of

        record.in_pixels = False  # the size in the file counts again
        own = record_of(record.path)
        if own.mpp is not None:
            self.set_mpp(own.mpp)
        record.mpp, record.mpp_given = own.mpp, False
        self.state.activate(record)

    def set_mpp(self, mpp: float | tuple[float, float] | Literal["px"]) -> None:
        """Set the µm per pixel of the active slide; with "px" it is used in its own pixels.

        Raises
        ------
        SlideError
            If `mpp` is neither a size above zero nor "px".
        """
        from napari_msunet.widgets.slide_layers import set_mpp

        record = self.state.active
        if record is None:
            raise MsunetError("Open a slide first: the pixel size belongs to one.")
        for layer in self.layers.all_of(record):
            if isinstance(layer, Image):
                set_mpp(self.viewer, layer, mpp)
                break
        record.give_size(mpp)
        self.state.activate(record)

    def measure_length(self) -> None:
        """Let the person draw a line of known length on the active slide, from which the µm per pixel follow."""
        record = self.state.active
        if record is None:
            raise MsunetError("Open a slide first: the pixel size belongs to one.")
        if self.known_length.active:
            self.known_length.close_overlay()
        else:
            self.known_length.start(self.layers.need_slide(record))

    @show_errors
    def _numbers_edited(self, *_: object) -> None:
        record = self.state.active
        if record is None:
            return
        text = self.values.text().strip()
        try:
            self.set_numbers(self.kind.currentData(), parse_range(text) if text else None)
        except SlideError:
            self.refresh()
            raise

    def set_numbers(self, kind: Kind | None, value_range: ValueRange | None) -> None:
        """Set what the values of the active slide mean; None: what its file gives, or a guess."""
        from napari_msunet.widgets.slide_layers import set_numbers

        record = self.state.active
        if record is None:
            raise MsunetError("Open a slide first: kind and range belong to one.")
        if (kind, value_range) == (record.kind, record.value_range):
            return
        for layer in self.layers.all_of(record):
            if isinstance(layer, Image):
                set_numbers(self.viewer, layer, kind, value_range)
                break
        record.kind, record.value_range = kind, value_range
        self.state.activate(record)
        self.state.emit("slides")

    def _chosen(self, item: QListWidgetItem | None, _before: object = None) -> None:
        thing = self.list.thing(item)
        if isinstance(thing, SlideRecord):
            self.state.activate(thing)
            if self.layers.slide(thing) is None:
                self._show(thing)
        elif isinstance(thing, Image):
            self._write(thing)
        elif isinstance(thing, SlideNote):
            self._ask_lost(thing)

    @show_errors
    def _ask_lost(self, note: SlideNote) -> None:
        was = Path(note.path.absolute or note.path.relative)
        path, _kind = QFileDialog.getOpenFileName(self, f"Where is {was.name} now?", self._start(), FILES)
        if path:
            self.find_lost(note, chosen(path))
        else:
            self.refresh()

    def _start(self) -> str:
        return str(self.state.slides[-1].path.parent) if self.state.slides else str(Path.home())

    # ---------------------------------------------------------------------------------------- layers come, layers go

    def _inserted(self, event: Event) -> None:
        self._take(event.value)

    @show_errors
    def _take(self, layer: Layer) -> None:
        """Add an image layer to the slides of the dock; it has a file, or can get one."""
        from napari_msunet.widgets.layer_slides import is_slide, slide_of

        if not is_slide(layer):
            return
        if layer not in self._followed:
            self._followed.add(layer)
            layer.events.data.connect(self._replaced)
        slide = slide_of(layer)
        if slide is None:
            return
        if slide.path is None:
            self._waiting.add(layer)
            self.state.emit("slides")
            return
        self._waiting.discard(layer)
        record = self.state.slide_at(slide.path)
        if record is None:
            record = record_of(Path(slide.path), "px" if slide.in_pixels else slide.mpp)
            known_before(self.state, record)
        self.state.add_slide(record)

    @show_errors
    def _replaced(self, event: Event) -> None:
        """Remove a slide whose layer shows other pixels than its file."""
        from napari_msunet.widgets.layer_slides import slide_of

        layer = event.source
        if self.layers.closed or layer in self._waiting or layer not in self.viewer.layers:
            return
        slide = slide_of(layer)
        if slide is not None and slide.path is None:
            self._waiting.add(layer)
            show_warning(
                f'"{layer.name}" shows other pixels than its file now, so it is no longer that slide: choose it in the '
                "list of slides to write it as a file of its own, and annotate that."
            )
            self.state.emit("slides")

    def _removed(self, event: Event) -> None:
        self._waiting.discard(event.value)
        self.state.emit("slides")

    def _show(self, record: SlideRecord) -> None:
        """Show a slide that is not in the viewer, with what it had when it was left."""
        for problem in bring_back(self.layers, record):
            show_warning(problem)

    @show_errors
    def _write(self, layer: Image) -> None:
        """Write a layer without a file into the project as a pyramid, after which it is a slide like any other."""
        from napari_msunet.widgets.layer_slides import as_slide_file

        if layer not in self._waiting:
            return  # it is being written already: one click emits two signals, of the choice and of its change
        project = self.state.make_project()
        worker = as_slide_file(layer, project.folder / "slides")
        self._waiting.discard(layer)
        show_info(f'"{layer.name}" has no file yet: it is written into the project {project.name}.')
        worker.returned.connect(lambda path: path is not None and not self.layers.closed and self._take(layer))

    # ----------------------------------------------------------------------------------------------------- what shows

    def summary(self) -> str:
        """The active slide's name."""
        return self.state.active.path.name if self.state.active else ""

    def refresh(self) -> None:
        """Show the present slides."""
        waiting = [layer for layer in self.viewer.layers if layer in self._waiting]
        self.list.show_slides(self.state, waiting)
        record = self.state.active
        if self.known_length.active and self.known_length.layer not in self.layers.all_of(record):
            self.known_length.stop()  # another slide is shown now
        self.project.refresh()
        self.first_try.refresh()
        self.about.setVisible(record is not None)
        self.forget.setEnabled(self.list.currentItem() is not None)
        in_pixels = record is not None and record.in_pixels
        self.mpp.setEnabled(record is not None and not in_pixels)
        self.pixels.blockSignals(True)
        self.pixels.setChecked(in_pixels)
        self.pixels.blockSignals(False)
        self.pixels.setEnabled(record is not None)
        # where the file says it, nothing is to be measured
        self.measure.setVisible(record is not None and not in_pixels and (record.mpp is None or record.mpp_given))
        self.mpp.blockSignals(True)
        self.mpp.setValue(record.mpp[0] if record and record.mpp else 0)
        self.mpp.blockSignals(False)
        self.mpp_note.setText(resolve.pixel_size(record))
        self.mpp_note.setVisible(record is not None)
        self._show_numbers(record)
        self.tissue.refresh()

    def _show_numbers(self, record: SlideRecord | None) -> None:
        """Show kind and range that were given, and beside them those of the file or of a guess."""
        numbers = None if record is None else record.numbers
        for field in (self.kind, self.values):
            field.setEnabled(record is not None)
        origin = "" if numbers is None else f"{resolve.kind(numbers.kind)} ({TOLD[numbers.kind_from]})"
        self.kind.setItemText(0, origin or FOUND)
        self.kind.setCurrentIndex(max(0, self.kind.findData(None if record is None else record.kind)))
        given = None if record is None else record.value_range
        if not self.values.hasFocus():
            self.values.setText("" if given is None else f"{given[0]:g}-{given[1]:g}")
        low, high = (0, 0) if numbers is None else numbers.value_range
        self.values.setPlaceholderText("" if numbers is None else f"{low:g}-{high:g} ({TOLD[numbers.range_from]})")

    def as_python(self) -> str:
        """The lines that open each slide."""
        slides = self.state.slides
        if not slides:
            return lines('slide = ms.open_slide("slide.svs")  # the path of a slide')
        made = [_opening(record) for record in slides]
        if len(made) == 1:
            return lines(f"slide = {made[0]}", "print(slide)", *self.tissue.as_python())
        inner = "".join(f"    {one},\n" for one in made)
        return lines(f"slides = [\n{inner}]", "print(*slides, sep='\\n')".replace("'", '"'), *self.tissue.as_python())

    def closing(self) -> None:
        """Disconnect from the viewer's events."""
        self.viewer.layers.events.inserted.disconnect(self._inserted)
        self.viewer.layers.events.removed.disconnect(self._removed)
        for layer in list(self._followed):
            layer.events.data.disconnect(self._replaced)
        self.list.closing()
        self.tissue.closing()
        self.known_length.close_overlay()


def _opening(record: SlideRecord) -> str:
    from napari_msunet.widgets.dock.python_lines import literal

    return call("ms.open_slide", record.open_options, positional=(literal(record.path),))
