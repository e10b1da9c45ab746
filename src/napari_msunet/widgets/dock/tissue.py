"""The row of the Slide step that finds tissue, shows it as a layer to correct, and forgets it again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Window
from napari_msunet.labels import open_labels, tissue_labels
from napari_msunet.slide import open_slide, tissue_mask
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.python_lines import call, literal
from napari_msunet.widgets.dock.show_errors import notify_error, show_errors

if TYPE_CHECKING:
    from napari.utils.events import Event

    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.state import SlideRecord, State
NO_SLIDE = "Open a slide first: tissue is found on one."
NO_MPP = "Give the pixel size first: the smallest piece of tissue is defined in µm."
OPACITY = 0.35
BRUSH = 12


class _StoppedError(Exception):
    pass


class TissueRow(QWidget):
    """Finds the tissue of the active slide in the background; afterwards the same button shows it for correction.

    Parameters
    ----------
    state : State
    layers : Layers
    """

    _progressed = Signal(int, int)

    def __init__(self, state: State, layers: Layers) -> None:
        super().__init__()
        self.state, self.layers = state, layers
        self._background = Background("msunet-tissue", self)
        self._running: SlideRecord | None = None
        self._stopped = False
        self._shares: dict[Path, float] = {}
        self._watched: PyramidLabels | None = None
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        row = QHBoxLayout()
        self.button = QPushButton()
        self.button.clicked.connect(show_errors(lambda *_: self.find()))
        self.forget_button = QPushButton("Forget")
        self.forget_button.setToolTip(
            "Training and review look at the whole slide again. The file with the tissue stays in the project."
        )
        self.forget_button.clicked.connect(show_errors(lambda *_: self.forget()))
        row.addWidget(self.button, 1)
        row.addWidget(self.forget_button)
        column.addLayout(row)
        self.words = QLabel()
        self.words.setObjectName("note")
        self.words.setWordWrap(True)
        column.addWidget(self.words)
        self._progressed.connect(self._say)

    # ---------------------------------------------------------------------------------------------------------- actions

    def find(self) -> Path | None:
        """Find the active slide's tissue; returns at once. Where it was found before, show it for correction.

        Returns
        -------
        Path or None
            The path of the label store, which may not exist yet.

        Raises
        ------
        MsunetError
            If there is no slide, its µm per pixel are not known, or the project cannot be made.
        """
        record = self._record()
        if record.tissue is not None and record.tissue.exists():
            self.correct(record)
            return record.tissue
        if self._running is not None:
            raise MsunetError(f"The tissue of {self._running.path.name} is being found; wait until it is there.")
        path = self.state.make_project().tissue_path(record.name)
        self._running = record
        work = partial(self._work, record.path, record.open_options, path)
        self._background.run(work, partial(self._found, record), self._failed)
        self.refresh()
        return path

    def correct(self, record: SlideRecord) -> PyramidLabels:
        """Select the layer of a slide's tissue and choose the brush; gives the layer."""
        layer = self.show_layer(record)
        layer.visible = True
        viewer = self.layers.viewer
        viewer.layers.selection.active = layer
        if layer.can_be_painted():
            layer.selected_label, layer.brush_size, layer.mode = 1, BRUSH, "paint"
        return layer

    def forget(self) -> None:
        """Remove the tissue from the active slide's record and from the viewer; its file stays."""
        record = self._record()
        layer = self.layers.of_store(record.tissue)
        record.tissue = None
        if layer is not None:
            self.layers.viewer.layers.remove(layer)
        self.state.emit("slides")

    def show_layer(self, record: SlideRecord) -> PyramidLabels:
        """The layer of a slide's tissue; it is added where it is missing."""
        from napari_msunet.widgets.slide_layers import add_labels

        layer = self.layers.of_store(record.tissue)
        if layer is None:
            active = self.layers.viewer.layers.selection.active
            layer = add_labels(self.layers.viewer, record.tissue, self.layers.need_slide(record))
            layer.name, layer.opacity = f"Tissue {record.name}", OPACITY
            self.layers.viewer.layers.selection.active = active
        if self._watched is not layer:
            self._let_go()
            layer.events.stroke.connect(self._stroked)
            self._watched = layer
        return layer

    def _record(self) -> SlideRecord:
        record = self.state.active
        if record is None:
            raise MsunetError(NO_SLIDE)
        if not record.sized:
            raise MsunetError(NO_MPP)
        return record

    # ------------------------------------------------------------------------------------------------ in the background

    def _work(self, slide_path: Path, options: dict[str, object], out: Path) -> Path:
        def progress(done: int, total: int) -> None:
            if self._stopped:
                raise _StoppedError
            self._progressed.emit(done, total)

        with open_slide(slide_path, **options) as slide:
            return tissue_labels(slide, out, tissue_mask(slide, progress=progress)).path

    def _found(self, record: SlideRecord, path: Path) -> None:
        self._running = None
        record.tissue = path
        if record in self.state.slides:
            self.show_layer(record)
        self.state.emit("slides")

    def _failed(self, error: Exception) -> None:
        self._running = None
        if not isinstance(error, _StoppedError):
            notify_error(str(error))
        self.refresh()

    def _measure(self, path: Path) -> None:
        """Measure again how much of the slide is tissue."""

        def share() -> float:
            store = open_labels(path)
            return float((store.read(Window(0, 0, *store.shape)) > 0).mean())

        def known(value: float) -> None:
            self._shares[path] = value
            self.refresh()

        def failed(error: Exception) -> None:
            notify_error(str(error))

        self._background.run(share, known, failed)

    def _stroked(self, event: Event) -> None:
        if not self.layers.closed:
            self._measure(event.source.store.path)

    # ---------------------------------------------------------------------------------------------------- what is shown

    def refresh(self) -> None:
        """Show the state of the active slide's tissue."""
        record = self.state.active
        there = record is not None and record.tissue is not None
        self.button.setText("Correct tissue" if there else "Find tissue")
        self.forget_button.setVisible(there)
        self.button.setEnabled(record is not None and record.sized and self._running is None)
        self.button.setToolTip(
            (NO_SLIDE if record is None else NO_MPP)
            if record is None or not record.sized
            else "Shows the tissue and gives the brush; the eraser takes tissue away."
            if there
            else "Finds the tissue on the slide, without pen marks, dirt and empty fat; as a layer that can be "
            "corrected. Training takes background from tissue only then."
        )
        if record is not None and self._running is record:
            if not self.words.text().startswith("Looking"):
                self.words.setText("Looking at the slide.")
        elif there and record is not None and record.tissue is not None:
            share = self._shares.get(record.tissue)
            if share is None:
                self._shares[record.tissue] = -1.0
                self._measure(record.tissue)
            self.words.setText(_share_words(share))
        else:
            self.words.setText("")
        self.words.setVisible(bool(self.words.text()))

    def _say(self, done: int, total: int) -> None:
        if self._running is not None and self._running is self.state.active:
            self.words.setText(f"Looking at the slide: {done} of {total}.")

    def as_python(self) -> list[str]:
        """The line that finds the active slide's tissue, if it was found."""
        record = self.state.active
        if record is None or record.tissue is None:
            return []
        opened = call("ms.open_slide", record.open_options, positional=(literal(record.path),))
        return [f"tissue = ms.tissue_labels({opened}, {literal(record.tissue)})"]

    def closing(self) -> None:
        """Stop looking."""
        self._stopped = True
        self._let_go()
        self._background.close()

    def _let_go(self) -> None:
        if self._watched is not None:
            self._watched.events.stroke.disconnect(self._stroked)
            self._watched = None


def _share_words(share: float | None) -> str:
    if share is None or share < 0:
        return "Training takes background from the tissue only."
    if share == 0:
        return "No tissue was found: paint it, or forget this."
    percent = "Less than 1 %" if share < 0.01 else f"{100 * share:.0f} %"
    return f"{percent} of the slide is tissue; training takes background from there only."
