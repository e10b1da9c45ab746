"""The list of slides in the Slide step: their pictures, what was done with them, and what they are for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Layer
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import QListWidget, QListWidgetItem, QMenu

from napari_msunet.app.project import SlideNote
from napari_msunet.slide import open_slide
from napari_msunet.slide.appearance import legacy_scale
from napari_msunet.slide.numbers import to_unit
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.state import SlideRecord, State

if TYPE_CHECKING:
    from qtpy.QtCore import QPoint

    from napari_msunet.app.project import SlideRole
ROWS = 4

PICTURE = 34
"""Side of a picture in pixels of the screen."""

MOST_READ = 4096 * 4096
"""Most pixels of the coarsest level that are read for a picture."""

ROLES: dict[SlideRole, tuple[str, str]] = {
    "auto": ("Trains or validates, as is chosen", ""),
    "train": ("Trains", "trains"),
    "validate": ("Validates", "validates"),
    "test": ("Tests", "tests"),
    "none": ("Left out of the training", "left out"),
}
"""What a slide is for: its words in the menu, and in its row."""


class SlideList(QListWidget):
    """The slides, and below them the layers without a file; the data of an item is its record or its layer.

    A click with the right button chooses what a slide is for.

    Attributes
    ----------
    role_wanted : Signal(SlideRecord, str)
        What a slide is to be for.
    """

    role_wanted = Signal(object, str)

    def __init__(self) -> None:
        super().__init__()
        self.setToolTip(
            "The slides of this project. The one that is chosen is annotated, predicted and exported; every image "
            "layer of the viewer is a slide too. The right button says what a slide is for."
        )
        self.setAccessibleName("Slides")
        self.setIconSize(QSize(PICTURE, PICTURE))
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.customContextMenuRequested.connect(self._show_menu)
        self.menu = QMenu(self)
        self._pictures: dict[Path, QIcon | None] = {}
        self._background = Background("msunet-pictures", self)

    def thing(self, item: QListWidgetItem | None) -> SlideRecord | Layer | SlideNote | None:
        """The record, the layer or the lost slide that an item shows."""
        return None if item is None else item.data(Qt.ItemDataRole.UserRole)

    def show_slides(self, state: State, waiting: Iterable[Layer]) -> None:
        """Show the slides of the state and layers that have no file yet, without emitting signals; the active slide is
        selected."""
        wanted: list[tuple[SlideRecord | Layer | SlideNote, str, str]] = [
            (record, *row_of(state, record)) for record in state.slides
        ]
        wanted += [(w, f"{w.name} (layer without a file)", "Choose it to write it as a slide file.") for w in waiting]
        for note in state.lost:
            where = note.path.absolute or note.path.relative
            wanted.append((note, f"{Path(where).name} (not found: click to say where it is)", f"It was {where}."))
        shown = [self.thing(self.item(n)) for n in range(self.count())]
        self.blockSignals(True)
        if shown != [thing for thing, _, _ in wanted]:
            self.clear()
            for thing, _, _ in wanted:
                item = QListWidgetItem()
                item.setData(Qt.ItemDataRole.UserRole, thing)
                item.setSizeHint(QSize(0, PICTURE + 6))
                self.addItem(item)
        for number, (thing, text, tip) in enumerate(wanted):
            item = self.item(number)
            if item.text() != text:
                item.setText(text)
            item.setToolTip(tip)
            if isinstance(thing, SlideRecord):
                self._picture(thing, item)
        self.setCurrentRow(next((n for n, (thing, _, _) in enumerate(wanted) if thing is state.active), -1))
        self.blockSignals(False)
        self.setVisible(bool(wanted))
        self.setFixedHeight(8 + (PICTURE + 6) * min(max(len(wanted), 1), ROWS))

    # -------------------------------------------------------------------------------------------------------- pictures

    def _picture(self, record: SlideRecord, item: QListWidgetItem) -> None:
        """Show the picture of a slide, which is read in the background at first."""
        if record.path not in self._pictures:
            self._pictures[record.path] = None
            read = partial(small_picture, record.path, **record.open_options)
            self._background.run(read, partial(self._read, record.path), lambda _: None)
        icon = self._pictures[record.path]
        if icon is not None and item.icon().isNull():
            item.setIcon(icon)

    def _read(self, path: Path, pixels: npt.NDArray[np.uint8] | None) -> None:
        if pixels is None:
            return
        height, width = pixels.shape[:2]
        image = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
        self._pictures[path] = QIcon(QPixmap.fromImage(image))
        for number in range(self.count()):
            thing = self.thing(self.item(number))
            if isinstance(thing, SlideRecord) and thing.path == path:
                self._picture(thing, self.item(number))

    # ----------------------------------------------------------------------------------------------------------- roles

    def _show_menu(self, place: QPoint) -> None:
        thing = self.thing(self.itemAt(place))
        if isinstance(thing, SlideRecord):
            self.fill_menu(thing)
            self.menu.popup(self.viewport().mapToGlobal(place))

    def fill_menu(self, record: SlideRecord) -> None:
        """Put what a slide can be for into the menu."""
        self.menu.clear()
        for role, (text, _) in ROLES.items():
            action = self.menu.addAction(text)
            action.setCheckable(True)
            action.setChecked(record.role == role)
            action.triggered.connect(lambda _=False, chosen=role: self.role_wanted.emit(record, chosen))

    def closing(self) -> None:
        """End the thread."""
        self._background.close()


def row_of(state: State, record: SlideRecord) -> tuple[str, str]:
    """The text of a slide's row, and its tooltip."""
    size = "px" if record.in_pixels else "? µm/px" if record.mpp is None else f"{record.mpp[0]:.3g} µm/px"
    dimensions = f"{record.shape[1]} × {record.shape[0]} pixels"
    if not record.path.exists():
        done = ["gone"]
    else:
        done = [
            *(["annotated"] if record.annotation and record.counted and record.annotated else []),
            *(["predicted"] if record.labels in state.predicted else ["to predict again"] if record.labels else []),
            *(["corrected"] if record.edited else []),
            *([ROLES[record.role][1]] if ROLES[record.role][1] else []),
        ]
    return f"{record.path.name}\n{size}  ·  {', '.join(done) or 'new'}", f"{record.path}\n{dimensions}"


def small_picture(path: Path, **options: object) -> npt.NDArray[np.uint8] | None:
    """A picture `(h, w, 3)` of a slide of at most twice `PICTURE` pixels; None where its coarsest level is too large.

    A slide of one or two channels is grey; of several others, the first three are shown.
    """
    with open_slide(path, **options) as slide:  # type: ignore[arg-type]  # those of `SlideRecord.open_options`
        level = slide.levels[-1]
        if level.shape[0] * level.shape[1] > MOST_READ:
            return None
        step = max(1, -(-max(level.shape[:2]) // (2 * PICTURE)))
        pixels = np.asarray(level[::step, ::step])
        unit = to_unit(pixels, legacy_scale(slide.dtype))
    if unit.shape[2] < 3:
        unit = np.repeat(unit[..., :1], 3, axis=2)
    return np.ascontiguousarray((unit[..., :3].clip(0, 1) * 255).astype(np.uint8))
