"""Reviewing a truth beside the GUI thread, and saying what is missing for it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qtpy.QtCore import QObject, Signal

from napari_msunet.errors import MsunetError
from napari_msunet.labels import open_labels
from napari_msunet.labels.review_scores import merged_runs
from napari_msunet.labels.truth import Pair, TruthReview, review_truth, write_confusion, write_suspects
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.python_lines import lines, literal
from napari_msunet.widgets.dock.telling import tell_error

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


class StoppedError(Exception):
    """The review was not wanted any more."""


@dataclass(frozen=True)
class Wanted:
    """The truth and the prediction that are compared: label stores of one slide."""

    truth: Path
    labels: Path

    def as_python(self) -> str:
        """The lines that compare them, write the files, and take the answer at one place."""
        return lines(
            "from napari_msunet.labels import truth",
            "",
            f"annotation = ms.open_labels({literal(self.truth)})",
            f"pair = truth.Pair(annotation, {literal(self.labels)})",
            "found = truth.review_truth(pair)",
            'truth.write_suspects(found, "suspects.csv", annotation)',
            'truth.write_confusion(found.confusion, "confusion.csv")',
            "# The model's answer at the first suspect, as one stroke. Undo takes it back.",
            "for place in found.suspects[:1]:",
            "    truth.take_answer(pair, place)",
            "    annotation.undo()",
        )


class Finding(QObject):
    """Compares a truth with a prediction, in a thread.

    Attributes
    ----------
    progressed : Signal(int, int)
        Tiles done, of how many.
    found : Signal()
        `pair` and `review` are another one.
    changed : Signal()
        `lack`, `busy` or `stale` is another one.
    lack : str
        What is missing, as a sentence; empty: nothing.
    possible : bool
        Whether it can be done nevertheless (without probabilities).
    busy : bool
    stale : str
        Why the review is not what truth and prediction are now; empty: it is.
    """

    progressed = Signal(int, int)
    found = Signal()
    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.pair: Pair | None = None
        self.review: TruthReview | None = None
        self.wanted: Wanted | None = None
        self.lack, self.possible, self.busy, self.stale = NO_SLIDE, False, False, ""
        self._background = Background("msunet-truth", self)
        self._stop = threading.Event()
        self._told = 0.0

    def forget(self, lack: str) -> None:
        """There is nothing to compare now; `lack` says why."""
        self._stop.set()
        self.wanted, self.pair, self.review = None, None, None
        self.lack, self.possible, self.busy, self.stale = lack, False, False, ""
        self.changed.emit()

    def look_at(self, truth: Path, labels: Path | None) -> None:
        """Work on this truth; what is missing is known a moment later."""
        if labels is None:
            self.forget(NO_PREDICTION)
            return
        wanted = Wanted(truth, labels)
        if wanted != self.wanted:
            self.forget("")
            self.wanted = wanted
        self._background.run(partial(_lack, labels), partial(self._looked, wanted), partial(self._unlucky, wanted))

    def _looked(self, wanted: Wanted, lack: str) -> None:
        if wanted == self.wanted:
            self.lack, self.possible = lack, lack != NO_PREDICTION
            self.changed.emit()

    def _unlucky(self, wanted: Wanted, error: BaseException) -> None:
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
        """Give up comparing; the former review stays."""
        self._stop.set()

    def outdated(self, why: str) -> None:
        """Say that the review is not what truth and prediction are now."""
        if self.review is not None and not self.stale:
            self.stale = why
            self.changed.emit()

    def _work(self, wanted: Wanted, stop: threading.Event) -> tuple[Pair, TruthReview]:
        """In the thread."""

        def tell(done: int, total: int) -> None:
            if stop.is_set():
                raise StoppedError
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
            if not isinstance(error, StoppedError):
                tell_error(str(error))
            self.changed.emit()

    def save_csv(self, path: Path) -> str:
        """Write the suspects, and beside them the confusion matrix, as CSV; gives a sentence that says so."""
        if self.review is None or self.pair is None:
            raise MsunetError(NOT_COMPARED)
        written = write_suspects(self.review, path, self.pair.store)
        beside = write_confusion(self.review.confusion, path.with_name(f"{path.stem} confusion.csv"))
        count = len(self.review.suspects)
        return f"Wrote {count} suspects to {written} and the confusion matrix to {beside.name}."

    def as_python(self) -> str:
        """The review, its files, and the answer taken at one place."""
        if self.wanted is None:
            raise MsunetError(self.lack or NO_TRUTH)
        return self.wanted.as_python()

    def close(self) -> None:
        """Stop for good."""
        self._stop.set()
        self._background.close()


def _lack(labels: Path) -> str:
    """What a prediction lacks, in words."""
    runs = merged_runs(open_labels(labels))
    if not runs:
        return NO_PREDICTION
    return "" if any("probabilities" in run.outputs for run in runs) else NO_PROBABILITIES
