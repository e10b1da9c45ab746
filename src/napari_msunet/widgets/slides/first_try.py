"""The first button of the window: nuclei by the model that comes with the package, on a piece of the slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

from napari_msunet.app.shipped import shipped_model
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Region

if TYPE_CHECKING:
    from napari_msunet.slide import Slide
    from napari_msunet.widgets.state import State

SIDE = 800.0
"""Side in µm of the piece that is labelled where more is in view, which takes a few seconds."""

_LOOK = 256
"""Pixels of the longer side at which the view is looked at."""


class FirstTry(QWidget):
    """A button that labels nuclei, there while nothing was annotated, trained or predicted."""

    wanted = Signal()

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        self.button = QPushButton()
        self.button.clicked.connect(lambda *_: self.wanted.emit())
        self.words = QLabel()
        self.words.setObjectName("note")
        self.words.setWordWrap(True)
        column.addWidget(self.button)
        column.addWidget(self.words)

    def refresh(self) -> None:
        """Show it where it is of use, for the slide that is open or, without one, for the sample."""
        record = self._state.active
        begun = record is not None and (record.annotation is not None or record.labels is not None)
        self.setVisible(_is_shipped() and not begun and self._state.model_path is None)
        self.button.setText("Try it on a sample slide" if record is None else "Try it on this slide")
        self.button.setEnabled(record is None or record.mpp is not None)
        self.words.setText(
            "Give the pixel size below first: nuclei are found by their size."
            if not self.button.isEnabled()
            else "Labels the nuclei of what is in view with the model that comes with napari-msunet (H&E)."
        )


def _is_shipped() -> bool:
    try:
        shipped_model()
    except ModelError:
        return False
    return True


def piece_to_try(slide: Slide, view: Region) -> Region:
    """What is in view, or where more than `SIDE` µm a side is, the square of it with the most tissue.

    Parameters
    ----------
    slide : Slide
        With known µm per pixel.
    view : Region
        In level-0 pixels.

    Returns
    -------
    Region
        In level-0 pixels.
    """
    from scipy.ndimage import uniform_filter

    assert slide.mpp is not None
    side = [SIDE / size for size in slide.mpp]
    if view.height <= side[0] and view.width <= side[1]:
        return view
    coarse = max(view.height * slide.mpp[0], view.width * slide.mpp[1]) / _LOOK
    values = slide.read(view, coarse).astype(np.float32).mean(-1)
    dark = slide.background.astype(np.float32).mean() - values
    window = [max(1, round(min(SIDE, n * coarse) / coarse)) for n in values.shape]
    best = uniform_filter(np.abs(dark), window, mode="constant")
    middle = np.unravel_index(int(best.argmax()), best.shape)
    corner = [
        start + float(np.clip((m + 0.5) / n * extent - s / 2, 0, max(0.0, extent - s)))
        for start, m, n, extent, s in zip(
            (view.y, view.x), middle, values.shape, (view.height, view.width), side, strict=True
        )
    ]
    return Region(*corner, min(side[0], view.height), min(side[1], view.width))
