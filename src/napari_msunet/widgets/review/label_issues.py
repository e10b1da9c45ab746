"""Finding label issues in a thread, and the decisions of a person about them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QComboBox

from napari_msunet import review
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import open_labels
from napari_msunet.labels.checks import touched
from napari_msunet.review import Pair, TruthPlace, TruthReview, review_truth, write_confusion, write_label_issues
from napari_msunet.review.scores import merged_runs
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.python_lines import lines, literal
from napari_msunet.widgets.dock.show_errors import notify_error
from napari_msunet.widgets.review.label_issues_table import PlaceModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.utils.events import Event
    from shapely import Polygon

    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.state import SlideRecord
# ----------------------------------------------------------------------------------------------------------------------
# Comparing a truth with a prediction in a thread, and sentences about what is missing for it.

NO_SLIDE = "Open a slide first: the Slide step does it."
NO_TRUTH = (
    "This slide has no truth yet. Annotate it in the Annotate step, or correct and accept places of a prediction; "
    "then the model can be asked where it says otherwise."
)
NO_PREDICTION = (
    "This slide has no prediction to compare its truth with. Predict it with probabilities (the button sets that up), "
    "then come back here."
)
NO_PROBABILITIES = (
    "The prediction kept no probabilities, so places can be ranked by size only. To rank them by how sure the model "
    "is, predict again with probabilities; the button sets that up."
)
NOT_COMPARED = "Nothing was compared yet: find suspects first."

_TELL_SECONDS = 0.05


class ReviewStoppedError(Exception):
    """The review was stopped."""


@dataclass(frozen=True)
class ReviewRequest:
    """The truth and the prediction to compare, which are label stores of one slide."""

    truth: Path
    labels: Path

    def as_python(self) -> str:
        """The lines that compare them, write the files, and take the model's answer at one place."""
        return lines(
            "from napari_msunet.review import Pair, review_truth, take_answer, write_confusion, write_label_issues",
            "",
            f"annotation = ms.open_labels({literal(self.truth)})",
            f"pair = Pair(annotation, {literal(self.labels)})",
            "found = review_truth(pair)",
            'write_label_issues(found, "suspects.csv", annotation)',
            'write_confusion(found.confusion, "confusion.csv")',
            "# The model's answer at the first suspect, as one stroke. Undo takes it back.",
            "for place in found.suspects[:1]:",
            "    take_answer(pair, place)",
            "    annotation.undo()",
        )


class TruthReviewer(QObject):
    """Compares a truth with a prediction, in a thread.

    Attributes
    ----------
    progressed : Signal(int, int)
        Tiles done, and all tiles.
    found : Signal()
        `pair` and `review` have changed.
    changed : Signal()
        `lack`, `busy` or `stale` has changed.
    lack : str
        What is missing, as a sentence; empty if nothing is.
    possible : bool
        Whether a comparison is possible nevertheless (without probabilities).
    busy : bool
    stale : str
        Why the review no longer fits truth and prediction; empty: it fits.
    """

    progressed = Signal(int, int)
    found = Signal()
    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.pair: Pair | None = None
        self.review: TruthReview | None = None
        self.wanted: ReviewRequest | None = None
        self.lack, self.possible, self.busy, self.stale = NO_SLIDE, False, False, ""
        self._background = Background("msunet-truth", self)
        self._stop = threading.Event()
        self._told = 0.0

    def forget(self, lack: str) -> None:
        """Forget the review, because there is nothing to compare; `lack` is the reason."""
        self._stop.set()
        self.wanted, self.pair, self.review = None, None, None
        self.lack, self.possible, self.busy, self.stale = lack, False, False, ""
        self.changed.emit()

    def look_at(self, truth: Path, labels: Path | None) -> None:
        """Use this truth; a moment later it is known what is missing."""
        if labels is None:
            self.forget(NO_PREDICTION)
            return
        wanted = ReviewRequest(truth, labels)
        if wanted != self.wanted:
            self.forget("")
            self.wanted = wanted
        self._background.run(partial(_lack, labels), partial(self._looked, wanted), partial(self._unlucky, wanted))

    def _looked(self, wanted: ReviewRequest, lack: str) -> None:
        if wanted == self.wanted:
            self.lack, self.possible = lack, lack != NO_PREDICTION
            self.changed.emit()

    def _unlucky(self, wanted: ReviewRequest, error: BaseException) -> None:
        if wanted == self.wanted:
            self.lack, self.possible = str(error), False
            self.changed.emit()

    def start(self) -> None:
        """Compare; returns at once."""
        if self.wanted is None or self.busy:
            return
        self._stop = threading.Event()
        self.busy, self.stale = True, ""
        work = partial(self._work, self.wanted, self._stop)
        self._background.run(work, partial(self._done, self._stop), partial(self._failed, self._stop))
        self.changed.emit()

    def stop(self) -> None:
        """Stop comparing; the former review stays."""
        self._stop.set()

    def outdated(self, why: str) -> None:
        """Note that the review no longer fits truth and prediction."""
        if self.review is not None and not self.stale:
            self.stale = why
            self.changed.emit()

    def _work(self, wanted: ReviewRequest, stop: threading.Event) -> tuple[Pair, TruthReview]:
        """Compare; runs in the thread."""

        def tell(done: int, total: int) -> None:
            if stop.is_set():
                raise ReviewStoppedError
            if time.monotonic() - self._told > _TELL_SECONDS:
                self._told = time.monotonic()
                self.progressed.emit(done, total)

        pair = Pair(open_labels(wanted.truth), open_labels(wanted.labels))
        return pair, review_truth(pair, tell=tell)

    def _done(self, stop: threading.Event, found: tuple[Pair, TruthReview]) -> None:
        if stop is self._stop and not stop.is_set():
            self.pair, self.review = found
            self.busy = False
            self.found.emit()
            self.changed.emit()

    def _failed(self, stop: threading.Event, error: BaseException) -> None:
        if stop is self._stop:
            self.busy = False
            if not isinstance(error, ReviewStoppedError):
                notify_error(str(error))
            self.changed.emit()

    def save_csv(self, path: Path) -> str:
        """Write the suspects, and beside them the confusion matrix, as CSV; gives a sentence about the files."""
        if self.review is None or self.pair is None:
            raise MsunetError(NOT_COMPARED)
        written = write_label_issues(self.review, path, self.pair.store)
        beside = write_confusion(self.review.confusion, path.with_name(f"{path.stem} confusion.csv"))
        count = len(self.review.suspects)
        return f"Wrote {count} suspects to {written} and the confusion matrix to {beside.name}."

    def as_python(self) -> str:
        """The lines that repeat the review, write its files, and take the model's answer at one place."""
        if self.wanted is None:
            raise MsunetError(self.lack or NO_TRUTH)
        return self.wanted.as_python()

    def close(self) -> None:
        """Stop comparing and end the thread."""
        self._stop.set()
        self._background.close()


def _lack(labels: Path) -> str:
    """What a prediction lacks, as a sentence."""
    runs = merged_runs(open_labels(labels))
    if not runs:
        return NO_PREDICTION
    return "" if any("probabilities" in run.outputs for run in runs) else NO_PROBABILITIES


# ----------------------------------------------------------------------------------------------------------------------
# The decisions of a person about a truth, written in a thread, and whether strokes or an undo corrected a place.

_SETTLE_MS = 300
_CHECKED_AGAIN = 50


class Decisions(QObject):
    """Keeps the truth or takes the model's answer; each answer is one stroke.

    Parameters
    ----------
    finding : TruthReviewer
        The comparison.
    model : PlaceModel
        The places that are shown; their states are kept up to date.
    parent : QObject, optional

    Attributes
    ----------
    changed : Signal()
        The state of a place has changed.
    layer : PyramidLabels, optional
        The truth whose strokes are followed.
    """

    changed = Signal()

    def __init__(self, finding: TruthReviewer, model: PlaceModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.finding, self.model = finding, model
        self.layer: PyramidLabels | None = None
        self._background = Background("msunet-truth-places", self)
        self._strokes: list[Window] = []
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)
        self._timer.timeout.connect(self._check_again)

    @property
    def pair(self) -> Pair:
        """The compared truth and prediction; `MsunetError` if nothing was compared."""
        if self.finding.pair is None:
            raise MsunetError(NOT_COMPARED)
        return self.finding.pair

    def keep(self, place: TruthPlace) -> None:
        """Note that the truth is right in this place."""
        self._background.run(partial(review.keep_truth, self.pair, place), None, partial(self._refused, place))
        self.model.mark(place, "kept")

    def take(self, place: TruthPlace, layer: PyramidLabels) -> None:
        """Write the model's answer into the truth in this place, as one step of undo."""
        self._take(place, place.window, layer, partial(self._refused, place))
        self.model.mark(place, "changed")

    def take_all(self, places: list[TruthPlace], layer: PyramidLabels) -> None:
        """Write the model's answer into the truth in all these places, as one step of undo."""
        layer.end_stroke()
        low = np.min([(place.window.y, place.window.x) for place in places], axis=0)
        high = np.max([place.window.stop for place in places], axis=0)
        window = Window.between((int(low[0]), int(low[1])), (int(high[0]), int(high[1])))

        def failed(error: BaseException) -> None:
            for place in places:
                self.model.mark(place, None)
            self.changed.emit()
            notify_error(str(error))

        self._write(partial(review.take_answers, self.pair, places), window, layer, failed)
        for place in places:
            self.model.mark(place, "changed")

    def take_in(self, corners: npt.NDArray[np.float64], layer: PyramidLabels) -> None:
        """Write the model's answer into the truth inside a lasso, `(n, 2)` of `y, x`, as one step of undo."""
        low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
        window = Window.between((int(low[0]), int(low[1])), (int(high[0]), int(high[1])))
        self._take(corners, window, layer, lambda error: notify_error(str(error)))

    def offer_kept(self) -> None:
        """Forget which places were kept, and compare again."""
        work = partial(review.remove_kept, self.pair.store)
        self._background.run(work, lambda _: self.finding.start())

    def outline(self, place: TruthPlace, show: Callable[[Polygon | None], None]) -> None:
        """Call `show` with the polygon of a place in the present truth, or None if nothing is left of it."""
        pair = self.pair

        def work() -> Polygon | None:
            from napari_msunet.objects.polygons import label_polygons

            mask = review.place_mask(pair, place)
            corner = place.window.y, place.window.x
            return label_polygons(mask.astype(np.uint8), corner)[0].polygon if mask.any() else None

        self._background.run(work, show)

    def _take(
        self,
        where: TruthPlace | npt.NDArray[np.float64],
        window: Window,
        layer: PyramidLabels,
        failed: Callable[[BaseException], None],
    ) -> None:
        layer.end_stroke()
        self._write(partial(review.take_answer, self.pair, where), window, layer, failed)

    def _write(
        self, work: Callable[[], int], window: Window, layer: PyramidLabels, failed: Callable[[BaseException], None]
    ) -> None:
        """Make a stroke in the thread, and show it."""
        region = Region(window.y, window.x, *window.shape)

        def show(number: int) -> None:
            if number == 0:
                show_info("Truth and model say the same here already; nothing was changed.")
                return
            layer.refresh_classes()
            layer.refresh_window(region)
            layer.events.stroke(region=region, number=number)

        self._background.run(work, show, failed)

    def _refused(self, place: TruthPlace, error: BaseException) -> None:
        """Reopen a place whose decision could not be stored, because of the disk or another writer."""
        self.model.mark(place, None)
        self.changed.emit()
        notify_error(str(error))

    # ------------------------------------------------------------------------------------------------ following strokes

    def watch(self, layer: PyramidLabels | None) -> None:
        """Follow the strokes of another truth; None: follow none."""
        if layer is self.layer:
            return
        if self.layer is not None:
            self.layer.events.stroke.disconnect(self._stroked)
        self.layer = layer
        if layer is not None:
            layer.events.stroke.connect(self._stroked)

    def _stroked(self, event: Event) -> None:
        if self.finding.review is not None and event.region is not None:
            self._strokes.append(touched(event.region))
            self._timer.start()

    def _check_again(self) -> None:
        """Check in the thread which of the places near the last strokes still exist."""
        near, self._strokes, pair = self._strokes, [], self.finding.pair
        places = [p for p in self.model.places if any(not p.window.intersection(w).empty for w in near)]
        asked = [p for p in places if p.truth != p.model and self.model.states.get(p) != "kept"][:_CHECKED_AGAIN]
        if pair is not None and asked:
            self._background.run(lambda: [_is_there(pair, p) for p in asked], partial(self._checked, asked))

    def _checked(self, places: list[TruthPlace], there: list[bool]) -> None:
        for place, still in zip(places, there, strict=True):
            self.model.mark(place, None if still else "changed")
        self.changed.emit()

    def close(self) -> None:
        """Release the layer and the thread."""
        self._timer.stop()
        self.watch(None)
        self._background.close()


def _is_there(pair: Pair, place: TruthPlace) -> bool:
    return bool(review.place_mask(pair, place).any())


# ----------------------------------------------------------------------------------------------------------------------
# Which truths a slide has, and the choice between them.


def truths_of(record: SlideRecord | None) -> dict[str, Path]:
    """The label stores that hold truth of a slide, by their names for people."""
    if record is None:
        return {}
    known = {"Annotation": record.annotation, "Corrected and accepted labels": record.labels}
    return {name: path for name, path in known.items() if path is not None and path.exists()}


class TruthChoice(QComboBox):
    """The truths of a slide; the data of a row is its store's path."""

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("Which truth is reviewed")
        self.setToolTip("The truth that is compared with the prediction of this slide.")

    def offer(self, record: SlideRecord | None) -> None:
        """Offer the truths of a slide; the chosen one stays chosen if it is one of them."""
        known = truths_of(record)
        if [self.itemData(n) for n in range(self.count())] != list(known.values()):
            chosen = self.currentData()
            self.clear()
            for name, path in known.items():
                self.addItem(name, path)
            self.setCurrentIndex(max(0, self.findData(chosen)))


def layer_of_truth(layers: Layers, path: Path | None) -> PyramidLabels:
    """The layer of a truth of the active slide; it is opened where it is not in the viewer."""
    from napari_msunet.widgets.slide_layers import add_labels

    record = layers.state.active
    if record is None or path is None:
        raise MsunetError(NO_TRUTH)
    layer = layers.of_store(path)
    if layer is None:
        layer = add_labels(layers.viewer, path, layers.need_slide(record))
        kind = "Annotation" if path == record.annotation else "Labels"
        layer.name, layer.opacity = f"{kind} {record.name}", 0.5
    return layer
