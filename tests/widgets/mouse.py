"""Real mouse events on the canvas of a viewer."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_msunet.widgets.napari_internals import camera

LEFT, RIGHT, NONE = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton, Qt.MouseButton.NoButton


def canvas(viewer: Any) -> Any:
    """The widget that gets the mouse."""
    return viewer.window._qt_viewer.canvas.native


def settle() -> None:
    """Let Qt do what waits, drawing included."""
    for _ in range(3):
        QApplication.processEvents()


def look_at(viewer: Any, centre: tuple[float, float], zoom: float) -> None:
    """Move the camera: `centre` in the world, `zoom` in canvas pixels per unit of the world."""
    camera(viewer).zoom = zoom
    camera(viewer).center = (0, *centre)
    settle()
    canvas(viewer).repaint()
    settle()


def place(viewer: Any, world: Any) -> QPointF:
    """The canvas pixel of a place in the world."""
    widget = canvas(viewer)
    y, x = (np.asarray(world, float) - camera(viewer).center[-2:]) * camera(viewer).zoom
    return QPointF(round(x + widget.width() / 2), round(y + widget.height() / 2))


def send(viewer: Any, kind: Any, world: Any, button: Any, held: Any) -> None:
    """One event, as Qt delivers it."""
    widget, at = canvas(viewer), place(viewer, world)
    event = QMouseEvent(
        kind, at, QPointF(widget.mapToGlobal(at.toPoint())), button, held, Qt.KeyboardModifier.NoModifier
    )
    QApplication.sendEvent(widget, event)


def press(viewer: Any, world: Any, button: Any = LEFT) -> None:
    send(viewer, QEvent.Type.MouseButtonPress, world, button, button)


def move(viewer: Any, world: Any, held: Any = LEFT) -> None:
    """Move, and wait until napari has seen it: it joins moves that come at once."""
    near = 2 / camera(viewer).zoom
    for attempt in range(100):
        if attempt % 10 == 0:
            send(viewer, QEvent.Type.MouseMove, world, NONE, held)
        QTest.qWait(6)
        if np.abs(np.asarray(viewer.cursor.position[-2:]) - np.asarray(world)).max() <= near:
            return
    raise AssertionError(f"the mouse did not arrive at {world}: {viewer.cursor.position}")


def release(viewer: Any, world: Any, button: Any = LEFT) -> None:
    send(viewer, QEvent.Type.MouseButtonRelease, world, button, NONE)


def drag(viewer: Any, places: Any, button: Any = LEFT) -> None:
    """Press at the first place, move over all, release at the last."""
    move(viewer, places[0], NONE)
    press(viewer, places[0], button)
    for at in places[1:]:
        move(viewer, at, button)
    release(viewer, places[-1], button)
    settle()


def click(viewer: Any, at: Any, button: Any = LEFT) -> None:
    drag(viewer, [at], button)


def double_click(viewer: Any, at: Any) -> None:
    click(viewer, at)
    send(viewer, QEvent.Type.MouseButtonDblClick, at, LEFT, LEFT)
    release(viewer, at)
    settle()
