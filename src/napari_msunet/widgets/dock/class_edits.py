"""Adding, renaming, removing and colouring classes, in the dock and in all annotations at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import MsunetError
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.metadata import check_new_classes
from napari_msunet.widgets.dock.counts import erase
from napari_msunet.widgets.layers import Layers
from napari_msunet.widgets.state import SlideRecord, State

if TYPE_CHECKING:
    from napari_msunet.widgets.pyramid_labels import PyramidLabels


class ClassEdits:
    """Changes the classes of the state, of the annotations' stores, and of the layers that show them.

    Parameters
    ----------
    state : State
    layers : Layers
    """

    def __init__(self, state: State, layers: Layers) -> None:
        self.state, self.layers = state, layers

    def add(self, name: str | None = None) -> str:
        """Add a class; None: with a name to be changed. Gives its name."""
        number = len(self.state.classes) + 1
        while name is None or name in self.state.classes:
            if name is not None:
                raise MsunetError(f"There is a class {name} already; give another name.")
            name = f"class {number}" if f"class {number}" not in self.state.classes else None
            number += 1
        check_new_classes([name])
        self.state.set_classes((*self.state.classes, name))
        for layer in self._open():
            layer.store.add_classes([name])
            layer.refresh_classes()
        return name

    def rename(self, old: str, new: str) -> None:
        """Give a class another name, in all annotations; `MsunetError` if there is one of that name."""
        if old not in self.state.classes:
            raise MsunetError(f"There is no class {old}; there are {', '.join(self.state.classes)}.")
        if new in self.state.classes:
            raise MsunetError(f"The name {new} is taken; give another one.")
        check_new_classes([new])
        for store in self._stores():
            if old in store.classes:
                taken = {new: f"{new} (removed)"}  # by a class that was removed and has no pixels
                store.rename_classes([new if n == old else taken.get(n, n) for n in store.classes])
        self.state.set_classes(tuple(new if name == old else name for name in self.state.classes))
        self._refresh_layers()

    def remove(self, name: str) -> None:
        """Take a class out and erase what was painted of it; an undo of the annotation layer brings pixels back."""
        if name not in self.state.classes:
            raise MsunetError(f"There is no class {name}; there are {', '.join(self.state.classes)}.")
        if len(self.state.classes) == 1:
            raise MsunetError("One class must stay; rename it instead.")
        for record in [r for r in self.state.slides if r.annotation is not None and r.annotation.exists()]:
            self._erase(record, name)
        values = {n: [r.counts.get(v, 0) for r in self.state.slides] for v, n in enumerate(self.state.classes, 1)}
        remaining = tuple(n for n in self.state.classes if n != name)
        for number, record in enumerate(self.state.slides):
            kept = {v: values[n][number] for v, n in enumerate(remaining, 1) if values[n][number]}
            background = record.counts.get(ANNOTATED_BACKGROUND)
            record.counts = kept | ({ANNOTATED_BACKGROUND: background} if background else {})
        self.state.set_classes(remaining)
        self._refresh_layers()

    def _erase(self, record: SlideRecord, name: str) -> None:
        store = open_labels(record.annotation)
        if name not in store.classes:
            return
        counts = record.annotation_counter()
        if counts is None:
            return
        if counts.outdated:
            counts.scan()
        layer = self.layers.annotation(record)
        for region in erase(store, counts, store.classes.index(name) + 1):
            counts.update(region)
            if layer is not None:
                layer.refresh_window(region)

    def set_colour(self, name: str, colour: tuple[int, int, int]) -> None:
        """Show a class in another colour (red, green, blue; 0 to 255)."""
        for store in self._stores():
            if name in store.classes:
                place = store.classes.index(name)
                tints = [colour if n == place else tint for n, tint in enumerate(store.colours)]
                store.rename_classes(colours=tints)
        self._refresh_layers()
        self.state.emit("classes")

    def _open(self) -> list[PyramidLabels]:
        found = (self.layers.annotation(record) for record in self.state.slides)
        return [layer for layer in found if layer is not None]

    def _stores(self) -> Iterable[LabelStore]:
        return [open_labels(r.annotation) for r in self.state.slides if r.annotation and r.annotation.exists()]

    def _refresh_layers(self) -> None:
        for layer in self._open():
            layer.refresh_classes()
