"""The list of places to review, with buttons and keys that go through it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QListWidget, QPushButton, QVBoxLayout, QWidget

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Window
from napari_msunet.review.queue import Candidate
from napari_msunet.widgets import keys
from napari_msunet.widgets.dock.show_errors import show_errors

for _name, _key, _text in (
    ("review.next", ".", "Next place"),
    ("review.previous", ",", "Previous place"),
    ("review.accept", "Y", "Accept the place as true"),
    ("review.skip", "/", "Skip the place"),
):
    keys.register(_name, _key, _text, "Review", "viewer")
KEYS = ("review.previous", "review.next", "review.accept", "review.skip")
_MARKS = {"accepted": "✓", "skipped": "–"}


class PlaceList(QWidget):
    """A queue of `Candidate`, from a ranking or from elsewhere.

    Attributes
    ----------
    places : list of Candidate
    index : int
        The row of the place that is shown; -1: none.
    decided : dict
        "accepted" or "skipped", by window.
    source : str
        The origin of the queue.
    shown : Signal(Candidate)
        The camera should move to this place.
    accept_wanted, skip_wanted : Signal()
    left : Signal(int)
        The number of undecided places.
    """

    shown = Signal(object)
    accept_wanted = Signal()
    skip_wanted = Signal()
    left = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.places: list[Candidate] = []
        self.index = -1
        self.decided: dict[Window, str] = {}
        self.source = ""
        self.may_accept = False
        self.list = QListWidget()
        self.list.setAccessibleName("Places to review, most urgent first")
        self.list.setUniformItemSizes(True)
        self.list.setFixedHeight(116)
        self.list.itemActivated.connect(lambda item: self.go(self.list.row(item)))  # by a double click or Enter
        self.list.setToolTip("The places, most urgent first. A double click shows one; Next and Previous go through.")
        self.now = QLabel()
        self.now.setWordWrap(True)
        self.keys = QLabel()
        self.keys.setObjectName("note")
        self.buttons: dict[str, QPushButton] = {}
        self._lay_out()
        self.enable()

    def _lay_out(self) -> None:
        moves = QGridLayout()
        moves.setSpacing(4)
        texts = {
            "review.previous": ("‹ Previous", "Goes back to the place before."),
            "review.next": ("Next ›", "Goes on, and leaves this place for later."),
            "review.accept": (
                "Accept as true",
                "All that is predicted in the frame is right, background too. What was not predicted is left out.",
            ),
            "review.skip": ("Skip", "Do not offer this place again."),
        }
        for number, (name, (text, tip)) in enumerate(texts.items()):
            button = QPushButton(text)
            button.setToolTip(keys.hint(tip, name))
            button.clicked.connect(show_errors(lambda *_, act=self.actions[name]: act()))
            self.buttons[name] = button
            moves.addWidget(button, number // 2, number % 2)
        said = {line.name: f"“{line.shown}”" for line in keys.table()}
        words = zip(KEYS, ("previous", "next", "accept", "skip"), strict=True)
        self.keys.setText("Keys: " + ", ".join(f"{said[name]} {word}" for name, word in words) + ".")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self.list)
        column.addWidget(self.now)
        column.addLayout(moves)
        column.addWidget(self.keys)

    @property
    def actions(self) -> dict[str, Callable[[], None]]:
        """The action of each key."""
        wanted = (self.previous, self.next, self.accept_wanted.emit, self.skip_wanted.emit)
        return dict(zip(KEYS, wanted, strict=True))

    @property
    def current(self) -> Candidate | None:
        """The place that is shown."""
        return self.places[self.index] if 0 <= self.index < len(self.places) else None

    @property
    def open_place(self) -> Candidate | None:
        """The place that is shown, if it is undecided, else None; `MsunetError` if no place is shown."""
        place = self.current
        if place is None:
            raise MsunetError("No place is shown: find places to review first.")
        return None if place.window in self.decided else place

    def show_places(self, places: Sequence[Candidate], source: str) -> None:
        """Show another queue; the view stays until `go`."""
        self.places, self.source, self.decided, self.index = list(places), source, {}, -1
        self.list.blockSignals(True)
        self.list.clear()
        self.list.addItems([f"{n}   {place.reason}" for n, place in enumerate(places, 1)])
        self.list.blockSignals(False)
        several = "1 place" if len(places) == 1 else f"{len(places):,} places"
        self.now.setText(f"{several} to review: Next shows the first." if places else "")
        self._count()
        self.enable()

    def _count(self) -> None:
        self.left.emit(sum(place.window not in self.decided for place in self.places))

    def say(self, text: str) -> None:
        """Show a sentence in place of the one about the current place."""
        self.now.setText(text)
        self.enable()

    def enable(self) -> None:
        """Enable what is possible now."""
        place = self.current
        self.list.setVisible(bool(self.places))
        self.now.setVisible(bool(self.now.text()))
        self.buttons["review.previous"].setEnabled(self.index > 0)
        self.buttons["review.next"].setEnabled(self.index + 1 < len(self.places))
        free = place is not None and place.window not in self.decided
        self.buttons["review.accept"].setEnabled(free and self.may_accept)
        self.buttons["review.skip"].setEnabled(free and self.may_accept)

    def go(self, index: int) -> None:
        """Show a place of the queue."""
        if not 0 <= index < len(self.places):
            raise MsunetError(f"The queue has {len(self.places)} places; there is no place {index + 1}.")
        self.index = index
        self.list.blockSignals(True)
        self.list.setCurrentRow(index)
        self.list.blockSignals(False)
        place = self.places[index]
        state = self.decided.get(place.window)
        self.say(f"Place {index + 1} of {len(self.places)}: {state or place.reason}.")
        self.shown.emit(place)

    def next(self) -> None:
        """Go to the next place."""
        if self.index + 1 < len(self.places):
            self.go(self.index + 1)

    def previous(self) -> None:
        """Go to the previous place."""
        if self.index > 0:
            self.go(self.index - 1)

    def decide(self, what: str) -> None:
        """Mark the place that is shown as "accepted" or "skipped", and go to the next undecided one."""
        self.decided[self.places[self.index].window] = what
        self._count()
        self.list.item(self.index).setText(f"{_MARKS[what]}   {self.places[self.index].reason}")
        following = range(self.index + 1, len(self.places))
        rest = next((n for n in following if self.places[n].window not in self.decided), self.index)
        self.go(rest)

    def show_accepted(self, accepted: Collection[Window]) -> None:
        """Mark exactly the places that are accepted now; an undo or redo changes them."""
        for row, place in enumerate(self.places):
            was = self.decided.get(place.window)
            if was == "accepted" and place.window not in accepted:
                self.reopen(place.window)
            elif was is None and place.window in accepted:
                self.decided[place.window] = "accepted"
                self.list.item(row).setText(f"{_MARKS['accepted']}   {place.reason}")
                self._count()
                self.enable()

    def reopen(self, window: Window) -> None:
        """Mark a place as undecided again, because its decision could not be stored."""
        if self.decided.pop(window, None) is not None:
            row = next(n for n, place in enumerate(self.places) if place.window == window)
            self.list.item(row).setText(f"{row + 1}   {self.places[row].reason}")
            self._count()
            self.enable()
