"""Showing the active slide: the layers of the others are hidden, and the view goes to it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from napari.layers import Layer
from qtpy.QtCore import QObject, QTimer

from napari_msunet.geometry import Window
from napari_msunet.widgets.layers import store_path
from napari_msunet.widgets.navigation import go_to
from napari_msunet.widgets.slides.bring_back import look_again, note_view

if TYPE_CHECKING:
    from napari.utils.events import Event

    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import SlideRecord, State
_SHARE = 0.95
"""Share of the canvas that a slide fills when it is shown for the first time."""


class ActiveSlideView(QObject):
    """Shows the active slide and hides the others; layers that a person hid stay hidden.

    Two slides lie on top of each other in napari's world. So to show another slide, other layers are made visible, the
    view moves, and another layer is selected for strokes. Conversely, selecting a layer of another slide in napari's
    list makes that slide the active one.

    Parameters
    ----------
    state : State
    layers : Layers
    parent : QObject
    """

    def __init__(self, state: State, layers: Layers, parent: QObject) -> None:
        super().__init__(parent)
        self._state, self._layers, self._viewer = state, layers, layers.viewer
        self._active: SlideRecord | None = None
        self._hidden: WeakSet[Layer] = WeakSet()
        self._known: WeakSet[Layer] = WeakSet(self._viewer.layers)
        self._made_over: WeakKeyDictionary[Layer, SlideRecord] = WeakKeyDictionary()
        self._switching = False
        state.changed.connect(self._changed)
        self._viewer.layers.events.inserted.connect(self._inserted)
        self._viewer.layers.selection.events.active.connect(self._selected)

    def close(self) -> None:
        """Let go of the viewer."""
        self._state.changed.disconnect(self._changed)
        self._viewer.layers.events.inserted.disconnect(self._inserted)
        self._viewer.layers.selection.events.active.disconnect(self._selected)

    def owner(self, layer: Layer) -> SlideRecord | None:
        """The slide that a layer shows, or lies over."""
        found = self._layers.owner(layer)
        return found if found is not None else self._made_over.get(layer)

    # ---------------------------------------------------------------------------------------------------- what happens

    def _changed(self, what: str) -> None:
        if what == "slides" and not self._switching:
            active = self._state.active
            if active is not self._active and (active is None or self._layers.slide(active) is not None):
                self._switch(active)

    def _inserted(self, event: Event) -> None:
        layer, active = event.value, self._state.active
        about = layer.metadata.get("napari_msunet")
        if isinstance(about, dict) and "map" in about and self._layers.owner(layer) is None and active is not None:
            self._made_over[layer] = active
        if (owner := self.owner(layer)) is not None and owner is not active:
            self._hide(layer)
        QTimer.singleShot(0, lambda: self._settled(layer))

    def _settled(self, layer: Layer) -> None:
        """napari selects a new layer by itself; strokes must not go to a layer of a slide that is hidden."""
        self._known.add(layer)
        self._choose_seen(None)

    def _selected(self, event: object = None) -> None:
        """A person chose a layer of another slide."""
        layer = self._viewer.layers.selection.active
        if self._switching or self._layers.closed or layer not in self._known:
            return
        owner = self.owner(layer)
        if owner is not None and owner is not self._state.active:
            self._state.activate(owner)

    # -------------------------------------------------------------------------------------------------------- switching

    def _switch(self, active: SlideRecord | None) -> None:
        self._switching = True
        try:
            before, self._active = self._active, active
            if before is not None:
                note_view(self._layers, before)
            others = False
            for layer in list(self._viewer.layers):
                owner = self.owner(layer)
                if owner is active and layer in self._hidden:
                    self._hidden.discard(layer)
                    layer.visible = True
                elif owner is not None and owner is not active:
                    others = True
                    self._hide(layer)
            if active is not None:
                self._choose_seen(before)
                if others or before is not None:
                    self._look_at(active)
        finally:
            self._switching = False

    def _hide(self, layer: Layer) -> None:
        if layer.visible:
            layer.visible = False
            self._hidden.add(layer)

    def _choose_seen(self, before: SlideRecord | None) -> None:
        """Select a layer that is visible: labels of the active slide of the same kind as before, or the slide
        itself."""
        active, selection = self._active, self._viewer.layers.selection
        chosen = selection.active
        if active is None or self._layers.closed or chosen is None or self.owner(chosen) in (None, active):
            return
        kind = None
        if before is not None and (path := store_path(chosen)) is not None:
            kind = next((n for n in ("annotation", "labels", "tissue") if getattr(before, n) == path), None)
        wanted = self._layers.of_store(getattr(active, kind)) if kind else None
        if wanted is not None and not wanted.visible:  # a person hid it
            wanted = None
        was, self._switching = self._switching, True
        try:
            selection.active = wanted if wanted is not None else self._layers.slide(active)
        finally:
            self._switching = was
        if wanted is not None and str(chosen.mode) in ("paint", "erase", "fill") and wanted.can_be_painted():
            wanted.mode = str(chosen.mode)

    def _look_at(self, record: SlideRecord) -> None:
        """Move the view to where it was when the slide was left, or to all of a slide that was not shown yet."""
        if look_again(self._layers, record):
            return
        layer = self._layers.slide(record)
        if layer is not None:
            go_to(self._viewer, layer, Window(0, 0, *record.shape), share=_SHARE)
