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
    QHBoxLayout,
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
from napari_msunet.widgets.dock.place_list import PlaceList
from napari_msunet.widgets.dock.python_lines import lines, literal
from napari_msunet.widgets.dock.steps.step import Step
from napari_msunet.widgets.dock.telling import tell_error, told
from napari_msunet.widgets.objects.hover import Hover
from napari_msunet.widgets.objects.words import object_text
from napari_msunet.widgets.places import Outline, go_to
from napari_msunet.widgets.pyramid_labels.napari_internals import main_window
from napari_msunet.widgets.truth import TruthPanel

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
_TELL_SECONDS = 0.05
TRUTH_HEIGHT = 172
_PLACE = (0.35, 0.75, 1.0)


class ReviewStep(Step):
    """Ranked places, accept or skip, progress; the object under the mouse and the table of all."""

    name = "review"
    title = "Review"
    purpose = "Look at the places where the model is most likely wrong, correct them, and accept what is right."

    surveying = Signal(int, int)

    def __init__(self, dock: MultiScaleUNet) -> None:
        super().__init__(dock)
        self.queue = PlaceList()
        self.found: Survey | None = None
        self.panel: ObjectsPanel | None = None
        self.truth: TruthPanel | None = None
        self._truth_dock: Any = None
        self._layer: Any = None
        self._chosen = False
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
        self.queue.shown.connect(told(self._go))
        self.queue.accept_wanted.connect(told(self.accept))
        self.queue.skip_wanted.connect(told(self.skip))
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
        self.check_truth = QPushButton("Check the truth…")
        self.check_truth.setToolTip(
            "Where the model contradicts your annotation: the likely annotation errors, and which classes are confused."
        )
        self.check_truth.clicked.connect(told(lambda *_: self.show_truth()))
        self.csv = QPushButton("Save places…")
        self.csv.setToolTip("Writes the queue as CSV.")
        self.csv.clicked.connect(told(lambda *_: self._save_clicked()))

    def _lay_out(self) -> None:
        choice = QHBoxLayout()
        choice.addWidget(self.by, 1)
        choice.addWidget(self.size)
        last = QHBoxLayout()
        last.addWidget(self.objects)
        last.addWidget(self.csv)
        self.body.addWidget(self.needed)
        self.body.addLayout(choice)
        self.body.addWidget(self.find)
        self.body.addWidget(self.bar)
        self.body.addWidget(self.queue)
        self.body.addWidget(self.done_bar)
        self.body.addWidget(self.progress)
        self.body.addWidget(self.again)
        self.body.addWidget(self.object)
        self.body.addLayout(last)
        self.body.addWidget(self.check_truth)

    # -------------------------------------------------------------------------------------------------------- showing

    def refresh(self) -> None:
        missing = self.missing()
        self.needed.setText(missing or "")
        self.needed.setVisible(missing is not None)
        self._watch(None if missing else self.dock.layers.of_store(self.state.active.labels))
        for widget in (self.find, self.by, self.size, self.objects):
            widget.setEnabled(missing is None)
        self.check_truth.setEnabled(self.state.active is not None)
        self._enable()

    def summary(self) -> str:
        found = self.found
        return f"{found.reviewed} of {found.total} windows" if found is not None and found.reviewed else ""

    def _enable(self) -> None:
        self.queue.may_accept = self._layer is not None and self._layer.can_be_painted()
        self.queue.enable()
        self.csv.setEnabled(bool(self.queue.places))
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
        for name, action in self.queue.actions.items():
            if on:
                keys.bind(self.viewer, name, action)
            else:
                keys.release(self.viewer, name)
        if on and self.queue.current is not None and self._layer is not None:
            self._outline.show_window(self._layer, self.queue.current.window)
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
        if self.queue.source in RANKINGS:
            self.find_places(self.queue.source)
        if self.panel is not None:
            self.panel.measuring.outdated("Predicted again since: measure again.")

    def _stroked(self, event: Any) -> None:
        self._timer.start()

    # ---------------------------------------------------------------------------------------------------------- queue

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
            self.queue.go(0)
        else:
            rest = " Some were skipped." if found.skipped else ""
            self.queue.say(f"Nothing is left to review by this ranking.{rest}")

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
            self.queue.go(0)

    def _show_queue(self, places: list[Candidate], source: str) -> None:
        self.queue.show_places(places, source)
        self._outline.hide()
        self._enable()

    def _go(self, place: Candidate) -> None:
        """The camera goes to a place of the queue."""
        layer = self._labels()
        layer.visible = True
        hide_maps(self.viewer)
        go_to(self.viewer, layer, place.window)
        if self.isVisible():
            self._outline.show_window(layer, place.window)

    # ------------------------------------------------------------------------------------------------ accept and skip

    def accept(self) -> None:
        """Mark all of the place as true, as one step of undo, and go on; returns at once."""
        place, layer = self.queue.open_place, self._layer
        if place is None or layer is None:
            return
        layer.end_stroke()
        self._background.run(
            partial(review_state.accept, layer.store, place.window),
            partial(self._accepted, layer, place.window),
            partial(self._refused, place.window),
        )
        self.queue.decide("accepted")

    def _refused(self, window: Window, error: BaseException) -> None:
        """The disk, or another writer, did not let it be kept."""
        self.queue.reopen(window)
        tell_error(str(error))

    def _accepted(self, layer: Any, window: Window, number: int) -> None:
        self.state.reviewed = True
        layer.events.stroke(region=Region(window.y, window.x, *window.shape), number=number)

    def skip(self) -> None:
        """Do not offer the place again, and go on; returns at once."""
        place, layer = self.queue.open_place, self._layer
        if place is None or layer is None:
            return
        self._background.run(
            partial(review_state.skip, layer.store, place.window),
            lambda _: self._timer.start(),
            partial(self._refused, place.window),
        )
        self.queue.decide("skipped")

    def forget_skipped(self) -> None:
        """Offer all skipped places again."""
        layer = self._labels()

        def again(_: Any) -> None:
            self.find_places(self.queue.source if self.queue.source in RANKINGS else None)

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
        text = "" if found is None or self._layer is None else object_text(self._layer.store, found)
        self.object.setText(f"Under the mouse: {text}" if text else "Point at an object to measure it.")
        if self.panel is not None:
            self.panel.under_mouse.setText(text)

    def show_objects(self) -> ObjectsPanel:
        """Show the table of all objects below the canvas, and measure them; gives the table's widget."""
        from napari_msunet.widgets.objects import ObjectsPanel

        layer = self._labels()
        window = main_window(self.viewer)
        if self.panel is None:
            self.panel = ObjectsPanel(self.viewer)
        if self.panel.window() is not window:  # not yet docked, or its dock was closed
            self._panel_dock = self.viewer.window.add_dock_widget(self.panel, name="Objects", area="bottom")
            self.panel.show()
        self.panel.set_layer(layer)
        self._panel_dock.show()
        if not self.panel.measuring.measured:
            self.panel.start()
        return self.panel

    def show_truth(self) -> TruthPanel:
        """Show below the canvas where the model contradicts the truth; gives that panel."""
        window = main_window(self.viewer)
        if self.truth is None:
            self.truth = TruthPanel(self.dock)
        if self.truth.window() is not window:  # not yet docked, or its dock was closed
            self._truth_dock = self.viewer.window.add_dock_widget(self.truth, name="Truth", area="bottom")
            self.truth.show()
        self._truth_dock.show()
        self._truth_dock.raise_()
        window.resizeDocks([self._truth_dock], [TRUTH_HEIGHT], Qt.Orientation.Vertical)
        return self.truth

    # ------------------------------------------------------------------------------------------------------------ CSV

    def _save_clicked(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the places", "review.csv", "CSV (*.csv)")
        if path:
            self.save(Path(path))

    def save(self, path: str | Path) -> None:
        """Write the queue as CSV."""
        places = self.queue.places
        if not places:
            raise MsunetError("There are no places to save: find places to review first.")
        written = review.write_queue(places, path, self._labels().store)
        show_info(f"Wrote {len(places)} places to {written}.")

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
        if self.truth is not None:
            self.truth.closing()
            self.truth = None
        self._background.close()


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"
