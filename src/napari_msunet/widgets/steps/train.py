"""The Train step: checking the data, and starting, watching, stopping and continuing a training.

What is missing before a training can start, and so whether its button can be clicked, is decided in `widgets.resolve`.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from napari_msunet._io import read_rows
from napari_msunet.config import AutoModel, TrainJob
from napari_msunet.config.training import METRICS, watched_metric
from napari_msunet.data.recipe import EPOCHS
from napari_msunet.errors import MsunetError
from napari_msunet.events import Metric, Result, StepMetrics
from napari_msunet.training.progress import Finding, TrainingHistory, check_progress, does_context_help, how_sure
from napari_msunet.training.record import column, measured
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock import section
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.job_box import Choice, JobBox
from napari_msunet.widgets.dock.model_card import model_summary
from napari_msunet.widgets.dock.python_lines import job_lines
from napari_msunet.widgets.dock.retraining import ContinueTraining, ModelComparisonBox
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.dock.training_views import CrossValidation, Curves, Scores, WindowPreview
from napari_msunet.widgets.forms import Fold, Form
from napari_msunet.widgets.state import changed
from napari_msunet.widgets.steps.step import Step
from napari_msunet.widgets.training.context_panel import ContextPanel
from napari_msunet.widgets.training.estimate import TrainingEstimate
from napari_msunet.widgets.training.experiment_panel import ExperimentPanel
from napari_msunet.widgets.training.live_preview import LivePreview
from napari_msunet.widgets.training.search_panel import SearchPanel
from napari_msunet.wording import in_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_msunet.events import Event
    from napari_msunet.widgets.jobs import JobHandle, Jobs
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import State
_CHOICES = (
    Choice("Stop and keep the best model", "The model of the epoch that validated best.", "best"),
    Choice("Stop and keep the last model", "The model as it is now.", "last"),
    Choice("Stop and throw it away", "Nothing of this training is kept.", "none"),
)
_CHECK_MS = 600
_AGAIN_MS = 4000
"""Time after which a check that found an error looks again."""
_CHECK_HEIGHT = 118
_CHECKING = "Checking your data…"
_PROBLEM_MS = 300
_MARKS = {"ok": "✓", "warning": "!", "error": "✗"}


class TrainStep(Step):
    """Trains the model of the Model step on all annotated slides and folders."""

    name = "train"
    title = "Train"
    purpose = "The model learns from what you annotated. It runs beside napari: you can go on working."

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        super().__init__(state, jobs, layers)
        self.form = Form(self.state.train_options)
        # never squeezed where the dock is just too low: its rows would move once there is a little more room
        self.form.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.form.valueChanged.connect(self.state.set_train_options)
        self.needed = self.note()
        self.findings: list[Finding] = []
        self.checks = QLabel()
        self.checks.setWordWrap(True)
        self.checks.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.checks.setToolTip("Findings about this training, from your data and this computer.")
        self.interrupted = QLabel()
        self.interrupted.setObjectName("problem")
        self.interrupted.setWordWrap(True)
        self.reserved = self._reserved()
        self.going_on = ContinueTraining(self.state)
        self.verdict = ModelComparisonBox()
        self.verdict.use_wanted.connect(self.state.use_model)
        self.start = QPushButton("Train")
        self.start.setObjectName("primary")
        self.start.clicked.connect(show_errors(lambda *_: self.train()))
        self.go_on = QPushButton("Continue")
        self.go_on.clicked.connect(show_errors(lambda *_: self.resume()))
        self.windows = WindowPreview(state, jobs, layers)
        self.windows.clicked.connect(
            show_errors(lambda *_: self.windows.ask(self._job(Path("windows")), self._stores_flusher()))
        )
        self.crossval = CrossValidation(state, jobs, layers)
        self.crossval.clicked.connect(show_errors(lambda *_: self.cross_validate()))
        self.test = Scores(state, jobs, layers)
        self.test.clicked.connect(show_errors(lambda *_: self.test.ask(self._stores_flusher())))
        self.search = SearchPanel(state, jobs, self._stores_flusher)
        self.searching = Fold(
            "Search for the best options", "Tries many trainings, and scores each on what it has not seen."
        )
        self.searching.inside.addWidget(self.search)
        self.experiment = ExperimentPanel(state, jobs, self._stores_flusher)
        self.comparing = Fold(
            "Compare variants", "Trains variants in the same time, and scores what they had not seen."
        )
        self.comparing.inside.addWidget(self.experiment)
        self.context = ContextPanel(state, jobs, self._stores_flusher)
        self.asking = Fold(
            "Does context help here?", "Compares one scale with several in the same time, and says which to use."
        )
        self.asking.inside.addWidget(self.context)
        self.box = JobBox(state, jobs, "train", _CHOICES)
        self.box.happened.connect(self._happened)
        self.box.ended.connect(self._ended)
        self.live = LivePreview(state, jobs, layers)
        self.estimate = TrainingEstimate(jobs)
        self.estimate.told.connect(self._timed)
        self.curves = Curves(self.viewer.theme)
        self.curves.hide()
        self.problems = QLabel()
        self.problems.setObjectName("problem")
        self.problems.setWordWrap(True)
        self.scores = QLabel()
        self.scores.setWordWrap(True)
        self._lay_out()
        self._background = Background("msunet-checks", self)
        self._checked: tuple[object, ...] | None = None
        self._check_timer = self._timer(_CHECK_MS, self._check)
        self._problem_timer = self._timer(_PROBLEM_MS, self._look)
        self.viewer.events.theme.connect(self._restyle)

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.addWidget(self.start, 2)
        row.addWidget(self.go_on, 1)
        self.body.addLayout(row)  # on top, so that nothing that comes or goes can move it
        self.body.addWidget(self.estimate)
        self.body.addWidget(self.live)
        for widget in (self.reserved, self.box, self.verdict, self.problems, self.scores, self.crossval, self.curves):
            self.body.addWidget(widget)
        for widget in (self.going_on, self.form, self.windows, self.searching, self.comparing, self.asking, self.test):
            self.body.addWidget(widget)
        for label in (self.problems, self.scores, self.crossval):
            label.hide()

    def _reserved(self) -> QScrollArea:
        """The place for what is missing and for the findings of the check; it is kept also while they are not known,
        so that nothing below it moves when they come."""
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFixedHeight(_CHECK_HEIGHT)
        area.setAccessibleName("What the check found")
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 0)
        for widget in (self.needed, self.interrupted, self.checks):
            column.addWidget(widget)
        column.addStretch(1)
        area.setWidget(inside)
        return area

    def _timer(self, milliseconds: int, method: Callable[[], None]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(milliseconds)
        timer.timeout.connect(method)
        return timer

    # -------------------------------------------------------------------------------------------------------- showing

    def refresh(self) -> None:
        missing = self.missing()
        if self.form.value() != self.state.train_options:
            self.form.setValue(self.state.train_options)
        self.needed.setText(missing or "")
        self.needed.setVisible(missing is not None)
        free = resolve.blocked_by(self.state, "train") is None
        self.going_on.refresh()
        for panel in (self.search, self.experiment, self.context):
            panel.refresh()
        self.interrupted.setText(self._interrupted_words())
        self.interrupted.setVisible(bool(self.interrupted.text()))
        # while something runs, options cannot be changed, and curves and tables need the room
        running = any(box.running for box in self._boxes())
        for widget in (self.form, self.windows, self.reserved):
            widget.setVisible(not running)
        self.windows.setEnabled(missing is None and free and not self.windows.busy)
        tested = self.state.model_path is not None and any(s.role == "test" for s in resolve.sources(self.state))
        self.test.setVisible(tested)
        self.test.setEnabled(free and not self.test.busy)
        self.start.setEnabled(missing is None and free)
        self.start.setToolTip(missing or "Starts the training; what is painted until now counts.")
        last = None if self.box.running else self.last_run()
        self.go_on.setEnabled(last is not None and free)
        self.go_on.setToolTip(
            f"Goes on with the training of {last.name}, with the time and epochs given above."
            if last
            else "Goes on with a training that was stopped or came to its end; there is none yet."
        )
        self.reserved.setVisible(not self.box.running)
        for label in (self.estimate, self.live.says):  # so that nothing below them moves; the font is that of the style
            label.setFixedHeight(2 * label.fontMetrics().lineSpacing() + 10)  # two lines and napari's padding
        if self.estimate.measuring and (self.state.running or missing is not None):
            self.estimate.stop()
            self._checked = None
        self.checks.setVisible(missing is None)
        if missing is None and not self.box.running:
            self._check_timer.start(_CHECK_MS)

    def _interrupted_words(self) -> str:
        """A sentence about the training that was under way when the project was left."""
        folder = self.state.training
        if folder is None or resolve.interrupted(self.state) is None:
            return ""
        epochs = read_history(folder, ("fused",)).epochs
        return f"The training of {folder.name} was interrupted after {epochs} epochs: Continue goes on with it."

    def summary(self) -> str:
        running = next((box for box in self._boxes() if box.running), None)
        return running.bar.format() if running else ""

    def _boxes(self) -> tuple[JobBox, ...]:
        """The boxes of all jobs of this step."""
        return self.box, self.search.box, self.experiment.box, self.context.box

    def _restyle(self, event: object = None) -> None:
        self.curves.set_theme(self.viewer.theme)
        self._checked = None

    def _check(self) -> None:
        """Check the data in the background, unless nothing has changed since the last check."""
        if self.box.running or not self.isVisible() or self._background.busy:
            if self._background.busy:
                self._check_timer.start()
            return
        try:
            job = self._job(Path("checked"))
        except MsunetError as error:
            self._show_findings([Finding("error", str(error))])
            return
        key = (job, tuple((r.path, str(r.counts), r.marked, r.edited) for r in self.state.slides), self.last_run())
        if key == self._checked:
            return
        if self._checked is None or self._checked[0] != job:
            self.checks.setText(_CHECKING)  # what was found before need not hold any more
        self._checked = key
        runs = self.state.project.folder / "runs" if self.state.project else None
        rate = self.estimate.rate

        def look() -> list[Finding]:
            from napari_msunet.training.prepare import check  # reading images is imported beside the window

            return check(job, runs, devices=False, rate=rate)

        self._background.run(look, lambda findings: self._found(job, findings))

    def _found(self, job: TrainJob, findings: list[Finding]) -> None:
        """Show what the check has found; where it cannot tell the time of a step, some are tried."""
        self._show_findings(findings)
        possible = not any(finding.level == "error" for finding in findings)
        if possible and any(finding.about == "time unknown" for finding in findings) and not self.state.running:
            self.estimate.measure(job, self._stores_flusher())

    def _timed(self) -> None:
        """The time of a step is known now."""
        self._checked = None
        self._check_timer.start(0)

    def _show_findings(self, findings: list[Finding]) -> None:
        self.estimate.show_time(next((finding for finding in findings if finding.about), None))
        colours = section.colours(self.viewer.theme)
        tints = {"ok": colours["done"], "warning": colours["warning"], "error": colours["warning"]}
        shown = [finding for finding in findings if not finding.about]  # the time has a place of its own
        rows = [
            f'<tr><td style="color:{tints[f.level]}; padding-right:6px"><b>{_MARKS[f.level]}</b></td>'
            f"<td>{escape(in_labels(f.text))}</td></tr>"
            for f in sorted(shown, key=lambda f: ("error", "warning", "ok").index(f.level))
        ]
        self.findings = findings
        self.checks.setText(f'<table cellspacing="0" cellpadding="1">{"".join(rows)}</table>')
        if any(
            finding.level == "error" for finding in findings
        ):  # a mark goes when its cause does, such as a full disk
            self._checked = None
            self._check_timer.start(_AGAIN_MS)

    # ------------------------------------------------------------------------------------------------------- training

    def _job(self, out: Path | None = None) -> TrainJob:
        """The job that the button starts."""
        return self.going_on.job(out)

    def train(self, **options: object) -> JobHandle:
        """Train on all sources; returns at once, with the `JobHandle`.

        Parameters
        ----------
        **options
            Other values for fields of `state.train_options`, such as ``epochs=20`` or ``time_limit=300``.
        """
        if options:
            self.state.set_train_options(changed(self.state.train_options, **options))
        return self._begin(self._job(), TrainingHistory())

    def resume(self) -> JobHandle:
        """Continue the newest training, with the time limit and epochs of the fields; returns at once."""
        folder = self.last_run()
        if folder is None:
            raise MsunetError("There is no training to go on with; start one with Train.")
        job = TrainJob.model_validate_json((folder / "job.json").read_bytes())
        history = read_history(folder, job.model.outputs)
        options = self.state.train_options
        epochs = options.epochs
        if epochs is not None and history.epochs >= epochs:
            epochs += history.epochs
        elif epochs is None and options.time_limit is None:
            epochs = history.epochs + EPOCHS
        update = {"resume": True, "out": folder, "epochs": epochs, "time_limit": options.time_limit}
        return self._begin(job.model_copy(update=update), history)

    def _begin(self, job: TrainJob, history: TrainingHistory) -> JobHandle:
        self.estimate.stop()  # which the training would have to wait for
        handle = self.box.start(
            job, "Preparing: the worker loads images and annotations.", before=self._stores_flusher()
        )
        outputs = ("fused", "scale 1") if isinstance(job.model, AutoModel) else job.model.outputs
        history.decides = watched_metric(job.optimiser.best_metric)
        self.state.training = job.out
        self.state.emit("train")
        self.live.begin(job)
        self.curves.restart(outputs, history, job.optimiser.stop_loss)
        self.curves.show()
        for widget in (self.verdict, self.problems, self.scores, self.crossval):
            widget.hide()
        return handle

    def _stores_flusher(self) -> Callable[[], None]:
        """A function that flushes all strokes: they are safe in the journal, but the worker reads the chunks."""
        from napari_msunet.labels import open_labels

        found = [
            path
            for record in self.state.slides
            for path in (record.annotation, record.labels if record.corrections else None, record.tissue)
            if path is not None and path.exists()
        ]

        def flush() -> None:
            for path in found:
                open_labels(path).flush()

        return flush

    def cross_validate(self) -> None:
        """Score the last training by a cross-validation, in the background."""
        folder = self.last_run()
        if folder is None:
            raise MsunetError("There is no training to score; start one with Train.")
        job = TrainJob.model_validate_json((folder / "job.json").read_bytes())
        self.crossval.ask(job, self._stores_flusher())

    def last_run(self) -> Path | None:
        """The newest run of the project that can be continued."""
        if self.state.project is None:
            return None
        if resolve.interrupted(self.state) is not None:
            return self.state.training
        found = [p.parent for p in (self.state.project.folder / "runs").glob("*/last.ckpt")]
        return max(found, key=lambda p: (p / "last.ckpt").stat().st_mtime, default=None)

    def _happened(self, event: Event) -> None:
        self.live.happened(event)
        if isinstance(event, Metric | StepMetrics):
            self.curves.add(event)
            if not self._problem_timer.isActive():
                self._problem_timer.start()
        elif isinstance(event, Result):
            self._show_scores(event.values)

    def _look(self) -> None:
        """Show the problems of the running training."""
        if not self.box.running:
            return
        found = check_progress(self.curves.history, self.box.job.model.classes)
        self.problems.setText("\n".join(f.text for f in found))
        self.problems.setVisible(bool(found))

    def _ended(self, outcome: str, result: Result | None) -> None:
        model = self.box.job.out / "model.safetensors"
        if outcome != "lost":  # the worker died: what it has done can be continued
            self.state.training = None
        thrown = outcome == "cancelled" and self.box.kept == "none"
        self.live.end(model if model.is_file() and not thrown else None)
        if thrown:
            self.box.say("The training was thrown away.")
            self.curves.hide()
            self.problems.hide()
        elif model.is_file():
            if result is None:
                self._show_scores(model_summary(model))
            chosen = self.verdict.judge(result, model)
            self.state.take_trained(chosen)
            if chosen != model:
                self.box.say("Done: the old model stays the chosen one.")
            elif outcome in ("done", "cancelled"):
                last = outcome == "cancelled" and self.box.kept == "last"
                word = "Done" if outcome == "done" else "Stopped"
                self.box.say(f"{word}: the {'last' if last else 'best'} model is ready to predict.")
        self._checked = None

    def _show_scores(self, values: dict[str, Any]) -> None:
        """Show the scores of the kept model, fused and per scale."""
        side = "validation" if values.get("validation") else "train"
        scores = values.get(side) or {}
        if not scores:
            return
        self.crossval.setVisible(side == "train")
        if side == "train":
            self.scores.setText(
                "<b>Not scored</b>: everything that is annotated trained, so nothing was left to judge by."
            )
            self.scores.show()
            return
        cells = [(f"{side.capitalize()}, epoch {values.get('best_epoch', '?')}", "IoU", "loss")]
        for name, numbers in scores.items():
            shown = f"<b>{escape(name)}</b>" if name == "fused" else escape(name)
            cells.append((shown, _number(numbers.get("iou")), _number(numbers.get("loss"))))
        rows = "".join(
            f'<tr><td>{a}</td><td align="right">{b}</td><td align="right">{c}</td></tr>' for a, b, c in cells
        )
        groups = values.get("validation_groups") or {}
        sentence = f"{how_sure(groups.get('fused', {}))} {does_context_help(scores, groups)}"
        self.scores.setText(f'<table cellpadding="3" width="100%">{rows}</table>{escape(sentence)}')
        self.scores.show()

    def as_python(self) -> str:
        """The training as Python; with the search, the experiment or the study unfolded, that."""
        folds = ((self.searching, self.search), (self.comparing, self.experiment), (self.asking, self.context))
        for fold, panel in folds:
            if fold.button.isChecked():
                return panel.as_python()
        return job_lines(self._job(self.state.project_folder() / "runs" / "run 1"))

    def closing(self) -> None:
        self._check_timer.stop()
        self._problem_timer.stop()
        self._background.close()
        self.box.closing()
        for panel in (self.search, self.experiment, self.context):
            panel.closing()
        self.live.closing()
        self.estimate.stop()
        self.windows.closing()
        self.test.closing()
        self.crossval.closing()
        self.viewer.events.theme.disconnect(self._restyle)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def read_history(folder: Path, outputs: tuple[str, ...]) -> TrainingHistory:
    """The epochs in the metrics.csv of a run."""
    history = TrainingHistory()
    path = folder / "metrics.csv"
    if not path.is_file():
        return history
    named = {
        column(split, name, output): {"name": name, "split": split, "output": output}
        for split in ("train", "validation")
        for name in METRICS
        for output in measured(outputs)
    } | {"memory_mb": {"name": "memory_mb", "split": "train"}}
    for row in read_rows(path)[1]:
        for key, of in named.items():
            if value := row.get(key):
                history.add(Metric(epoch=int(float(row["epoch"])), value=float(value), **of))
    return history
