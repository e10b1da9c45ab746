"""Dabs of napari's brush on a 100,000 x 100,000 label store of 8 levels, by real mouse events.

`window.py dabs` runs it. At the finest, a middle and the coarsest zoom a brush of 20 to 200 level-0 pixels is dragged
over the canvas. Measured: each `paint` from the call to the updated texture (its data handed to the graphics library,
queue flushed), the drawing of a frame, the whole handling of a mouse move, and the end of a stroke.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 100_000
ZOOMS = {"finest": 4.0, "middle": 0.25, "coarsest": 0.03}


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and largest, in ms."""
    values = np.array(seconds) * 1000
    found = {"n": len(seconds), "median": np.median(values), "p95": np.percentile(values, 95), "max": values.max()}
    return {name: round(float(value), 2) for name, value in found.items()}


@contextmanager
def timed(owner: Any, name: str, after: Any = None) -> Any:
    """The seconds of each call of a method, with `after()` counted in."""
    original, times = getattr(owner, name), []

    def run(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = original(*args, **options)
        if after is not None:
            after()
        times.append(time.perf_counter() - start)
        return result

    setattr(owner, name, run)
    try:
        yield times
    finally:
        delattr(owner, name)


def run(strokes: int = 12, dabs: int = 25) -> dict[str, Any]:
    """The numbers, by zoom."""
    import napari
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    from napari_msunet.labels import LabelStore
    from napari_msunet.widgets.pyramid_labels import add_labels

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore.create(Path(folder) / "labels.ome.zarr", (SIDE, SIDE), 0.25, ("a", "b", "c"))
        viewer = napari.Viewer(show=True)
        viewer.window._qt_window.resize(1280, 800)
        layer = add_labels(viewer, store)
        canvas = viewer.window._qt_viewer.canvas
        layer.mode = "paint"
        rng = np.random.default_rng(0)
        for name, zoom in ZOOMS.items():
            viewer.scene.camera.zoom = zoom
            viewer.scene.camera.center = (0, SIDE * 0.125, SIDE * 0.125)
            for _ in range(5):
                QApplication.processEvents()
                QTest.qWait(30)
            results[name] = at_zoom(layer, canvas, strokes, dabs, rng)
        viewer.close()
        store.close()
    return results


def at_zoom(layer: Any, canvas: Any, strokes: int, dabs: int, rng: np.random.Generator) -> dict[str, Any]:
    """Strokes over the middle of the canvas."""
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    widget, scene = canvas.native, canvas._scene_canvas
    left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton

    def send(kind: Any, at: Any, button: Any, held: Any) -> float:
        place = QPointF(*at)
        event = QMouseEvent(
            kind, place, QPointF(widget.mapToGlobal(place.toPoint())), button, held, Qt.KeyboardModifier.NoModifier
        )
        start = time.perf_counter()
        QApplication.sendEvent(widget, event)
        return time.perf_counter() - start

    def upload() -> None:
        layer._partial_labels_refresh()
        scene.context.flush_commands()

    frames: list[float] = []
    moves: list[float] = []
    ends: list[float] = []

    def stroke() -> None:
        layer.brush_size = int(rng.integers(20, 201))
        layer.selected_label = int(rng.integers(1, 4))
        start = np.array([widget.width(), widget.height()]) * rng.uniform(0.3, 0.7, 2)
        step = rng.normal(0, 4, 2)
        send(QEvent.Type.MouseMove, start, none, none)
        QTest.qWait(10)
        send(QEvent.Type.MouseButtonPress, start, left, left)
        for number in range(dabs):
            moves.append(send(QEvent.Type.MouseMove, start + step * number, none, left))
            begin = time.perf_counter()
            scene.update()
            widget.repaint()
            if time.perf_counter() - begin > 1e-3:  # else Qt had drawn it already
                frames.append(time.perf_counter() - begin)
            QTest.qWait(8)
        ends.append(send(QEvent.Type.MouseButtonRelease, start + step * dabs, left, none))

    with timed(layer, "paint", upload) as paints:
        for _ in range(strokes):
            stroke()
    for times in (frames, moves, ends):
        times.clear()  # they had an upload at every dab; now as a user has it
    for _ in range(strokes):
        stroke()
    return {
        "level": int(layer.data_level),
        "dab to texture ms": summary(paints),
        "mouse move ms": summary(moves),
        "stroke end ms": summary(ends),
        "frame ms": summary(frames),
    }


def table(results: dict[str, Any]) -> str:
    """The numbers as text."""
    lines = [f"{'zoom':10} {'level':>5}  {'what':20} {'n':>6} {'median':>8} {'p95':>8} {'max':>8}"]
    for name, values in results.items():
        for what in [key for key in values if key != "level"]:
            row = values[what]
            lines.append(
                f"{name:10} {values['level']:>5}  {what:20} {row['n']:>6.0f} {row['median']:>8.2f} {row['p95']:>8.2f} "
                f"{row['max']:>8.2f}"
            )
    return "\n".join(lines)
