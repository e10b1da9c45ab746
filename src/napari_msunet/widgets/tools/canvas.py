"""The canvas of a viewer as a Qt widget, and the overlay that is drawn over it while a tool is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QFont, QImage, QPainter, QPainterPath, QPen, QTransform
from qtpy.QtWidgets import QWidget

from napari_msunet.geometry import Window
from napari_msunet.widgets.napari_internals import canvas_widget
from napari_msunet.widgets.placement import to_world

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer
    from qtpy.QtGui import QPaintEvent
COLOUR = QColor("#ffd84d")
_SHADE = (255, 216, 77, 120)
_MOST = 1024


class Sketch(QWidget):
    """The overlay on the canvas: the line or lasso, the pixels that would change, and a hint. It gets no mouse events.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Viewer) -> None:
        self.canvas = canvas_widget(viewer)
        super().__init__(self.canvas)
        self.viewer = viewer
        self.layer: Layer | None = None
        self.points: list[tuple[float, float]] = []
        self.closed = False
        self.hint = ""
        self._image: QImage | None = None
        self._where: Window | None = None
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setAttribute(Qt.WidgetAttribute.WA_NoSystemBackground)
        viewer.scene.camera.events.connect(self._moved)
        self.hide()

    def _moved(self, event: object = None) -> None:
        if self.isVisible():
            self.update()

    def start(self, layer: Layer, hint: str, closed: bool) -> None:
        """Show the hint, and from now on the lines drawn on this layer."""
        self.layer, self.hint, self.closed = layer, hint, closed
        self.clear()
        self.setGeometry(self.canvas.rect())
        self.show()
        self.raise_()

    def stop(self) -> None:
        """Stop drawing."""
        self.layer = None
        self.hide()

    def clear(self) -> None:
        """Remove the drawing; the hint stays."""
        self.points, self._image, self._where = [], None, None
        self.update()

    def add(self, point: tuple[float, float]) -> None:
        """Add a point, in level-0 pixels of the layer."""
        self.points.append(point)
        self.update()

    @property
    def marked(self) -> Window | None:
        """The window of the pixels that are marked."""
        return self._where

    def mark(self, window: Window, mask: npt.NDArray[np.bool_]) -> None:
        """Mark these pixels (level 0) as about to change; a large mask is thinned out."""
        step = max(1, -(-max(mask.shape) // _MOST))
        thin = mask[::step, ::step]
        picture = np.zeros((*thin.shape, 4), np.uint8)
        picture[thin] = _SHADE
        height, width = thin.shape
        self._image = QImage(picture.tobytes(), width, height, 4 * width, QImage.Format.Format_RGBA8888).copy()
        self._where = Window(window.y, window.x, height * step, width * step)
        self.update()

    # -------------------------------------------------------------------------------------------------------- drawing

    def on_canvas(self, places: npt.ArrayLike) -> list[QPointF]:
        """The canvas pixels of level-0 pixels of the layer."""
        world = to_world(self.viewer, self.layer, np.asarray(places, float).reshape(-1, 2))
        camera = self.viewer.scene.camera
        offset = (world - np.asarray(camera.center[-2:])) * camera.zoom
        return [QPointF(x + self.width() / 2, y + self.height() / 2) for y, x in offset.tolist()]

    def paintEvent(self, event: QPaintEvent) -> None:
        if self.layer is None:
            return
        self.setGeometry(self.canvas.rect())
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self._image is not None:
            self._draw_mark(painter)
        if self.points:
            self._draw_line(painter)
        self._draw_hint(painter)
        painter.end()

    def _draw_mark(self, painter: QPainter) -> None:
        image, where = self._image, self._where
        corner, right, down = self.on_canvas([(where.y, where.x), (where.y, where.stop[1]), (where.stop[0], where.x)])
        x, y = (right - corner) / image.width(), (down - corner) / image.height()
        painter.save()
        painter.setTransform(QTransform(x.x(), x.y(), y.x(), y.y(), corner.x(), corner.y()))
        painter.drawImage(QPointF(0, 0), image)
        painter.restore()

    def _draw_line(self, painter: QPainter) -> None:
        places = self.on_canvas(self.points)
        path = QPainterPath(places[0])
        for place in places[1:]:
            path.lineTo(place)
        if self.closed and len(places) > 2:
            filled = QPainterPath(path)
            filled.closeSubpath()
            painter.fillPath(filled, QColor(255, 216, 77, 50))
        for colour, width in ((QColor(0, 0, 0, 170), 4), (COLOUR, 2)):
            painter.setPen(QPen(colour, width, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap))
            painter.drawPath(path)
        if self.closed and len(places) > 2:
            painter.setPen(QPen(COLOUR, 1, Qt.PenStyle.DashLine))
            painter.drawLine(places[-1], places[0])

    def _draw_hint(self, painter: QPainter) -> None:
        font = QFont(self.font())
        font.setPixelSize(13)
        painter.setFont(font)
        metrics = painter.fontMetrics()
        wrapped = Qt.AlignmentFlag.AlignLeft | Qt.TextFlag.TextWordWrap
        room = QRectF(0, 0, max(60, self.width() - 40), self.height())
        text = QRectF(metrics.boundingRect(room.toRect(), int(wrapped), self.hint)).translated(20, 15)
        box = text.adjusted(-10, -5, 10, 5)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(20, 22, 26, 215))
        painter.drawRoundedRect(box, 4, 4)
        painter.setPen(QColor("#f2f2f2"))
        painter.drawText(text.adjusted(0, 0, 2, 2), int(wrapped), self.hint)
