"""Predictions that were stopped, noted in the project, so that they can be continued after a restart too."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

from napari_msunet._io import read_json, write_json
from napari_msunet.config import PredictJob
from napari_msunet.errors import MsunetError
from napari_msunet.labels import open_labels
from napari_msunet.widgets.dock.background import Background

if TYPE_CHECKING:
    from napari_msunet.widgets.state import State
ENDING = ".unfinished.json"


@dataclass(frozen=True)
class Unfinished:
    """A stopped prediction that can be continued.

    Attributes
    ----------
    job : PredictJob
    run : str
        Key of its run.
    done, total : int
        Finished tiles, and all tiles.
    failed : int
        Tiles that could not be computed.
    """

    job: PredictJob
    run: str
    done: int
    total: int
    failed: int

    @property
    def words(self) -> str:
        """A sentence about the stopped prediction."""
        if self.failed and self.done + self.failed >= self.total:
            one = "1 tile" if self.failed == 1 else f"{self.failed} tiles"
            return f"{one} of {self.total} could not be read; going on tries again."
        return f"A prediction of this slide was stopped: {self.done} of {self.total} tiles are done."


def note_path(labels: Path) -> Path:
    """The path of the note about the prediction that fills a label store: beside the store."""
    return labels.with_name(labels.name + ENDING)


def remember(job: PredictJob, run: str) -> None:
    """Note that this prediction is under way; where the folder cannot be written, it is not offered later."""
    with suppress(OSError, MsunetError):
        write_json(note_path(job.out), {"job": job.model_dump(mode="json"), "run": run})


def find(labels: Path) -> Unfinished | None:
    """The stopped prediction of a label store; None where there is none, or it cannot be continued."""
    try:
        note = read_json(note_path(labels))
        job = PredictJob.model_validate(note["job"]).model_copy(update={"out": labels})
        run = open_labels(labels).run(str(note["run"]))
        units = run.description["plan"]["units"]
    except (OSError, ValueError, KeyError, TypeError, MsunetError):
        return None
    if run.complete:
        with suppress(OSError):
            note_path(labels).unlink(missing_ok=True)
        return None
    if not all(path.exists() for path in (job.slide, *job.models)):
        return None
    total = sum(len(unit["tiles"]) for unit in units)
    return Unfinished(job, run.key, len(run.done), total, len(run.failed))


class ResumePrediction(QWidget):
    """Offers to continue the stopped prediction of the active slide.

    Parameters
    ----------
    state : State

    Attributes
    ----------
    wanted : Signal(object)
        "Continue" was pressed: the `PredictJob`.
    found : Unfinished, optional
        The prediction that is offered.
    """

    wanted = Signal(object)

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state
        self.found: Unfinished | None = None
        self._labels: Path | None = None
        self._begun: tuple[Path, str] | None = None
        self._ready = False
        self._background = Background("msunet-unfinished", self)
        self.words = QLabel()
        self.words.setObjectName("note")
        self.words.setWordWrap(True)
        self.button = QPushButton("Continue")
        self.button.setToolTip("Goes on where it stopped, with the model and the settings it had.")
        self.button.clicked.connect(lambda *_: self.found is not None and self.wanted.emit(self.found.job))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.words)
        column.addWidget(self.button)
        self.hide()

    def job(self) -> PredictJob:
        """The prediction that is offered; `MsunetError` where there is none."""
        record = self.state.active
        if self.found is None and record is not None and record.labels is not None:
            self.found = find(record.labels)  # the step was not open yet
        if self.found is None:
            raise MsunetError("No prediction of this slide was stopped; start one.")
        return self.found.job

    def began(self, job: PredictJob, run: str) -> None:
        """Note a prediction of which a tile is finished, so that it can be continued from now on."""
        if self._begun != (job.out, run):
            self._begun = job.out, run
            self._background.run(lambda: remember(job, run))

    def refresh(self, ready: bool) -> None:
        """Show the offer for the active slide; `ready`: whether it can be started now."""
        self._ready = ready
        record = self.state.active
        labels = None if record is None else record.labels
        if labels != self._labels:
            self._labels, self.found = labels, None
            self.look()
        self._show()

    def look(self) -> None:
        """Find out in a thread whether a prediction can be continued."""
        labels = self._labels = None if self.state.active is None else self.state.active.labels
        self._begun = None
        if labels is None:
            self.found = None
        else:
            self._background.run(lambda: find(labels), lambda found: self._found(labels, found), lambda _: None)

    def _found(self, labels: Path, found: Unfinished | None) -> None:
        if labels == self._labels:
            self.found = found
            self._show()

    def _show(self) -> None:
        self.setVisible(self.found is not None and self._ready)
        if self.found is not None:
            self.words.setText(self.found.words)

    def closing(self) -> None:
        """Stop looking."""
        self._background.close()
