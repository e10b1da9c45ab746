"""The chosen tool: what is drawn with the mouse becomes one stroke of the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QEvent, QObject, Qt, Signal

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region
from napari_msunet.slide import Slide
from napari_msunet.widgets import keys
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.show_errors import notify_error
from napari_msunet.widgets.placement import to_level0
from napari_msunet.widgets.tools import object_tools, wands
from napari_msunet.widgets.tools.canvas import Sketch
from napari_msunet.widgets.tools.tool import Change, Tool, ToolInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.viewer import Viewer

    from napari_msunet.widgets.paint import PyramidLabels
CLICK = 4
"""Largest move of the mouse during a click, in pixels of the canvas; a larger one moves the view."""

SPAN = 300
"""Canvas pixels by which the mouse moves sideways to change a wand's tolerance over its whole range."""

_FEW_POINTS = 1.5

PATIENCE = 0.03
"""Seconds that a tool waits for a brush stroke that is still being stored."""


def all_tools() -> tuple[Tool, ...]:
    """All tools, in the order of the row."""
    return (*object_tools.TOOLS, *object_tools.OUTLINE_TOOLS, *wands.TOOLS)


for _tool in all_tools():
    keys.register(f"tools.{_tool.name}", _tool.key, _tool.text.rstrip("."), "Tools")
keys.register(
    "tools.stop",
    "Escape",
    "Cancel what is being drawn; again: put the tool away",
    "Tools",
    instead="napari's Escape only drops a polygon under way, and does so as long as no tool is chosen",
)


class Tools(QObject):
    """The tools of a viewer.

    Parameters
    ----------
    viewer : napari.Viewer
    slide_of : callable
        Gives the `Slide` that a labels layer belongs to, or None.
    parent : QObject, optional

    Attributes
    ----------
    tool : Tool or None
        The chosen tool.
    layer : PyramidLabels or None
        The labels that the tools edit.
    changed : Signal()
        Another tool was chosen, or the amount of a tool has changed.
    """

    changed = Signal()

    def __init__(
        self, viewer: Viewer, slide_of: Callable[[PyramidLabels], Slide | None], parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self.viewer, self.slide_of = viewer, slide_of
        self.all = {tool.name: tool for tool in all_tools()}
        self.amounts = {tool.amount.shared: tool.amount.value for tool in self.all.values() if tool.amount}
        self.layer: PyramidLabels | None = None
        self.tool: Tool | None = None
        self.sketch = Sketch(viewer)
        self._background = Background("msunet-tools", self)
        self._points: list[tuple[float, float]] = []
        self._turn = 0
        self._waiting: Callable[[], None] | None = None
        self._change: Change | None = None
        self._released = False
        self._computing = False
        self._begun: float | None = None

    # ------------------------------------------------------------------------------------------------------- choosing

    def attach(self, layer: PyramidLabels | None) -> None:
        """Edit this labels layer from now on; None: no layer."""
        if layer is self.layer:
            return
        self.choose(None)
        if self.layer is not None:
            for tool in self.all.values():
                keys.release(self.layer, f"tools.{tool.name}")
        self.layer = layer
        if layer is not None:
            for tool in self.fitting():
                keys.bind(layer, f"tools.{tool.name}", partial(self.toggle, tool.name))
        self.changed.emit()

    def fitting(self) -> list[Tool]:
        """The tools that can edit the layer's kind of labels."""
        if self.layer is None:
            return list(self.all.values())
        kind = "objects" if self.layer.store.info.instances else "classes"
        return [tool for tool in self.all.values() if tool.labels in ("both", kind)]

    def toggle(self, name: str) -> None:
        """Choose a tool, or put it away if it is the chosen one."""
        self.choose(None if self.tool is not None and self.tool.name == name else name)

    def choose(self, name: str | None) -> None:
        """Choose a tool by its name; None: put it away.

        Raises
        ------
        MsunetError
            If there are no labels to work on, or they cannot be written.
        """
        if self.tool is not None:
            self._put_away()
        if name is not None:
            self._take(self.all[name])
        self.changed.emit()

    def _take(self, tool: Tool) -> None:
        layer = self.layer
        if layer is None or layer not in self.viewer.layers:
            raise MsunetError("There are no labels to correct in the viewer; press Correct with the brush first.")
        if not layer.can_be_stored():
            raise MsunetError("These labels can be looked at only; another program may be writing into them.")
        self.viewer.layers.selection.active = layer
        layer.visible = True
        layer.mode = "pan_zoom"
        layer.mouse_pan = tool.gesture == "click"
        layer.cursor = "crosshair"
        self.tool = tool
        self.sketch.start(
            layer, f"{tool.title}: {tool.how} Hold Space to move the view; Esc ends.", tool.gesture == "lasso"
        )
        self.viewer.mouse_drag_callbacks.append(self._drag)
        layer.events.mode.connect(self._left)
        self.viewer.layers.selection.events.active.connect(self._left)
        self.sketch.canvas.installEventFilter(self)
        self.sketch.canvas.setFocus()

    def _put_away(self) -> None:
        self._cancel()
        self.tool = None
        self.sketch.stop()
        self.sketch.canvas.removeEventFilter(self)
        if self._drag in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._drag)
        self.layer.events.mode.disconnect(self._left)
        self.viewer.layers.selection.events.active.disconnect(self._left)
        if self.layer.mode == "pan_zoom":
            self.layer.mouse_pan = True
            self.layer.cursor = "standard"

    def _left(self, event: object = None) -> None:
        """Put the tool away, because another mode or layer was chosen."""
        if self.layer.mode != "pan_zoom" or self.viewer.layers.selection.active is not self.layer:
            self.choose(None)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Handle Escape, and the space bar, which moves the view while it is held."""
        kind = event.type()
        if self.tool is None:
            return False
        if kind == QEvent.Type.Resize:
            self.sketch.setGeometry(self.sketch.canvas.rect())
        if kind == QEvent.Type.KeyPress and event.key() == Qt.Key.Key_Escape:
            if self._points or self._computing:
                self._cancel()
            else:
                self.choose(None)
            return True
        if kind in (QEvent.Type.KeyPress, QEvent.Type.KeyRelease) and event.key() == Qt.Key.Key_Space:
            if not event.isAutoRepeat():
                held = kind == QEvent.Type.KeyPress
                self.layer.mouse_pan = held or self.tool.gesture == "click"
            return True
        return False

    # --------------------------------------------------------------------------------------------------------- drawing

    def _place(self, event: NapariMouseEvent) -> tuple[float, float]:
        return to_level0(self.viewer, self.layer, event.position)

    def _drag(self, viewer: object, event: NapariMouseEvent) -> Iterator[None]:
        """Follow the mouse from its press to its release; a generator, as napari's mouse callbacks are."""
        tool = self.tool
        drawing = tool is not None and (tool.gesture == "click" or not self.layer.mouse_pan)
        if not drawing or event.button != 1 or len(event.dims_displayed) != 2:
            return
        self._cancel()
        start = np.asarray(event.pos, float)
        self._points = [self._place(event)]
        turn = self._turn
        if tool.gesture in ("line", "lasso"):
            self.sketch.add(self._points[0])
        else:
            self._compute()
        yield
        while event.type == "mouse_move":
            if turn == self._turn and self._points:
                self._moved(tool, event, np.asarray(event.pos, float) - start)
                turn = self._turn
            yield
        if turn == self._turn and self._points:
            self._let_go(tool)

    def _moved(self, tool: Tool, event: NapariMouseEvent, way: npt.NDArray[np.float64]) -> None:
        if tool.gesture == "click":
            if np.hypot(*way) > CLICK:
                self._cancel()
        elif tool.gesture == "drag":
            amount = tool.amount
            if abs(way[0]) > CLICK:
                begin = self._begun if self._begun is not None else self.amounts[amount.shared]
                self._begun = begin
                self.set_amount(amount.shared, begin + way[0] / SPAN * (amount.high - amount.low))
                self._compute()
        else:
            place = self._place(event)
            apart = np.hypot(*(np.subtract(place, self._points[-1]))) / max(self._pixel_on_screen(), 1e-9)
            if apart >= _FEW_POINTS:
                self._points.append(place)
                self.sketch.add(place)

    def set_amount(self, name: str, value: float) -> None:
        """Set the amount of a tool, kept within its limits."""
        amount = next(tool.amount for tool in self.all.values() if tool.amount and tool.amount.shared == name)
        self.amounts[name] = float(np.clip(value, amount.low, amount.high))
        self.changed.emit()

    def _let_go(self, tool: Tool) -> None:
        if tool.gesture in ("click", "drag"):
            self._released = True
            if not self._computing:
                self._store()
            return
        least = 2 if tool.gesture == "line" else 3
        if len(self._points) < least:
            self._cancel()
            show_info(f"{tool.title}: hold the mouse button down while you draw. {tool.how}")
            return
        self._released = True
        self._compute()

    def _cancel(self) -> None:
        """Drop what is being drawn or computed, and write nothing."""
        self._turn += 1
        self._points, self._change, self._waiting = [], None, None
        self._released = self._computing = False
        self._begun = None
        self.sketch.clear()

    # ------------------------------------------------------------------------------------------------------- computing

    def _pixel_on_screen(self) -> float:
        """How many level-0 pixels of the labels a pixel of the canvas covers."""
        return 1 / max(float(np.mean(np.abs(self.layer.scale[-2:]))) * self.viewer.scene.camera.zoom, 1e-12)

    def _drawn(self) -> ToolInput:
        store, tool = self.layer.store, self.tool
        finest = int(np.floor(np.log2(max(self._pixel_on_screen(), 1))))
        over = getattr(self.layer, "paint_over", None)
        if over is None and self.layer.preserve_labels:
            over = 0
        return ToolInput(
            store=store,
            points=np.array(self._points, float),
            label=int(self.layer.selected_label),
            amount=0.0 if tool.amount is None else self.amounts[tool.amount.shared],
            level=min(finest, len(store.info.shapes) - 1),
            slide=self.slide_of(self.layer) if tool.group == "Wands" else None,
            over=over,
        )

    def _compute(self) -> None:
        """Compute the change in a thread; while one is computed, only the newest request waits."""
        if self._computing:
            self._waiting = self._compute
            return
        self._computing = True
        self.layer.end_stroke(PATIENCE)
        turn, drawn, work = self._turn, self._drawn(), self.tool.work
        self._background.run(partial(work, drawn), partial(self._computed, turn), partial(self._failed, turn))

    def _computed(self, turn: int, change: Change | None) -> None:
        if turn != self._turn:
            return
        self._computing, self._change = False, change
        if self._waiting is not None:
            again, self._waiting = self._waiting, None
            again()
            return
        if change is not None:
            self.sketch.mark(change.window, change.mask)
        if self._released:
            self._store()

    def _failed(self, turn: int, error: Exception) -> None:
        if turn != self._turn:
            return
        self._cancel()
        if isinstance(error, MsunetError):
            show_warning(str(error))
        else:
            notify_error(f"This could not be done: {error}")

    def _store(self) -> None:
        """Write the change as one stroke of the store, in a thread."""
        change, layer, tool = self._change, self.layer, self.tool
        if change is None:
            self._cancel()
            show_info(f"{tool.title}: nothing changes here.")
            return
        turn, store = self._turn, layer.store
        self._computing = True
        self._background.run(
            lambda: store.write(*change), partial(self._stored, turn, layer, change), partial(self._failed, turn)
        )

    def _stored(self, turn: int, layer: PyramidLabels, change: Change, number: int) -> None:
        for other in self.viewer.layers:
            if getattr(other, "store", None) is layer.store and hasattr(other, "refresh_window"):
                other.refresh_window(change.window)
        window = change.window
        layer.events.stroke(region=Region(window.y, window.x, *window.shape), number=number)
        if turn == self._turn:
            self._cancel()

    @property
    def busy(self) -> bool:
        """Whether a change is being computed or written."""
        return self._background.busy

    def close(self) -> None:
        """Release the viewer; a stroke that is being written is still written."""
        if self.layer is not None and self.layer in self.viewer.layers:
            self.attach(None)
        self._background.close()
        self.viewer.scene.camera.events.disconnect(self.sketch._moved)
        self.sketch.deleteLater()
