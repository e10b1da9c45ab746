"""The Review step: the places that most deserve a look, one after the other."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_info
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QProgressBar,
    QPushButton,
    QSpinBox,
)

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import review, review_state
from napari_msunet.labels.review import Candidate, Survey
from napari_msunet.widgets import keys
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.layers import hide_maps, layer_of_labels
from napari_msunet.widgets.dock.python_lines import lines, literal
from napari_msunet.widgets.dock.steps.step import Step
from napari_msunet.widgets.dock.telling import tell_error, told
from napari_msunet.widgets.objects.hover import Hover
from napari_msunet.widgets.objects.words import object_text
from napari_msunet.widgets.places import Outline, go_to
from napari_msunet.widgets.pyramid_labels.napari_internals import main_window

if TYPE_CHECKING:
    from napari_msunet.widgets.dock.dock import MultiScaleUNet
    from napari_msunet.widgets.objects import ObjectsPanel

RANKINGS = {
    "disagreement": ("The scales disagree", "Where the networks of the scales say different things."),
    "entropy": ("The model is unsure", "Where the probabilities of the classes are close to one another."),
    "distance": ("Far from what was seen", "Spread over the tissue, far from what was reviewed or corrected."),
    "oddity": ("Odd objects", "Objects whose area or shape is unlike that of the others of their class."),
}
_SETTLE_MS = 500
_PANEL_HEIGHT = 300
_TELL_SECONDS = 0.05
_PLACE = (0.35, 0.75, 1.0)

for _name, _key, _text in (
    ("review.next", ".", "Next place"),
    ("review.previous", ",", "Previous place"),
    ("review.accept", "Y", "Accept the place as true"),
    ("review.skip", "/", "Skip the place"),
):
    keys.register(_name, _key, _text, "Review", "viewer")
KEYS = ("review.next", "review.previous", "review.accept", "review.skip")


class ReviewStep(Step):
    """Ranked places, accept or skip, progress; the object under the mouse and the table of all."""

    name = "review"
    title = "Review"
    purpose = "Look at the places where the model is most likely wrong, correct them, and accept what is right."

    surveying = Signal(int, int)

    def __init__(self, dock: MultiScaleUNet) -> None:
        super().__init__(dock)
        self.places: list[Candidate] = []
        self.decided: dict[Window, str] = {}
        self.index = -1
        self.found: Survey | None = None
        self.panel: ObjectsPanel | None = None
        self._layer: Any = None
        self._chosen = False
        self._queued = ""  # what made the queue: a ranking, or a caller's own
        self._panel_dock: Any = None
        self._told = 0.0
        self._background = Background("msunet-review", self)
        self._outline = Outline(self.viewer, _PLACE)
        self._hover = Hover(self.viewer, self)
        self._hover.found.connect(self._hovered)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)
        self._timer.timeout.connect(self._survey_progress)
        self._widgets()
        self._lay_out()
        self.surveying.connect(self._progress)
        self.state.changed.connect(self._changed)

    # --------------------------------------------------------------------------------------------------------- layout

    def _widgets(self) -> None:
        self.needed = self.note()
        self.by = QComboBox()
        self.by.setAccessibleName("What places are ranked by")
        for name, (text, tip) in RANKINGS.items():
            self.by.addItem(text, name)
            self.by.setItemData(self.by.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.by.activated.connect(self._ranking_chosen)
        self.size = QSpinBox()
        self.size.setRange(32, 4096)
        self.size.setSingleStep(32)
        self.size.setValue(review.SIZE)
        self.size.setSuffix(" px")
        self.size.setToolTip("Side of a place, in pixels of the labels.")
        self.find = QPushButton("Find places to review")
        self.find.setObjectName("primary")
        self.find.setToolTip("Ranks all tissue that was not reviewed yet.")
        self.find.clicked.connect(told(lambda *_: self.find_places()))
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(4)
        self.bar.hide()
        self.list = QListWidget()
        self.list.setAccessibleName("Places to review, most urgent first")
        self.list.setUniformItemSizes(True)
        self.list.setFixedHeight(116)
        self.list.currentRowChanged.connect(self._row_chosen)
        self.now = QLabel()
        self.now.setWordWrap(True)
        self.buttons: dict[str, QPushButton] = {}
        for name, text, tip, action in (
            ("review.previous", "‹ Previous", "Goes back to the place before.", self.previous),
            ("review.next", "Next ›", "Goes on, and leaves this place for later.", self.next),
            (
                "review.accept",
                "Accept as true",
                "All that is shown in the frame is right, background too.",
                self.accept,
            ),
            ("review.skip", "Skip", "Do not offer this place again.", self.skip),
        ):
            button = QPushButton(text)
            button.setToolTip(keys.hint(tip, name))
            button.clicked.connect(told(lambda *_, act=action: act()))
            self.buttons[name] = button
        self.done_bar = QProgressBar()
        self.done_bar.setRange(0, 1000)
        self.done_bar.setTextVisible(False)
        self.done_bar.setMaximumHeight(8)
        self.progress = self.note()
        self.again = QPushButton("Offer skipped places again")
        self.again.clicked.connect(told(lambda *_: self.forget_skipped()))
        self.object = self.note()
        self.object.setMinimumHeight(34)
        self.object.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.objects = QPushButton("Table of objects…")
        self.objects.setToolTip(
            "All objects with their areas, linked with the view; sort, filter, delete, change class."
        )
        self.objects.clicked.connect(told(lambda *_: self.show_objects()))
        self.csv = QPushButton("Save places…")
        self.csv.setToolTip("Writes the queue as CSV.")
        self.csv.clicked.connect(told(lambda *_: self._save_clicked()))

    def _lay_out(self) -> None:
        choice = QHBoxLayout()
        choice.addWidget(self.by, 1)
        choice.addWidget(self.size)
        moves = QGridLayout()
        moves.setSpacing(4)
        for number, name in enumerate(("review.previous", "review.next", "review.accept", "review.skip")):
            moves.addWidget(self.buttons[name], number // 2, number % 2)
        last = QHBoxLayout()
        last.addWidget(self.objects)
        last.addWidget(self.csv)
        self.body.addWidget(self.needed)
        self.body.addLayout(choice)
        self.body.addWidget(self.find)
        self.body.addWidget(self.bar)
        self.body.addWidget(self.list)
        self.body.addWidget(self.now)
        self.body.addLayout(moves)
        said = {line.name: f"“{line.shown}”" for line in keys.table()}
        words = zip(KEYS, ("next", "previous", "accept", "skip"), strict=True)
        self.body.addWidget(self.note("Keys: " + ", ".join(f"{said[name]} {word}" for name, word in words) + "."))
        self.body.addWidget(self.done_bar)
        self.body.addWidget(self.progress)
        self.body.addWidget(self.again)
        self.body.addWidget(self.object)
        self.body.addLayout(last)

    # -------------------------------------------------------------------------------------------------------- showing

    def refresh(self) -> None:
        missing = self.missing()
        self.needed.setText(missing or "")
        self.needed.setVisible(missing is not None)
        self._watch(None if missing else self.dock.layers.of_store(self.state.active.labels))
        for widget in (self.find, self.by, self.size, self.objects):
            widget.setEnabled(missing is None)
        self._enable()

    def summary(self) -> str:
        found = self.found
        return f"{found.reviewed} of {found.total} windows" if found is not None and found.reviewed else ""

    def _enable(self) -> None:
        place = self.current
        self.list.setVisible(bool(self.places))
        self.now.setVisible(bool(self.now.text()))
        self.buttons["review.previous"].setEnabled(self.index > 0)
        self.buttons["review.next"].setEnabled(self.index + 1 < len(self.places))
        free = place is not None and place.window not in self.decided
        self.buttons["review.accept"].setEnabled(free and self._layer is not None and self._layer.can_be_painted())
        self.buttons["review.skip"].setEnabled(free)
        self.csv.setEnabled(bool(self.places))
        self.progress.setVisible(self.found is not None)
        self.done_bar.setVisible(self.found is not None)
        self.again.setVisible(self.found is not None and self.found.skipped > 0)

    def showEvent(self, event: Any) -> None:
        super().showEvent(event)
        self._go_live(True)

    def hideEvent(self, event: Any) -> None:
        super().hideEvent(event)
        self._go_live(False)

    def _go_live(self, on: bool) -> None:
        """Follow the mouse and the keys, and show the place, while the step is open."""
        if self.dock.closed:
            return
        self._hover.set_on(on and self._layer is not None, self._layer)
        actions = dict(zip(KEYS, (self.next, self.previous, self.accept, self.skip), strict=True))
        for name, action in actions.items():
            if on:
                keys.bind(self.viewer, name, action)
            else:
                keys.release(self.viewer, name)
        if on and self.current is not None and self._layer is not None:
            self._outline.show_window(self._layer, self.current.window)
        elif not on:
            self._outline.hide()

    def _watch(self, layer: Any) -> None:
        """Work on other labels."""
        if layer is self._layer:
            return
        if self._layer is not None:
            self._layer.events.stroke.disconnect(self._stroked)
        self._layer, self.found, self._chosen = layer, None, False
        self._show_queue([], "")
        self.object.setText("")
        self._hover.set_on(layer is not None and self.isVisible(), layer)
        if self.panel is not None:
            self.panel.set_layer(layer)
        if layer is not None:
            layer.events.stroke.connect(self._stroked)
            self._offer_rankings()
            self._timer.start()

    def _offer_rankings(self) -> None:
        """Only what the store's runs kept can be ranked by."""
        if self._layer is not None:
            self._background.run(partial(review.available, self._layer.store), self._rankings)

    def _rankings(self, names: tuple[str, ...]) -> None:
        model = self.by.model()
        for row, name in enumerate(RANKINGS):
            item = model.item(row)
            item.setEnabled(name in names)
            how = "" if name in names else f' To rank so, predict with the output "{name}".'
            item.setToolTip(RANKINGS[name][1] + how)
        if not self._chosen:
            self.by.setCurrentIndex(list(RANKINGS).index(names[0]))

    def _ranking_chosen(self) -> None:
        self._chosen = True
        self.by.setToolTip(RANKINGS[self.by.currentData()][1])

    def _changed(self, what: str) -> None:
        """A prediction was made since: accepted regions stay, the ranks are others."""
        if what != "results" or self._layer is None:
            return
        self._offer_rankings()
        if self._queued in RANKINGS:
            self.find_places(self._queued)
        if self.panel is not None:
            self.panel.measuring.outdated("Predicted again since: measure again.")

    def _stroked(self, event: Any) -> None:
        self._timer.start()

    # ---------------------------------------------------------------------------------------------------------- queue

    @property
    def current(self) -> Candidate | None:
        """The place that is looked at."""
        return self.places[self.index] if 0 <= self.index < len(self.places) else None

    def _labels(self) -> Any:
        """The layer of the labels, opened if need be."""
        if (missing := self.missing()) is not None:
            raise MsunetError(missing)
        layer = layer_of_labels(self.dock, self.state.active)
        self._watch(layer)
        return layer

    def find_places(self, by: str | None = None) -> None:
        """Rank the places that were not reviewed; returns at once, the queue shows when it is ready."""
        layer = self._labels()
        by = by or self.by.currentData()
        objects = None
        if by == "oddity" and self.panel is not None and self.panel.measuring.measured:
            objects = self.panel.measuring.table
        work = partial(
            review.survey, layer.store, by, self.size.value(), tissue=self._tissue(), objects=objects, tell=self._tell
        )
        self.bar.setRange(0, 0)
        self.bar.show()
        self.find.setEnabled(False)
        self._background.run(work, partial(self._found, by), self._failed)

    def _tissue(self) -> Any:
        """The slide's tissue mask, where the dock has one."""
        return getattr(self.state.active, "tissue_mask", None)

    def _tell(self, done: int, total: int) -> None:
        """In the thread."""
        if time.monotonic() - self._told > _TELL_SECONDS:
            self._told = time.monotonic()
            self.surveying.emit(done, total)

    def _progress(self, done: int, total: int) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)

    def _failed(self, error: BaseException) -> None:
        self.bar.hide()
        self.find.setEnabled(True)
        tell_error(str(error))

    def _found(self, by: str, found: Survey) -> None:
        self.bar.hide()
        self.find.setEnabled(True)
        self._show_progress(found)
        self._show_queue(found.candidates, by)
        if found.candidates:
            self.go(0)
        else:
            rest = " Some were skipped." if found.skipped else ""
            self.now.setText(f"Nothing is left to review by this ranking.{rest}")
        self._enable()

    def show_candidates(self, places: list[Candidate], source: str) -> None:
        """Show places that something else found, such as likely errors of the truth, in this step.

        Parameters
        ----------
        places : list of Candidate
            Of the active slide's labels.
        source : str
            What found them.
        """
        self._labels()
        self._show_queue(places, source)
        if places:
            self.go(0)

    def _show_queue(self, places: list[Candidate], source: str) -> None:
        self.places, self._queued, self.decided, self.index = list(places), source, {}, -1
        self.list.blockSignals(True)
        self.list.clear()
        self.list.addItems([f"{n}   {place.reason}" for n, place in enumerate(places, 1)])
        self.list.blockSignals(False)
        self.now.setText("")
        self._outline.hide()
        self._enable()

    def _row_chosen(self, row: int) -> None:
        if row >= 0:
            self.go(row)

    def go(self, index: int) -> None:
        """Look at a place of the queue."""
        if not 0 <= index < len(self.places):
            raise MsunetError(f"The queue has {len(self.places)} places; there is no place {index + 1}.")
        layer = self._labels()
        self.index = index
        place = self.places[index]
        self.list.blockSignals(True)
        self.list.setCurrentRow(index)
        self.list.blockSignals(False)
        layer.visible = True
        hide_maps(self.viewer)
        go_to(self.viewer, layer, place.window)
        if self.isVisible():
            self._outline.show_window(layer, place.window)
        self._say()

    def _say(self) -> None:
        place = self.current
        if place is not None:
            state = self.decided.get(place.window)
            self.now.setText(f"Place {self.index + 1} of {len(self.places)}: {state or place.reason}.")
        self._enable()

    def next(self) -> None:
        """Go on to the next place."""
        if self.index + 1 < len(self.places):
            self.go(self.index + 1)

    def previous(self) -> None:
        """Go back to the place before."""
        if self.index > 0:
            self.go(self.index - 1)

    # ------------------------------------------------------------------------------------------------ accept and skip

    def accept(self) -> None:
        """Mark all of the place as true, as one step of undo, and go on; returns at once."""
        place, layer = self.current, self._layer
        if place is None or layer is None:
            raise MsunetError("No place is shown: find places to review first.")
        if place.window in self.decided:
            return
        layer.end_stroke()
        self._background.run(
            partial(review_state.accept, layer.store, place.window), partial(self._accepted, layer, place.window)
        )
        self._decide(place, "accepted")

    def _accepted(self, layer: Any, window: Window, number: int) -> None:
        self.state.reviewed = True
        layer.events.stroke(region=Region(window.y, window.x, *window.shape), number=number)

    def skip(self) -> None:
        """Do not offer the place again, and go on; returns at once."""
        place, layer = self.current, self._layer
        if place is None or layer is None:
            raise MsunetError("No place is shown: find places to review first.")
        if place.window in self.decided:
            return
        self._background.run(partial(review_state.skip, layer.store, place.window), lambda _: self._timer.start())
        self._decide(place, "skipped")

    def _decide(self, place: Candidate, what: str) -> None:
        self.decided[place.window] = what
        item = self.list.item(self.index)
        item.setText(f"{'✓' if what == 'accepted' else '–'}   {place.reason}")
        rest = [n for n in range(self.index + 1, len(self.places)) if self.places[n].window not in self.decided]
        if rest:
            self.go(rest[0])
        else:
            self._say()

    def forget_skipped(self) -> None:
        """Offer all skipped places again."""
        layer = self._labels()

        def again(_: Any) -> None:
            self.find_places(self._queued if self._queued in RANKINGS else None)

        self._background.run(partial(review_state.forget_skipped, layer.store), again)

    def _survey_progress(self) -> None:
        """Count again what is reviewed, in the background."""
        if self._layer is None:
            return
        if self._background.busy:
            self._timer.start()
            return
        work = partial(review.survey, self._layer.store, None, self.size.value(), tissue=self._tissue())
        self._background.run(work, self._show_progress, lambda error: None)

    def _show_progress(self, found: Survey) -> None:
        self.found = found
        self.state.reviewed = self.state.reviewed or found.reviewed > 0
        self.done_bar.setValue(round(1000 * found.share))
        skipped = f" {found.skipped} skipped." if found.skipped else ""
        self.progress.setText(
            f"Reviewed {found.reviewed:,} of {found.total:,} windows, {_percent(found.share)} of the tissue.{skipped}"
        )
        self._enable()

    # -------------------------------------------------------------------------------------------------------- objects

    def _hovered(self, found: Any) -> None:
        if found is None or self._layer is None:
            self.object.setText("Point at an object to measure it.")
        else:
            self.object.setText(f"Under the mouse: {object_text(self._layer.store, found)}")

    def show_objects(self) -> ObjectsPanel:
        """Show the table of all objects below the canvas, and measure them; gives the table's widget."""
        from napari_msunet.widgets.objects import ObjectsPanel

        layer = self._labels()
        if self.panel is None:
            self.panel = ObjectsPanel(self.viewer)
            self._panel_dock = self.viewer.window.add_dock_widget(self.panel, name="Objects", area="bottom")
            self._panel_dock.destroyed.connect(self._panel_gone)
            main_window(self.viewer).resizeDocks([self._panel_dock], [_PANEL_HEIGHT], Qt.Orientation.Vertical)
        self.panel.set_layer(layer)
        self._panel_dock.show()
        if not self.panel.measuring.measured:
            self.panel.start()
        return self.panel

    def _panel_gone(self) -> None:
        panel, self.panel, self._panel_dock = self.panel, None, None
        if panel is not None:
            panel.closing()

    # ------------------------------------------------------------------------------------------------------------ CSV

    def _save_clicked(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the places", "review.csv", "CSV (*.csv)")
        if path:
            self.save(Path(path))

    def save(self, path: str | Path) -> None:
        """Write the queue as CSV."""
        if not self.places:
            raise MsunetError("There are no places to save: find places to review first.")
        written = review.write_queue(self.places, path, self._labels().store)
        show_info(f"Wrote {len(self.places)} places to {written}.")

    def as_python(self) -> str:
        """The queue, and one place accepted."""
        record = self.state.active
        if record is None or record.labels is None:
            raise MsunetError(self.missing() or "Predict first.")
        by, size = self.by.currentData(), self.size.value()
        return lines(
            "from napari_msunet.labels import review, review_state",
            "",
            f"labels = ms.open_labels({literal(record.labels)})",
            f'places = ms.review_queue(labels, by="{by}", size={size})',
            'review.write_queue(places, "review.csv", labels)',
            "# All that the first place shows is true, background too. Undo takes it back.",
            "review_state.accept(labels, places[0].window)",
            "labels.undo()",
        )

    def closing(self) -> None:
        self._timer.stop()
        self.state.changed.disconnect(self._changed)
        if self._layer is not None:
            self._layer.events.stroke.disconnect(self._stroked)
            self._layer = None
        self._hover.close()
        self._outline.close()
        if self.panel is not None:
            self.panel.closing()
            self.panel = None
        self._background.close()


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"
