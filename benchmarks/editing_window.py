"""What the parts of `editing.py` share: a window of 1000 x 700, strokes as mouse events, times."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ZOOMS = {"finest": 4.0, "middle": 0.25, "coarsest": 0.01}
"""Screen pixels per level-0 pixel."""


class Watch:
    """Time that went by, and the time this thread worked: on a busy machine these differ."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.thread_time()

    def read(self) -> tuple[float, float]:
        """Seconds since it was made: gone by, worked."""
        return time.perf_counter() - self._wall, time.thread_time() - self._cpu


def summary(times: list[tuple[float, float]]) -> dict[str, float]:
    """Median, 95th percentile and largest of the time that went by, 95th percentile of the work, in ms."""
    if not times:
        return {"n": 0, "median": float("nan"), "p95": float("nan"), "max": float("nan"), "cpu p95": float("nan")}
    wall, cpu = np.array(times).T * 1000
    found = {
        "n": len(times),
        "median": np.median(wall),
        "p95": np.percentile(wall, 95),
        "max": wall.max(),
        "cpu p95": np.percentile(cpu, 95),
    }
    return {name: round(float(value), 2) for name, value in found.items()}


@contextmanager
def timed(owner: Any, name: str, after: Any = None) -> Iterator[list[tuple[float, float]]]:
    """The times of each call of a method, with `after()` counted in."""
    original, times = getattr(owner, name), []

    def run(*args: Any, **options: Any) -> Any:
        watch = Watch()
        result = original(*args, **options)
        if after is not None:
            after()
        times.append(watch.read())
        return result

    object.__setattr__(owner, name, run)
    try:
        yield times
    finally:
        object.__delattr__(owner, name)


class Desk:
    """A viewer with one labels layer, and a mouse.

    Parameters
    ----------
    layer_of : callable
        Adds the layer to a viewer and gives it.
    side : int
        Of the labels, in level-0 pixels.
    """

    def __init__(self, viewer: Any, layer: Any, side: int) -> None:
        self.viewer, self.layer, self.side = viewer, layer, side
        self.canvas = viewer.window._qt_viewer.canvas
        self.widget, self.scene = self.canvas.native, self.canvas._scene_canvas
        layer.mode = "paint"

    def look(self, zoom: float) -> None:
        """The labels' middle at `zoom` screen pixels per level-0 pixel."""
        pixel = float(np.min(np.abs(self.layer._data_to_world.scale[-2:])))
        self.viewer.scene.camera.zoom = zoom / pixel
        self.viewer.scene.camera.center = (0, self.side * pixel / 2, self.side * pixel / 2)
        self.rest(150)

    def rest(self, milliseconds: int) -> None:
        from qtpy.QtTest import QTest

        QTest.qWait(milliseconds)

    def send(self, kind: str, at: Any) -> tuple[float, float]:
        """One event of the left button at a canvas pixel `(x, y)`; times until its handlers returned."""
        from qtpy.QtCore import QEvent, QPointF, Qt
        from qtpy.QtGui import QMouseEvent
        from qtpy.QtWidgets import QApplication

        left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
        button, held = {"MouseMove": (none, left), "hover": (none, none), "MouseButtonPress": (left, left)}.get(
            kind, (left, none)
        )
        place = QPointF(float(at[0]), float(at[1]))
        event = QMouseEvent(
            getattr(QEvent.Type, "MouseMove" if kind == "hover" else kind),
            place,
            QPointF(self.widget.mapToGlobal(place.toPoint())),
            button,
            held,
            Qt.KeyboardModifier.NoModifier,
        )
        watch = Watch()
        QApplication.sendEvent(self.widget, event)
        return watch.read()

    def upload(self) -> None:
        """Send what changed to the texture and have the graphics library take it."""
        self.layer._partial_labels_refresh()
        self.scene.set_current()  # another window may have been drawn meanwhile
        self.scene.context.flush_commands()

    def draw(self) -> tuple[float, float]:
        """Times to draw a frame."""
        watch = Watch()
        self.scene.update()
        self.widget.repaint()
        return watch.read()

    def track(self, rng: np.random.Generator, count: int, step: float) -> Iterator[Any]:
        """Places of a stroke that wanders about the middle of the canvas."""
        size = np.array([self.widget.width(), self.widget.height()], float)
        at, way = size * rng.uniform(0.35, 0.65, 2), rng.uniform(0, 2 * np.pi)
        for _ in range(count):
            yield at
            way += rng.normal(0, 0.3)
            at = at + step * np.array([np.cos(way), np.sin(way)])
            if ((at < size * 0.1) | (at > size * 0.9)).any():
                way += np.pi / 2
                at = np.clip(at, size * 0.1, size * 0.9)


@contextmanager
def pyramid(side: int) -> Iterator[Desk]:
    """A store of `side` x `side` pixels in a window."""
    import napari

    from napari_msunet.labels import LabelStore
    from napari_msunet.widgets.paint import add_labels

    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore.create(Path(folder) / "labels.ome.zarr", (side, side), 0.25, ("a", "b", "c"))
        viewer = napari.Viewer(show=True)
        viewer.window._qt_window.resize(1000, 700)
        yield Desk(viewer, add_labels(viewer, store), side)
        viewer.layers.clear()
        viewer.close()
        store.close()


@contextmanager
def array(side: int) -> Iterator[Desk]:
    """napari's own labels on a numpy array in a window."""
    import napari

    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1000, 700)
    layer = viewer.add_labels(np.zeros((side, side), np.uint8), scale=(0.25, 0.25))
    yield Desk(viewer, layer, side)
    viewer.layers.clear()
    viewer.close()
