"""The Review step: the places that most need a look, one after the other."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_info
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QProgressBar

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region, Window
from napari_msunet.review import queue
from napari_msunet.review import state as review_state
from napari_msunet.review.queue import Candidate, Survey
from napari_msunet.widgets import keys
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.fields import WholeField
from napari_msunet.widgets.dock.python_lines import lines, literal
from napari_msunet.widgets.dock.show_errors import notify_error, show_errors
from napari_msunet.widgets.forms import button_of
from napari_msunet.widgets.layers import hide_maps
from napari_msunet.widgets.navigation import Outline, go_to
from napari_msunet.widgets.objects.measuring import Hover
from napari_msunet.widgets.objects.table import object_text
from napari_msunet.widgets.review.panels import Panels
from napari_msunet.widgets.review.place_list import PlaceList
from napari_msunet.widgets.review.survey import RANKINGS, RankingBox, Surveyor
from napari_msunet.widgets.steps.step import Step

if TYPE_CHECKING:
    from napari.utils.events import Event
    from qtpy.QtGui import QHideEvent, QShowEvent

    from napari_msunet.labels import LabelStore
    from napari_msunet.labels.area import Mask
    from napari_msunet.objects.table import FoundObject
    from napari_msunet.widgets.jobs import Jobs
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.objects import ObjectsPanel
    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.review import TruthPanel
    from napari_msunet.widgets.state import State
_PLACE = (0.35, 0.75, 1.0)


class ReviewStep(Step):
    """Ranks places to accept or skip, and shows the progress, the object under the mouse and the table of all
    objects."""

    name = "review"
    title = "Review"
    purpose = "Look at the places where the model is most likely wrong, correct them, and accept what is right."

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        super().__init__(state, jobs, layers)
        self.found: Survey | None = None
        self.panels = Panels(state, jobs, layers)
        self._layer: PyramidLabels | None = None
        self._background = Background("msunet-review", self)
        self._outline = Outline(self.viewer, _PLACE)
        self._hover = Hover(self.viewer, self)
        self._hover.found.connect(self._hovered)
        self._surveyor = Surveyor(self._background, self._reviewed_now, self)
        self._build()
        self._connect()

    def _build(self) -> None:
        """Make the widgets and lay them out."""
        self._build_search()
        self._build_progress()
        self._build_tools()
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

    def _build_search(self) -> None:
        """Make the choice of the ranking, and the queue of places."""
        self.needed = self.note()
        self.by = RankingBox()
        self.size = WholeField(32, 4096, "px", step=32)
        self.size.setValue(queue.SIZE)
        self.size.setToolTip("Side of a place, in pixels of the labels.")
        self.find = button_of("Find places to review", "Ranks all that is predicted and was not reviewed yet.")
        self.find.setObjectName("primary")
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(4)
        self.bar.hide()
        self.queue = PlaceList()

    def _build_progress(self) -> None:
        """Make the line about how much is reviewed."""
        self.done_bar = QProgressBar()
        self.done_bar.setRange(0, 1000)
        self.done_bar.setTextVisible(False)
        self.done_bar.setMaximumHeight(8)
        self.progress = self.note()
        self.again = button_of("Offer skipped places again")

    def _build_tools(self) -> None:
        """Make the line about the object under the mouse, and the buttons of the panels below the canvas."""
        self.object = self.note()
        self.object.setMinimumHeight(34)
        self.object.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.objects = button_of(
            "Table of objects…",
            "All objects with their areas, linked with the view; sort, filter, delete, change class.",
        )
        self.check_truth = button_of(
            "Check the truth…",
            "Where the model contradicts your annotation: likely annotation errors, and which classes are confused.",
        )
        self.csv = button_of("Save places…", "Writes the queue as CSV.")

    def _connect(self) -> None:
        self.find.clicked.connect(show_errors(lambda *_: self.find_places()))
        self.again.clicked.connect(show_errors(lambda *_: self.forget_skipped()))
        self.objects.clicked.connect(show_errors(lambda *_: self.show_objects()))
        self.check_truth.clicked.connect(show_errors(lambda *_: self.show_truth()))
        self.csv.clicked.connect(show_errors(lambda *_: self._save_clicked()))
        self._surveyor.progressed.connect(self._progress)
        self._surveyor.found.connect(self._found)
        self._surveyor.counted.connect(self._show_progress)
        self._surveyor.failed.connect(self._failed)
        self.queue.shown.connect(show_errors(self._go))
        self.queue.accept_wanted.connect(show_errors(self.accept))
        self.queue.skip_wanted.connect(show_errors(self.skip))
        self.queue.left.connect(lambda n: self.state.set_to_review(self._layer and self._layer.store.path, n))
        self.state.changed.connect(self._changed)

    @property
    def panel(self) -> ObjectsPanel | None:
        """The table of objects; None before it was shown."""
        return self.panels.objects

    @property
    def truth(self) -> TruthPanel | None:
        """The panel of label issues; None before it was shown."""
        return self.panels.truth

    # -------------------------------------------------------------------------------------------------------- showing

    def refresh(self) -> None:
        missing = self.missing()
        self.needed.setText(missing or "")
        self.needed.setVisible(missing is not None)
        self._watch(None if missing else self.layers.of_store(self.state.active.labels))
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

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._go_live(True)

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._go_live(False)

    def _go_live(self, on: bool) -> None:
        """Follow the mouse and the keys, and show the place, while the step is open."""
        if self.layers.closed:
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

    def _watch(self, layer: PyramidLabels | None) -> None:
        """Review other labels from now on."""
        if layer is self._layer:
            return
        if self._layer is not None:
            self._layer.events.stroke.disconnect(self._stroked)
        self._layer, self.found = layer, None
        self.by.forget_choice()
        self._show_queue([], "")
        self.object.setText("")
        self._hover.set_on(layer is not None and self.isVisible(), layer)
        if self.panel is not None:
            self.panel.set_layer(layer)
        if layer is not None:
            layer.events.stroke.connect(self._stroked)
            self.by.offer(layer.store, self._background)
            self._surveyor.count_soon()
            self._take_up(layer)

    def _take_up(self, layer: PyramidLabels) -> None:
        """Rank the places again that were under review when the project was left."""
        record = self.layers.record(layer)
        if record is not None and record.queue is not None and record.queue[0] in RANKINGS:
            by, size = record.queue
            self.size.setValue(size)
            self.find_places(by)

    def _changed(self, what: str) -> None:
        """Rank again after a new prediction; accepted places stay accepted."""
        if what != "results" or self._layer is None:
            return
        if self._layer not in self.viewer.layers or self.missing() is not None:  # its project or slide was left
            self._watch(None)
            return
        self.by.offer(self._layer.store, self._background)
        if self.queue.source in RANKINGS:
            self.find_places(self.queue.source)
        if self.panel is not None:
            self.panel.measuring.outdated("Predicted again since: measure again.")

    def _stroked(self, event: Event) -> None:
        self._surveyor.count_soon()
        if not event.number and self.queue.places:  # an undo or a redo
            self._background.run(partial(_accepted_now, self._layer.store), self.queue.show_accepted, lambda _: None)

    # ---------------------------------------------------------------------------------------------------------- queue

    def _labels(self) -> PyramidLabels:
        """The layer of the labels; it is opened where it is not in the viewer."""
        if (missing := self.missing()) is not None:
            raise MsunetError(missing)
        layer = self.layers.need_labels(self.state.active)
        self._watch(layer)
        return layer

    def find_places(self, by: str | None = None) -> None:
        """Rank the places that were not reviewed; returns at once, and the queue is shown when it is ready."""
        self._labels()
        by = by or self.by.currentData()
        objects = None
        if by == "oddity" and self.panel is not None and self.panel.measuring.measured:
            objects = self.panel.measuring.table
        self.bar.setRange(0, 0)
        self.bar.show()
        self.find.setEnabled(False)
        self._surveyor.rank(by, objects)

    def _reviewed_now(self) -> tuple[LabelStore, int, Mask | None] | None:
        """The store, the side of a place, and the slide's tissue mask where the dock has one."""
        if self._layer is None:
            return None
        record = self.layers.record(self._layer)  # another slide may be active by now
        return self._layer.store, self.size.value(), getattr(record, "tissue_mask", None)

    def _progress(self, done: int, total: int) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)

    def _failed(self, error: BaseException) -> None:
        self.bar.hide()
        self.find.setEnabled(True)
        notify_error(str(error))

    def _found(self, by: str, found: Survey) -> None:
        self.bar.hide()
        self.find.setEnabled(True)
        self._show_progress(found)
        self._show_queue(found.candidates, by)
        record = None if self._layer is None else self.layers.record(self._layer)
        if record is not None:
            record.queue = (by, self.size.value()) if found.candidates else None
        if not found.candidates:
            rest = " Some were skipped." if found.skipped else ""
            self.queue.say(f"Nothing is left to review by this ranking.{rest}")

    def show_candidates(self, places: list[Candidate], source: str) -> None:
        """Show places from elsewhere, such as likely errors of the truth, in this step.

        Parameters
        ----------
        places : list of Candidate
            Places in the active slide's labels.
        source : str
            Where the places come from.
        """
        self._labels()
        self._show_queue(places, source)

    def _show_queue(self, places: list[Candidate], source: str) -> None:
        self.queue.show_places(places, source)
        self._outline.hide()
        self._enable()

    def _go(self, place: Candidate) -> None:
        """Move the camera to a place of the queue."""
        layer = self._labels()
        layer.visible = True
        hide_maps(self.viewer)
        go_to(self.viewer, layer, place.window)
        if self.isVisible():
            self._outline.show_window(layer, place.window)

    # ------------------------------------------------------------------------------------------------ accept and skip

    def accept(self) -> None:
        """Mark the prediction in the place as true, as one step of undo, and go to the next; returns at once."""
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
        """Reopen a place whose acceptance could not be stored, because of the disk or another writer."""
        self.queue.reopen(window)
        notify_error(str(error))

    def _accepted(self, layer: PyramidLabels, window: Window, number: review_state.Accepted) -> None:
        self.state.reviewed = True
        if number.left_out:
            show_info(
                f"Accepted {number.pixels:,} pixels; {number.left_out:,} of this place were not predicted and are left "
                "out."
            )
        layer.events.stroke(region=Region(window.y, window.x, *window.shape), number=int(number))

    def skip(self) -> None:
        """Do not offer the place again, and go to the next; returns at once."""
        place, layer = self.queue.open_place, self._layer
        if place is None or layer is None:
            return
        self._background.run(
            partial(review_state.skip, layer.store, place.window),
            lambda _: self._surveyor.count_soon(),
            partial(self._refused, place.window),
        )
        self.queue.decide("skipped")

    def forget_skipped(self) -> None:
        """Offer all skipped places again."""
        layer = self._labels()

        def again(_: object) -> None:
            self.find_places(self.queue.source if self.queue.source in RANKINGS else None)

        self._background.run(partial(review_state.forget_skipped, layer.store), again)

    def _show_progress(self, found: Survey) -> None:
        self.found = found
        self.state.reviewed = found.reviewed > 0
        self.done_bar.setValue(round(1000 * found.share))
        self.progress.setText(reviewed_text(found))
        self._enable()

    # -------------------------------------------------------------------------------------------------------- objects

    def _hovered(self, found: FoundObject | None) -> None:
        text = "" if found is None or self._layer is None else object_text(self._layer.store, found)
        self.object.setText(f"Under the mouse: {text}" if text else "Point at an object to measure it.")
        if self.panel is not None:
            self.panel.under_mouse.setText(text)

    def show_objects(self) -> ObjectsPanel:
        """Show the table of all objects below the canvas, and measure them; gives the table's widget."""
        return self.panels.show_objects(self._labels())

    def show_truth(self) -> TruthPanel:
        """Show the panel of label issues, where the model contradicts the truth, below the canvas; gives the panel."""
        return self.panels.show_truth()

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
        written = queue.write_queue(places, path, self._labels().store)
        show_info(f"Wrote {len(places)} places to {written}.")

    def as_python(self) -> str:
        """The lines that make the queue and accept one place."""
        record = self.state.active
        if record is None or record.labels is None:
            raise MsunetError(self.missing() or "Predict first.")
        by, size = self.by.currentData(), self.size.value()
        return lines(
            "from napari_msunet.review.queue import write_queue",
            "from napari_msunet.review.state import accept",
            "",
            f"labels = ms.open_labels({literal(record.labels)})",
            f'places = ms.review_queue(labels, by="{by}", size={size})',
            'write_queue(places, "review.csv", labels)',
            "# All that is predicted in the first place is true, background too. Undo takes it back.",
            "print(accept(labels, places[0].window).left_out, 'pixels were not predicted')",
            "labels.undo()",
        )

    def closing(self) -> None:
        self._surveyor.close()
        self.state.changed.disconnect(self._changed)
        if self._layer is not None:
            self._layer.events.stroke.disconnect(self._stroked)
            self._layer = None
        self._hover.close()
        self._outline.close()
        self.panels.closing()
        self._background.close()


def _accepted_now(store: LabelStore) -> set[Window]:
    """The places that are accepted, without those whose acceptance was undone."""
    level = min(2, len(store.info.shapes) - 1)
    return set(review_state.still_accepted(store, review_state.load_state(store), level))


def reviewed_text(found: Survey) -> str:
    """A sentence about how much is reviewed."""
    skipped = f" {found.skipped} skipped." if found.skipped else ""
    left = f" {found.unpredicted:,} more windows of tissue are not predicted yet." if found.unpredicted else ""
    share = _percent(found.share)
    return f"Reviewed {found.reviewed:,} of {found.total:,} windows, {share} of what is predicted.{skipped}{left}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"
