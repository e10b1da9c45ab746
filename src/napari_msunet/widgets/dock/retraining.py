"""Continuing from the last model, retraining on corrections, and the comparison on the frozen test images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_msunet.app.retraining import JOB, MODEL, REPLAY, retraining_job, same_truth
from napari_msunet.config import ModelConfig, TrainJob
from napari_msunet.config.model import architecture_differences
from napari_msunet.errors import MsunetError
from napari_msunet.events import Result
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.model_card import model_config
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.state import TrainChoices

if TYPE_CHECKING:
    from napari_msunet.config import AnyModel
    from napari_msunet.widgets.state import State
_TIP = (
    "Training begins with the weights of the model that predicts now, instead of random ones: a few minutes are often "
    "enough. Classes are matched by name; its normalisation is kept."
)


@dataclass(frozen=True)
class _Last:
    """The model that predicts now: its config, why training cannot continue from it (or None), and the job of its
    run."""

    path: Path
    config: ModelConfig
    obstacle: str | None
    job: TrainJob | None


class ContinueTraining(QWidget):
    """The tick "Go on from the last model", and the jobs that follow from it. It is on by default where corrections
    count.

    Parameters
    ----------
    state : State
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state
        self._read: tuple[tuple[Path, int], tuple[ModelConfig | None, TrainJob | None]] | tuple[None, None] = (
            None,
            None,
        )
        self.tick = QCheckBox("Go on from the last model")
        self.tick.clicked.connect(self._clicked)
        self.why = QLabel()
        self.why.setObjectName("note")
        self.why.setWordWrap(True)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.tick)
        column.addWidget(self.why)
        self.refresh()

    @property
    def on(self) -> bool:
        """Whether training begins with the last model's weights; known even if the step was never opened."""
        last = self._last()
        wanted = self._corrected() if self.state.go_on is None else self.state.go_on
        return wanted and last is not None and last.obstacle is None

    def refresh(self) -> None:
        """Show the present state."""
        last = self._last()
        self.setVisible(last is not None)
        obstacle = None if last is None else last.obstacle
        self.tick.setEnabled(last is not None and obstacle is None)
        self.tick.setToolTip(_TIP if obstacle is None else obstacle)
        wanted = self._corrected() if self.state.go_on is None else self.state.go_on
        self.tick.setChecked(wanted and self.tick.isEnabled())
        self.why.setText(obstacle or "")
        self.why.setVisible(bool(obstacle) and wanted)

    def _clicked(self, on: bool) -> None:
        self.state.go_on = on
        self.state.emit("train")

    def _corrected(self) -> bool:
        return any(record.corrections and record.labels for record in self.state.slides)

    def _last(self) -> _Last | None:
        """The model that predicts now; its files are read once."""
        path = self.state.model_path
        if path is None or not path.is_file():
            return None
        key = path, path.stat().st_mtime_ns
        if self._read[0] != key:
            job, config = None, None
            try:
                config = model_config(path)
                if path.name == MODEL:
                    job = TrainJob.model_validate_json((path.parent / JOB).read_bytes())
            except (MsunetError, OSError, ValueError):
                pass  # the model lies outside its run, or the file is no model
            self._read = key, (config, job)
        config, job = self._read[1]
        if config is None:
            return None
        differing = architecture_differences(self._model(job, config), config)
        obstacle = None
        if differing:
            differs = f"The model of the Model step differs from the last ({differing[0]})"
            obstacle = f"{differs}: it begins with random weights."
        return _Last(path, config, obstacle, job)

    def _model(self, job: TrainJob | None, loaded: ModelConfig) -> AnyModel:
        """The model to train: that of the Model step if the person chose one, else that of the last run or model
        file."""
        if self.state.model_chosen:
            return self.state.model
        if job is None:
            return loaded.model_copy(update={"classes": self.state.classes})
        if not self.state.sets and not any(record.annotation for record in self.state.slides):
            return job.model  # no classes were named in this dock
        return job.model.model_copy(update={"classes": self.state.classes})

    def job(self, out: Path | None = None) -> TrainJob:
        """The training of the Train button.

        Where corrections count or the tick is on, it continues from the last run and replaces its model. Otherwise it
        is the training that the dock describes.

        Raises
        ------
        MsunetError
            If anything is missing.
        """
        self.state.count_annotations()  # annotations on slides that were never shown count too
        plain = resolve.train_job(self.state, out)
        last = self._last()
        if last is None or not (self.on or self._corrected()):
            return plain
        if last.job is None:
            update = {"start": last.path if self.on else None, "replaces": last.path, "replay": REPLAY}
            return plain.model_copy(update=update | {"model": self._model(None, last.config)})
        return self._from(last.job, last, plain)

    def _from(self, before: TrainJob, last: _Last, plain: TrainJob) -> TrainJob:
        """The job that `retraining_job` makes from the earlier run, with the dock's options."""
        folder = last.path.parent
        ours = self.state.project is not None and self.state.project.folder in folder.parents
        # After a run of this project, sources that were removed from the dock since are left out. The sources of a run
        # of another project are all used again.
        sources = [s for s in before.sources if not ours or any(same_truth(s, now) for now in plain.sources)]
        before = before.model_copy(update={"out": folder, "sources": tuple(sources)})
        options = {name: getattr(plain, name) for name in TrainChoices.model_fields} | {
            "model": self._model(before, last.config)
        }
        return retraining_job(before, plain.sources, plain.out, start=self.on, **options)


class ModelComparisonBox(QWidget):
    """Shows how the last training did on the frozen test images; a worse model is only used if the person says so."""

    use_wanted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._model: Path | None = None
        self.text = QLabel()
        self.text.setWordWrap(True)
        self.use = QPushButton("Use the new model all the same")
        self.use.setToolTip("Predicts with the new model from now on, though it did worse on the test images.")
        self.use.clicked.connect(show_errors(lambda *_: self._use()))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.text)
        column.addWidget(self.use)
        self.hide()

    def judge(self, result: Result | None, model: Path) -> Path:
        """Show the verdict in a training's result, if there is one; gives the model to use from now on."""
        guard = (result.values if result is not None else {}).get("guard")
        self._model = model
        self.setVisible(guard is not None)
        if guard is None:
            return model
        worse = guard["keep"] == "old"
        self.text.setObjectName("problem" if worse else "note")
        self.text.style().unpolish(self.text)
        self.text.style().polish(self.text)
        self.text.setText(guard["text"])
        self.use.setVisible(worse)
        return Path(guard["old_model"]) if worse else model

    def _use(self) -> None:
        self.use.hide()
        self.use_wanted.emit(self._model)
