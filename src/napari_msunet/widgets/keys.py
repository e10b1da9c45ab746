"""All keys of the dock in one table: what they do, where they are bound, and how they are shown.

A part of the dock registers its keys when it is imported (`register`), binds them when it has something to bind them to
(`bind`), and shows them in tooltips (`hint`). Keys are written as napari writes them: "K", "Shift+G", "Ctrl+Z".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QKeyEvent, QKeySequence
from qtpy.QtWidgets import QAbstractItemView, QApplication, QComboBox, QWidget

from napari_msunet.errors import MsunetError
from napari_msunet.widgets.dock.show_errors import show_errors

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer
Where = Literal["labels", "viewer"]


@dataclass(frozen=True)
class Key:
    """A line of the table.

    Parameters
    ----------
    name : str
        The name of the action, such as "tools.split".
    keys : tuple of str
        The keys that trigger the action; any of them does.
    text : str
        The action in a few words.
    group : str
        The heading under which it stands in the list of keys.
    where : str
        "labels" (while a labels layer of ours is selected) or "viewer" (always).
    napari : bool
        Whether it is a key of napari's own, which is only listed and never bound here.
    instead : str
        Why it may replace a key of napari's own; empty: it may not.
    """

    name: str
    keys: tuple[str, ...]
    text: str
    group: str
    where: Where = "labels"
    napari: bool = False
    instead: str = ""

    @property
    def shown(self) -> str:
        """The keys as a person reads them."""
        return " or ".join(self.keys)


_table: dict[str, Key] = {}

_OTHER_WAY = "napari's digits repeat what its letters do, and polygon and transform have other keys here"


def register(
    name: str,
    keys: str | Iterable[str],
    text: str,
    group: str,
    where: Where = "labels",
    *,
    napari: bool = False,
    instead: str = "",
) -> Key:
    """Put a line into the table (see `Key`); registering the same line again has no effect.

    Raises
    ------
    MsunetError
        If the name, or one of the keys, is taken by another action.
    """
    line = Key(name, (keys,) if isinstance(keys, str) else tuple(keys), text, group, where, napari, instead)
    if _table.get(name) == line:
        return line
    for other in _table.values():
        taken = sorted({k.lower() for k in line.keys} & {k.lower() for k in other.keys})
        if other.name == name or taken:
            what = f"the name {name}" if other.name == name else f"the key {taken[0]}"
            raise MsunetError(f"{line.text!r} cannot have {what}: {other.text!r} has it; choose another.")
    _table[name] = line
    return line


def table() -> tuple[Key, ...]:
    """All lines, in the order they were registered."""
    return tuple(_table.values())


def hint(text: str, name: str) -> str:
    """A tooltip that ends with the key."""
    return f"{text} Key: {_table[name].shown}."


def bind(target: Layer | ViewerModel, name: str, action: Callable[[], object]) -> None:
    """Bind a registered key to `action()`, whose errors are shown as notifications.

    Parameters
    ----------
    target : napari layer or viewer
        What the line's `where` names.
    name : str
        Name of a registered line.
    action : callable
        Called without arguments.
    """
    run = show_errors(action)

    def press(_: object) -> None:
        run()

    for key in _table[name].keys:
        target.bind_key(key, press, overwrite=True)


def release(target: Layer | ViewerModel, name: str) -> None:
    """Release a registered key; where napari has a meaning of its own for it, that is back."""
    for key in _table[name].keys:
        target.bind_key(key, None)


class KeyRelay(QObject):
    """Sends registered keys on to napari's window from lists and boxes of choices, which would search by them instead.

    Other widgets of the dock pass on what they have no use for, and fields of text keep what is typed into them.

    Parameters
    ----------
    widget : QWidget
        Such as the dock; its present lists and boxes are relayed.
    """

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        sequences = (QKeySequence(key)[0] for line in _table.values() for key in line.keys if key != "Space")
        self._keys = {(one.key(), one.keyboardModifiers()) for one in sequences}
        for kind in (QAbstractItemView, QComboBox):
            for child in widget.findChildren(kind):
                child.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Relay a key."""
        if event.type() != QEvent.Type.KeyPress or (Qt.Key(event.key()), event.modifiers()) not in self._keys:
            return False
        if isinstance(watched, QComboBox) and watched.isEditable():
            return False
        QApplication.sendEvent(watched.window(), QKeyEvent(event.type(), event.key(), event.modifiers()))
        return True


def choose_class_name(value: int) -> str:
    """The name of the line that chooses class `value` (0: background)."""
    return f"class.{value}"


def _register_painting() -> None:
    for name, keys, text in (
        ("paint.brush", "P", "Brush"),
        ("paint.eraser", "E", "Eraser"),
        ("paint.fill", "F", "Fill bucket"),
        ("paint.pick", "L", "Pick the class under the mouse"),
        ("paint.move", "Z", "Move the view"),
        ("paint.hold", "Space", "Move the view while held"),
        ("paint.smaller", "[", "Smaller brush"),
        ("paint.larger", "]", "Larger brush"),
        ("paint.preserve", "B", "Leave other classes alone, on or off"),
        ("paint.undo", "Ctrl+Z", "Undo"),
        ("paint.redo", "Ctrl+Shift+Z", "Redo"),
    ):
        register(name, keys, text, "Painting", napari=True)
    register("paint.polygon", "Shift+P", "Polygon", "Painting")
    register("paint.transform", "Shift+T", "Move or turn the whole layer", "Painting")
    for value in range(10):
        text = "Paint background" if value == 0 else f"Paint class {value}"
        register(choose_class_name(value), str(value), text, "Classes", instead=_OTHER_WAY if 1 <= value <= 7 else "")


_register_painting()
