""" "Does context help here?" in the Train step: one button, the answer as a sentence, its table, and "Use this"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from qtpy.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_msunet._io import read_json
from napari_msunet.config import ContextJob, TrainJob, explain
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event, Result, TrialDone
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.job_box import JobBox
from napari_msunet.widgets.dock.python_lines import job_lines
from napari_msunet.widgets.forms import Form, button_of
from napari_msunet.widgets.state import ContextChoices
from napari_msunet.widgets.training.project_folders import newest_folder, next_folder
from napari_msunet.widgets.training.variant_table import VariantTable, take_variant

if TYPE_CHECKING:
    from napari_msunet.widgets.jobs import JobHandle, Jobs
    from napari_msunet.widgets.state import State
_KIND, _FILE = "context", "context.json"


class ContextPanel(QWidget):
    """Asks whether several scales help on the sources of the dock.

    Parameters
    ----------
    state : State
    jobs : Jobs
    flusher : callable
        Gives a function that flushes what is painted, before the worker reads it.
    """

    def __init__(self, state: State, jobs: Jobs, flusher: Callable[[], Callable[[], None]]) -> None:
        super().__init__()
        self.state, self._flusher = state, flusher
        self.form = Form(ContextChoices(), folded="More of the study")
        self.start = button_of("Does context help here?", "", self.ask)
        self.go_on = button_of("Continue", "", self.resume)
        self.go_on.setToolTip("Goes on with the last study: what is finished stays.")
        self.answer = QLabel()
        self.answer.setWordWrap(True)
        self.answer.setAccessibleName("The answer")
        self.use = button_of("Use this", "", self.use_advised)
        self.use.setToolTip("Sets the Model step and the options of the training to those that the answer advises.")
        self.table = VariantTable("Variants of the study")
        self.box = JobBox(state, jobs, "train")
        self.box.happened.connect(self._happened)
        self.box.ended.connect(lambda *_: self.refresh())
        self._result: Result | None = None
        self._folder: Path | None = None
        self._lay_out()
        self.refresh()

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        row = QHBoxLayout()
        row.addWidget(self.start, 2)
        row.addWidget(self.go_on, 1)
        column.addWidget(self.form)
        column.addLayout(row)
        for widget in (self.box, self.answer, self.table, self.use):
            column.addWidget(widget)

    def refresh(self) -> None:
        """Show the present state."""
        missing = resolve.missing(self.state, "train")
        free = resolve.blocked_by(self.state, "train") is None and not self.box.running
        for widget in (self.form, self.start, self.go_on):
            widget.setVisible(not self.box.running)
        self.start.setEnabled(missing is None and free)
        self.start.setToolTip(missing or "Trains one scale and several scales in the same time, in the background.")
        self.go_on.setEnabled(free and newest_folder(self.state, _KIND, _FILE) is not None)
        self.answer.setVisible(bool(self.answer.text()) and not self.box.running)
        self.table.setVisible(bool(self.table.variants))
        self.use.setVisible(self._result is not None and not self.box.running)

    def _happened(self, event: Event) -> None:
        if isinstance(event, TrialDone):
            self.table.add(event.row)
        elif isinstance(event, Result):
            self._result = event
            self.answer.setText(event.values["sentence"])
            self.table.fill(event.values)

    # --------------------------------------------------------------------------------------------------------- asking

    def job(self, out: Path) -> ContextJob:
        """The study that the button starts; `MsunetError` saying what is missing."""
        self.state.count_annotations()
        training = resolve.train_job(self.state, out)
        try:
            return ContextJob(training=training, out=out, **dict(self.form.value()))
        except ValidationError as error:
            raise explain(error, "The study") from error

    def ask(self) -> JobHandle:
        """Start the study; returns at once."""
        return self._begin(self.job(next_folder(self.state, _KIND, "study")))

    def resume(self) -> JobHandle:
        """Go on with the newest study; returns at once."""
        folder = newest_folder(self.state, _KIND, _FILE)
        if folder is None:
            raise MsunetError("There is no study to go on with; start one.")
        job = ContextJob.model_validate(read_json(folder / _FILE))
        return self._begin(job.model_copy(update={"resume": True, "out": folder}))

    def _begin(self, job: ContextJob) -> JobHandle:
        self._folder = job.out
        self._result = None
        self.answer.clear()
        self.table.begin((), "dice")
        handle = self.box.start(job, "Preparing: the worker loads images and annotations.", before=self._flusher())
        self.refresh()
        return handle

    def use_advised(self) -> None:
        """Set the model and the options of the training to those that the answer advises."""
        if self._result is None or self._folder is None:
            raise MsunetError("There is no answer yet; ask, and wait until the study has ended.")
        values = self._result.values
        name = values["several" if values["answer"] == "yes" else "one"][-1]
        training = TrainJob.model_validate(read_json(Path(self._result.files["best"])))
        take_variant(self.state, name, training, self._folder / "experiment" / "trials")
        self.box.say(f"The training is set as in {name}: press Train.")

    def as_python(self) -> str:
        """The study as Python."""
        return job_lines(self.job(self.state.project_folder() / _KIND / "study 1"))

    def closing(self) -> None:
        """Stop listening."""
        self.box.closing()
