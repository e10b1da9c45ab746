"""The search in the Train step: its options, a table that fills while it runs, its pictures, and "Use the best"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QScrollArea,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_msunet._io import read_json
from napari_msunet.config import SettledTrainJob, TrainJob, TuneJob, explain
from napari_msunet.config.search import label_of
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event, Result, TrialDone
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.job_box import JobBox
from napari_msunet.widgets.dock.python_lines import job_lines
from napari_msunet.widgets.dock.training_views import picture
from napari_msunet.widgets.forms import Form, button_of
from napari_msunet.widgets.state import TuneChoices, changed
from napari_msunet.widgets.training.project_folders import newest_folder, next_folder

if TYPE_CHECKING:
    from napari_msunet.widgets.jobs import JobHandle, Jobs
    from napari_msunet.widgets.state import State
_PICTURES = ("importance", "history", "slices")
_ROWS = 8  # rows of the table that are seen without scrolling
_OUTCOMES = {"pruned": "ended early", "failed": "cannot run"}


class SearchPanel(QWidget):
    """Searches for the options with which the training of the dock scores best.

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
        self.form = Form(TuneChoices(), folded="More of the search")
        self.note = QLabel("Scales, fusion, network, loss and rates vary, as far as you have not set them yourself.")
        self.note.setObjectName("note")
        self.note.setWordWrap(True)
        self.start = button_of("Search", "Trains and scores one trial after the other, in the background.", self.search)
        self.go_on = button_of("Go on", "Goes on with the last search, up to the number of trials above.", self.resume)
        self.use = button_of(
            "Use the best",
            "Sets the Model step and the options of the training to those of the best trial.",
            self.use_best,
        )
        self.pictures = button_of(
            "Pictures…", "Shows which options matter, and the score of each trial.", self.show_pictures
        )
        self.table = _TrialTable()
        self.box = JobBox(state, jobs, "train")
        self.box.happened.connect(self._happened)
        self.box.ended.connect(self._ended)
        self.dialog: QDialog | None = None
        self._folder: Path | None = None
        self._lay_out()
        self.refresh()

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        starting, using = QHBoxLayout(), QHBoxLayout()
        starting.addWidget(self.start, 2)
        starting.addWidget(self.go_on, 1)
        using.addWidget(self.use, 2)
        using.addWidget(self.pictures, 1)
        column.addWidget(self.form)
        column.addWidget(self.note)
        column.addLayout(starting)
        column.addWidget(self.box)
        column.addWidget(self.table)
        column.addLayout(using)

    # -------------------------------------------------------------------------------------------------------- showing

    def refresh(self) -> None:
        """Show the present state."""
        missing = resolve.missing(self.state, "train")
        free = missing is None and resolve.blocked_by(self.state, "train") is None
        self.form.setVisible(not self.box.running)
        self.note.setVisible(not self.box.running)
        self.start.setEnabled(free)
        self.start.setToolTip(missing or "Trains and scores one trial after the other, in the background.")
        self.go_on.setEnabled(free and self.last_search() is not None)
        self.table.setVisible(self.table.rowCount() > 0)
        self.use.setVisible(self.table.rowCount() > 0)
        self.use.setEnabled(self._best_file() is not None)
        self.pictures.setVisible(bool(self._pictures()))

    def _happened(self, event: Event) -> None:
        if isinstance(event, TrialDone):
            self.table.add(event.row)
            self.refresh()
        elif isinstance(event, Result):
            self.table.fill(event.values["trials"])

    def _ended(self, outcome: str, result: Result | None) -> None:
        self.refresh()

    # ------------------------------------------------------------------------------------------------------ searching

    def job(self, out: Path, resume: bool = False) -> TuneJob:
        """The search that the button starts; `MsunetError` saying what is missing."""
        self.state.count_annotations()
        options: Any = self.form.value()
        training = resolve.train_job(self.state, out).model_copy(update={"time_limit": options.seconds})
        values = {name: value for name, value in dict(options).items() if name != "seconds"}
        try:
            return TuneJob(training=training, out=out, resume=resume, **values)
        except ValidationError as error:
            raise explain(error, "The search") from error

    def search(self) -> JobHandle:
        """Start a search; returns at once."""
        self.table.fill(())
        return self._begin(self.job(next_folder(self.state, "searches", "search")))

    def resume(self) -> JobHandle:
        """Go on with the last search, with more trials where the form says so; returns at once."""
        folder = self.last_search()
        if folder is None:
            raise MsunetError("There is no search to go on with; start one with Search.")
        before = TuneJob.model_validate_json((folder / "search.json").read_bytes())
        options: Any = self.form.value()
        update = {"resume": True, "out": folder, "trials": options.trials, "workers": options.workers}
        return self._begin(before.model_copy(update=update))

    def _begin(self, job: TuneJob) -> JobHandle:
        self._folder = job.out
        handle = self.box.start(job, "Preparing: the worker loads images and annotations.", before=self._flusher())
        self.refresh()
        return handle

    def last_search(self) -> Path | None:
        """The newest search of the project."""
        return newest_folder(self.state, "searches", "search.json")

    def as_python(self) -> str:
        """The search as Python."""
        return job_lines(self.job(self.state.project_folder() / "searches" / "search 1"))

    # --------------------------------------------------------------------------------------------------- what came out

    def _best_file(self) -> Path | None:
        file = None if self._folder is None else self._folder / "best.json"
        return file if file is not None and file.is_file() else None

    def use_best(self) -> None:
        """Set the model and the options of the training to those of the best trial so far."""
        file, best = self._best_file(), self.table.best
        if file is None or best is None:
            raise MsunetError("No trial was scored yet, so there is no best one; wait, or search again.")
        training = TrainJob.model_validate_json(file.read_bytes())
        settled = file.parent / "trials" / f"{best['trial']:04d}" / "fold1" / "job.json"
        model = SettledTrainJob.model_validate(read_json(settled)).model
        self.state.set_model(model.model_copy(update={"normalisation": None, "trained_on": None}))
        parts = {name.partition(".")[0] for name in best["values"]} - {"model"}
        options = {name: getattr(training, name) for name in parts}
        self.state.set_train_options(changed(self.state.train_options, **options))
        self.box.say(f"The training is set as in trial {best['trial']} (Dice {best['dice']:.3f}): press Train.")

    def _pictures(self) -> list[Path]:
        if self._folder is None or self.box.running:
            return []
        return [file for name in _PICTURES if (file := self._folder / f"{name}.png").is_file()]

    def show_pictures(self) -> None:
        """Open a window with the pictures of the search."""
        dialog = QDialog(self.window())
        dialog.setWindowTitle("The search")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        inside = QWidget()
        rows = QVBoxLayout(inside)
        for file in self._pictures():
            rows.addWidget(picture(file, file.stem))
        area = QScrollArea()
        area.setWidget(inside)
        column = QVBoxLayout(dialog)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(area)
        inside.adjustSize()
        dialog.resize(min(inside.width() + 24, 1200), min(inside.height() + 24, 720))
        dialog.destroyed.connect(self._forget)
        dialog.show()
        self.dialog = dialog

    def _forget(self, *_: object) -> None:
        self.dialog = None

    def closing(self) -> None:
        """Stop listening, and close the window."""
        self.box.closing()
        if self.dialog is not None:
            self.dialog.close()


class _TrialTable(QTableWidget):
    """A row for each trial, the best first; those that were not scored come last."""

    def __init__(self) -> None:
        super().__init__()
        self.trials: list[dict[str, Any]] = []
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setAccessibleName("Trials of the search")
        self.verticalHeader().hide()
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best trial that was scored on all folds."""
        return next((row for row in self.trials if row["outcome"] == "scored"), None)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the row of a trial."""
        self.fill([*(known for known in self.trials if known["trial"] != row["trial"]), dict(row)])

    def fill(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show these trials."""
        order = ("scored", "pruned", "failed")
        self.trials = sorted(
            map(dict, rows), key=lambda row: (order.index(row["outcome"]), -(row.get("dice") or 0.0), row["trial"])
        )
        names = list(self.trials[0]["values"]) if self.trials else []
        self.setColumnCount(2 + len(names))
        self.setHorizontalHeaderLabels(
            ["Trial", "Dice", *(name.rpartition(".")[2].replace("_", " ") for name in names)]
        )
        self.setRowCount(len(self.trials))
        for place, row in enumerate(self.trials):
            cells = [str(row["trial"]), _dice(row), *(_short(row["values"][name]) for name in names)]
            for column, text in enumerate(cells):
                self.setItem(place, column, self._cell(text, row, best=row is self.best))
        height = self.horizontalHeader().sizeHint().height() + 4
        self.setFixedHeight(height + self.rowHeight(0) * min(_ROWS, max(1, len(self.trials))) + 14)

    def _cell(self, text: str, row: Mapping[str, Any], best: bool) -> QTableWidgetItem:
        item = QTableWidgetItem(text)
        item.setToolTip(str(row.get("error") or _found(row)))
        if best:
            font = item.font()
            font.setBold(True)
            item.setFont(font)
        return item


def _dice(row: Mapping[str, Any]) -> str:
    if row["outcome"] == "scored":
        return f"{row['dice']:.3f}"
    return _OUTCOMES.get(row["outcome"], row["outcome"])


def _found(row: Mapping[str, Any]) -> str:
    """The scores of a trial in words."""
    text = f"Dice of each fold: {', '.join(f'{dice:.3f}' for dice in row['folds'])}"
    if row.get("predicted") is not None:
        text += f"; predicted {row['predicted']:.3f} ± {row['predicted_deviation']:.3f}"
    return f"{text}."


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else label_of(value)
