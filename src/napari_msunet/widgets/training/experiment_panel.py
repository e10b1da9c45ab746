"""Experiments in the Train step: one field over some values, or a file; a table that fills; and "Use this one"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from napari_msunet._io import read_json
from napari_msunet.config import ExperimentJob, explain
from napari_msunet.config.variants import VARIED, one_field
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event, Result, TrialDone
from napari_msunet.jobs.experiment_files import needs_data, read_experiment
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.job_box import JobBox
from napari_msunet.widgets.dock.python_lines import job_lines
from napari_msunet.widgets.forms import Form, button_of
from napari_msunet.widgets.state import ExperimentChoices
from napari_msunet.widgets.training.project_folders import newest_folder, next_folder
from napari_msunet.widgets.training.variant_table import VariantTable, take_variant

if TYPE_CHECKING:
    from napari_msunet.widgets.jobs import JobHandle, Jobs
    from napari_msunet.widgets.state import State
_KIND, _FILE = "experiments", "experiment.json"
SECONDS = 100.0
"""Processor time of each training unless the person sets another one."""


class ExperimentPanel(QWidget):
    """Compares variants of the training of the dock, or those of a file.

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
        self.field = QComboBox()
        self.field.setEditable(True)
        for path, (label, _) in VARIED.items():
            self.field.addItem(label, path)
        self.field.setToolTip("What differs between the variants; any field of a job file can be typed too.")
        self.values = QLineEdit()
        self.values.setToolTip(
            "Values with commas, or with semicolons where a value has commas itself. The first is what the others are "
            "compared with."
        )
        self.field.currentTextChanged.connect(self._suggest)
        self.form = Form(ExperimentChoices(seconds=SECONDS), folded="More of the comparison")
        self.start = button_of("Compare", "", self.compare)
        self.go_on = button_of("Continue", "Goes on with the last experiment: what is finished stays.", self.resume)
        self.from_file = button_of("From a file…", "Starts an experiment that a file describes.", self.ask_file)
        self.short = QCheckBox("short")
        self.short.setToolTip('With what the file gives under "short": a first look instead of a result.')
        self.use = button_of(
            "Use this one",
            "Sets the Model step and the options of the training to those of the chosen row, else of the best one.",
            self.use_chosen,
        )
        self.table = VariantTable("Variants of the experiment")
        self.box = JobBox(state, jobs, "train")
        self.box.happened.connect(self._happened)
        self.box.ended.connect(lambda *_: self.refresh())
        self._job: ExperimentJob | None = None
        self._lay_out()
        self._suggest()
        self.refresh()

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        self.asked = QWidget()
        inside = QVBoxLayout(self.asked)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(6)
        rows = QFormLayout()
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Vary", self.field)
        rows.addRow("Values", self.values)
        inside.addLayout(rows)
        inside.addWidget(self.form)
        column.addWidget(self.asked)
        starting, using = QHBoxLayout(), QHBoxLayout()
        starting.addWidget(self.start, 2)
        starting.addWidget(self.go_on, 1)
        using.addWidget(self.from_file, 1)
        using.addWidget(self.short)
        column.addLayout(starting)
        column.addLayout(using)
        column.addWidget(self.box)
        column.addWidget(self.table)
        column.addWidget(self.use)

    # -------------------------------------------------------------------------------------------------------- showing

    def _suggest(self, *_: object) -> None:
        example = VARIED[self._path()][1] if self._path() in VARIED else "values with commas"
        self.values.setPlaceholderText(example)

    def _path(self) -> str:
        """The chosen field by its path."""
        text = self.field.currentText().strip()
        place = self.field.findText(text)
        return str(self.field.itemData(place)) if place >= 0 else text

    def refresh(self) -> None:
        """Show the present state."""
        missing = resolve.missing(self.state, "train")
        free = resolve.blocked_by(self.state, "train") is None and not self.box.running
        self.asked.setVisible(not self.box.running)
        for widget in (self.start, self.go_on, self.from_file, self.short):
            widget.setVisible(not self.box.running)
        self.start.setEnabled(missing is None and free)
        self.start.setToolTip(missing or "Trains each variant on the same folds in the same time, in the background.")
        self.go_on.setEnabled(free and self._last() is not None)
        self.from_file.setEnabled(free)
        self.table.setVisible(bool(self.table.variants))
        self.use.setVisible(bool(self.table.variants))
        self.use.setEnabled(self.table.chosen is not None)

    def _happened(self, event: Event) -> None:
        if isinstance(event, TrialDone):
            self.table.add(event.row)
            self.use.setEnabled(self.table.chosen is not None)
        elif isinstance(event, Result):
            self.table.fill(event.values)

    # ------------------------------------------------------------------------------------------------------ comparing

    def job(self, out: Path) -> ExperimentJob:
        """The experiment that Compare starts; `MsunetError` saying what is missing."""
        self.state.count_annotations()
        training = resolve.train_job(self.state, out)
        variants = one_field(training, self._path(), self.values.text() or self.values.placeholderText())
        try:
            return ExperimentJob(training=training, variants=variants, out=out, **dict(self.form.value()))
        except ValidationError as error:
            raise explain(error, "The experiment") from error

    def compare(self) -> JobHandle:
        """Start the experiment of the form; returns at once."""
        return self._begin(self.job(next_folder(self.state, _KIND, "experiment")))

    def ask_file(self) -> JobHandle | None:
        """Ask for a file, and for the folder of its images where it needs one, and start its experiment."""
        start = str(self.state.project_folder().parent)
        chosen, _ = QFileDialog.getOpenFileName(self, "An experiment", start, "Experiments (*.json)")
        if not chosen:
            return None
        data: str | None = None
        if needs_data(Path(chosen)):
            data = QFileDialog.getExistingDirectory(self, "The folder with the images of this experiment", start)
            if not data:
                return None
        return self.compare_file(Path(chosen), Path(data) if data else None)

    def compare_file(self, file: Path, data: Path | None = None) -> JobHandle:
        """Start the experiment of a file; returns at once.

        Parameters
        ----------
        file : Path
        data : Path, optional
            The folder that DATA stands for in its paths.
        """
        job = read_experiment(file, data, self.short.isChecked())
        out = next_folder(self.state, _KIND, "experiment")
        return self._begin(job.model_copy(update={"out": out, "resume": False}))

    def resume(self) -> JobHandle:
        """Go on with the newest experiment; returns at once."""
        folder = self._last()
        if folder is None:
            raise MsunetError("There is no experiment to go on with; start one with Compare.")
        job = ExperimentJob.model_validate(read_json(folder / _FILE))
        return self._begin(job.model_copy(update={"resume": True, "out": folder}))

    def _last(self) -> Path | None:
        return newest_folder(self.state, _KIND, _FILE)

    def _begin(self, job: ExperimentJob) -> JobHandle:
        self._job = job
        handle = self.box.start(job, "Preparing: the worker loads images and annotations.", before=self._flusher())
        self.table.begin(list(job.variants), job.metric)
        self.refresh()
        return handle

    def use_chosen(self) -> None:
        """Set the model and the options of the training to those of the chosen variant."""
        name, job = self.table.chosen, self._job
        if name is None or job is None:
            raise MsunetError("No variant was scored yet; wait, or compare again.")
        take_variant(self.state, name, job.variant(name), job.out / "trials")
        self.box.say(f"The training is set as in {name}: press Train.")

    def as_python(self) -> str:
        """The experiment of the form as Python."""
        free = self.state.project_folder() / _KIND / "experiment 1"
        return job_lines(self.job(free))

    def closing(self) -> None:
        """Stop listening."""
        self.box.closing()
