"""Thumbnails of what each branch of a model sees, side by side."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_msunet.geometry import Resolution

COLOURS = (
    (1.0, 0.83, 0.0),
    (0.0, 0.85, 1.0),
    (1.0, 0.35, 0.85),
    (0.35, 1.0, 0.35),
    (1.0, 0.55, 0.1),
    (0.65, 0.6, 1.0),
)
"""One per scale, on the slide and around its thumbnail."""
SIDE = 160
"""Screen pixels of a thumbnail."""


class FieldsPanel(QWidget):
    """One thumbnail per scale, with its name and µm per pixel below."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._row = QHBoxLayout()
        self._row.setSpacing(12)
        self._hint = QLabel(
            "Move the mouse over the slide.<br>Solid: the window a branch is trained on (white: the same for all).<br>"
            "Dashed: all that its prediction at the cursor can depend on."
        )
        self._hint.setWordWrap(True)
        self._hint.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self._hint.setMinimumWidth(160)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.addLayout(self._row)
        layout.addSpacing(8)
        layout.addWidget(self._hint, 1)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.thumbnails: list[_Thumbnail] = []

    def set_scales(self, scales: list[tuple[str, Resolution]]) -> None:
        """Show these scales: names, and µm per pixel."""
        wanted = list(scales)
        if [(t.scale, t.resolution) for t in self.thumbnails] == wanted:
            return
        for old in self.thumbnails:
            self._row.removeWidget(old)
            old.deleteLater()
        self.thumbnails = []
        for number, (name, resolution) in enumerate(wanted):
            thumb = _Thumbnail(name, resolution, COLOURS[number % len(COLOURS)])
            self._row.addWidget(thumb)
            self.thumbnails.append(thumb)

    def show_pictures(self, pictures: list[tuple[str, npt.NDArray[np.uint8], str]]) -> None:
        """Show pictures `(scale, (h, w, 3) uint8, its size in words)`; scales that are shown no longer are left out."""
        by_name = {thumb.scale: thumb for thumb in self.thumbnails}
        for scale, pixels, text in pictures:
            if scale in by_name:
                by_name[scale].set_picture(pixels, text)

    def say(self, text: str) -> None:
        """Tell why nothing can be shown."""
        for thumb in self.thumbnails:
            thumb.clear(text)


class _Thumbnail(QWidget):
    def __init__(self, scale: str, resolution: Resolution, colour: tuple[float, float, float]) -> None:
        super().__init__()
        self.scale, self.resolution = scale, resolution
        self.picture = QLabel()
        self.picture.setFixedSize(SIDE + 4, SIDE + 4)
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        red, green, blue = (round(255 * c) for c in colour)
        self.picture.setStyleSheet(f"QLabel {{ border: 2px solid rgb({red}, {green}, {blue}); }}")
        self.title = QLabel(f"<b>{scale}</b> · {resolution.short}")
        self.detail = QLabel(" ")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for widget in (self.picture, self.title, self.detail):
            layout.addWidget(widget)
        layout.addStretch(1)

    def set_picture(self, pixels: npt.NDArray[np.uint8], text: str) -> None:
        """Enlarged without smoothing: the pixels are what the branch has."""
        pixels = np.ascontiguousarray(pixels)
        height, width = pixels.shape[:2]
        image = QImage(pixels.data, width, height, 3 * width, QImage.Format.Format_RGB888)
        smaller = max(height, width) > SIDE
        mode = Qt.TransformationMode.SmoothTransformation if smaller else Qt.TransformationMode.FastTransformation
        scaled = QPixmap.fromImage(image).scaled(SIDE, SIDE, Qt.AspectRatioMode.KeepAspectRatio, mode)
        self.picture.setPixmap(scaled)
        self.picture.setToolTip(f"{self.scale}: {text}, seen {self.resolution.at}.")
        self.detail.setText(text)

    def clear(self, text: str) -> None:
        """No picture, and why in the tooltip."""
        self.picture.setPixmap(QPixmap())
        self.picture.setToolTip(text)
        self.detail.setText(" ")


def size_text(shape: tuple[int, int], resolution: Resolution) -> str:
    """Such as "128 x 128 px, 64 µm", or the length in pixels of the image."""
    length = shape[0] * resolution.size
    return f"{shape[0]} x {shape[1]} px, {length:.3g} {'µm' if resolution.unit == 'µm' else 'image pixels'}"
