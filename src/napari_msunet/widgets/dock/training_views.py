"""Views of a training: live curves, and on request windows, augmentations and scores."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyqtgraph as pg
from napari.utils.theme import get_theme
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QDialog, QLabel, QPushButton, QScrollArea, QVBoxLayout, QWidget

from napari_msunet.config import CrossValidateJob, PreviewAugmentationJob, TrainJob
from napari_msunet.config.training import MEAN_OF_SCALES, METRICS
from napari_msunet.constants import MEAN_COLOUR, output_colour
from napari_msunet.events import Metric, Result, StepMetrics
from napari_msunet.training.progress import TrainingHistory
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.fields import ChoiceField
from napari_msunet.widgets.dock.show_errors import notify_error, show_errors

if TYPE_CHECKING:
    from napari_msunet.config import Job
    from napari_msunet.widgets.jobs import JobHandle, Jobs
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import State
# ----------------------------------------------------------------------------------------------------------------------
# Live curves of a training: its loss and any other number by epoch, for the fused output, each scale, and their mean.

_REDRAW_MS = 150
_MEMORY = "memory_mb"
SHOWN = {name: words[:1].upper() + words[1:] for name, words in METRICS.items() if name != "loss"} | {
    _MEMORY: "Memory (MB)"
}
"""The numbers of which the second plot can show one."""

_TIPS = {
    "loss": "What training minimises: lower is better. Solid: validation; dashed: training; thin: each step of it.",
    "score": "Means over classes, 0 to 1: higher is better. Solid: validation; dashed: training.",
}


class Curves(QWidget):
    """Two plots, the loss above a number of choice; training is dashed, validation solid, and the best epoch is marked.

    A thin line is the fused output's number at each training step, where it is kept; a red one is the loss below which
    the training ends.

    `add` only stores a number; the plots are drawn a moment later, once for all numbers of an epoch.

    Parameters
    ----------
    theme : str
        napari's theme, whose colours the plots take.

    Attributes
    ----------
    outputs : tuple of str
        "fused", then one for each scale.
    history : TrainingHistory
        The numbers.
    choice : ChoiceField
        Which number the second plot shows, by its name in `SHOWN`.
    """

    def __init__(self, theme: str = "dark") -> None:
        super().__init__()
        self.outputs: tuple[str, ...] = ()
        self.history = TrainingHistory()
        self.plots: dict[str, pg.PlotWidget] = {}
        self.lines: dict[tuple[str, str, str], pg.PlotDataItem] = {}
        self.best: dict[str, pg.InfiniteLine] = {}
        self.steps: dict[str, pg.PlotDataItem] = {}
        self._dark, self._text = True, "#ffffff"
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REDRAW_MS)
        self._timer.timeout.connect(self.redraw)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        self.legend = QLabel()
        self.legend.setWordWrap(True)
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self.choice = ChoiceField(SHOWN)
        self.choice.setAccessibleName("Number in the second plot")
        self.choice.setToolTip("What the second plot shows: a score of the training, or the memory of each epoch.")
        self.choice.valueChanged.connect(lambda *_: self._choose())
        for name in ("loss", "score"):
            self.plots[name] = self._plot(name)
        self.threshold = pg.InfiniteLine(angle=0, pen=pg.mkPen("#d64550", width=1, style=Qt.PenStyle.DashLine))
        self.threshold.hide()
        self.plots["loss"].addItem(self.threshold)
        for widget in (self.plots["loss"], self.choice, self.plots["score"], self.legend):
            layout.addWidget(widget)
        self.set_theme(theme)
        self._choose()

    def number_in(self, plot: str) -> str:
        """The number that a plot ("loss" or "score") shows."""
        return "loss" if plot == "loss" else str(self.choice.value())

    def _plot(self, name: str) -> pg.PlotWidget:
        """An empty plot with its lines."""
        plot = pg.PlotWidget()
        plot.setFixedHeight(135)
        plot.setToolTip(_TIPS[name])
        plot.setMenuEnabled(False)
        plot.hideButtons()
        plot.setMouseEnabled(x=False, y=False)
        plot.showGrid(x=False, y=True, alpha=0.15)
        item = plot.getPlotItem()
        item.getAxis("left").setWidth(34)
        item.getAxis("bottom").setHeight(20)
        item.getAxis("bottom").setTickPen(None)
        if name == "loss":
            plot.setLimits(yMin=0)
        self.best[name] = pg.InfiniteLine(angle=90)
        self.best[name].hide()
        plot.addItem(self.best[name])
        self.steps[name] = pg.PlotDataItem(connect="finite", antialias=True, pen=pg.mkPen("#88888888", width=0.8))
        plot.addItem(self.steps[name])
        return plot

    def _choose(self) -> None:
        """Show the chosen number in the second plot."""
        name, plot = self.number_in("score"), self.plots["score"]
        if name == _MEMORY:
            plot.enableAutoRange("y", True)
        else:
            plot.setYRange(0, 1, padding=0.02)
        plot.setTitle(SHOWN[name], color=self._text, size="9pt")
        self.redraw()

    def restart(self, outputs: Sequence[str], history: TrainingHistory, threshold: float | None = None) -> None:
        """Show another training, with its numbers so far, and the loss below which it ends."""
        self.history = history
        self.threshold.setVisible(threshold is not None)
        if threshold is not None:
            self.threshold.setValue(threshold)
        outputs = (*outputs, MEAN_OF_SCALES) if len(outputs) > 2 else tuple(outputs)
        if tuple(outputs) != self.outputs:
            for (name, _, _), line in self.lines.items():
                self.plots[name].removeItem(line)
            self.outputs, self.lines = tuple(outputs), {}
            for name, plot in self.plots.items():
                for index, output in enumerate(self.outputs):
                    for split in ("train", "validation"):
                        line = pg.PlotDataItem(connect="finite", symbolSize=5, antialias=True)
                        line.setZValue(10 - index + (split == "validation"))  # the fused one on top
                        plot.addItem(line)
                        self.lines[name, split, output] = line
            self._colour_lines()
        self.redraw()

    def set_theme(self, theme: str) -> None:
        """Use the colours of a napari theme."""
        colours = get_theme(theme)
        ground, text = colours.background.as_hex(), colours.text.as_hex()
        self._text = text
        self._dark = sum(colours.background.as_rgb_tuple()[:3]) < 384
        for name, plot in self.plots.items():
            plot.setBackground(ground)
            for side in ("left", "bottom"):
                axis = plot.getPlotItem().getAxis(side)
                axis.setPen(text)
                axis.setTextPen(text)
            plot.setTitle("Loss" if name == "loss" else SHOWN[self.number_in(name)], color=text, size="9pt")
            self.best[name].setPen(pg.mkPen("#999999", width=1, style=Qt.PenStyle.DashLine))
        self._colour_lines()
        self.redraw()

    def _colour_lines(self) -> None:
        """Colour the lines; that of the fused output is the thickest."""
        for (_, split, output), line in self.lines.items():
            index = self.outputs.index(output)
            dashed = Qt.PenStyle.DashLine if split == "train" else Qt.PenStyle.SolidLine
            width = (2 if index == 0 else 1.3) * (0.8 if split == "train" else 1)
            line.setPen(pg.mkPen(self._colour(index), width=width, style=dashed))

    def _colour(self, index: int) -> str:
        mean = self.outputs[index] == MEAN_OF_SCALES
        return MEAN_COLOUR if mean else output_colour(index, self._dark)

    def add(self, metric: Metric | StepMetrics) -> None:
        """Add a number of an epoch, or those of its steps."""
        if isinstance(metric, Metric):
            self.history.add(metric)
        else:
            self.history.add_steps(metric)
        if not self._timer.isActive():
            self._timer.start()

    def redraw(self) -> None:
        """Bring the plots up to date."""
        for (name, split, output), line in self.lines.items():
            points = self.history.series.get((self.number_in(name), split, output), [])
            line.setData([e for e, _ in points], [v for _, v in points])
            line.setSymbol("o" if len(points) == 1 else None)
            if len(points) == 1:
                line.setSymbolBrush(self._colour(self.outputs.index(output)))
                line.setSymbolPen(None)
        for name, line in self.steps.items():
            points = self.history.steps.get(self.number_in(name), [])
            line.setData([place for place, _ in points], [v for _, v in points])
        best, epochs = self.history.best_epoch, self.history.epochs
        for name, plot in self.plots.items():
            plot.setXRange(0, max(epochs, 5) + 0.5, padding=0)  # from the first step on
            self.best[name].setVisible(best is not None)
            if best is not None:
                self.best[name].setValue(best)
        self.legend.setText(self._legend(best))

    def _legend(self, best: int | None) -> str:
        """The legend of colours and lines, in one or two lines."""
        parts = [
            f'<span style="color:{self._colour(i)}">&#9644;</span>&nbsp;{o.replace(" ", "&nbsp;")}'
            for i, o in enumerate(self.outputs)
        ]
        parts += ["&mdash;&nbsp;validation", "&#8209;&#8209;&nbsp;training"]
        if best is not None:
            parts.append(f"&#166;&nbsp;best:&nbsp;epoch&nbsp;{best}")
        return "<small>" + " &nbsp; ".join(parts) + "</small>"


# ----------------------------------------------------------------------------------------------------------------------
# Buttons that run a job and show its result in a dialog.


class Asking(QPushButton):
    """A button that sends a job to the worker and shows its result.

    Parameters
    ----------
    state, jobs, layers
        The parts of the dock that the button uses.
    text, waiting : str
        The text of the button, and its text while it waits.
    title : str
        The title of the window with the result.
    tip : str

    Attributes
    ----------
    shown : Signal()
        The result is shown.
    dialog : QDialog, optional
        The last window with a result.
    """

    shown = Signal()

    def __init__(self, state: State, jobs: Jobs, layers: Layers, text: str, waiting: str, title: str, tip: str) -> None:
        super().__init__(text)
        self.setToolTip(tip)
        self.state, self.jobs, self.layers = state, jobs, layers
        self.dialog: QDialog | None = None
        self.busy = False
        self._texts = text, waiting, title
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0
        self._handle: JobHandle | None = None

    def contents(self, result: Result) -> Sequence[QWidget]:
        """The widgets that show a result, from top to bottom."""
        raise NotImplementedError

    def new_folder(self) -> Path:
        """The folder of the next result; it is removed with the dock."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="msunet-asking-", ignore_cleanup_errors=True)
        self._count += 1
        return Path(self._folder.name) / str(self._count)

    def submit(self, job: Job, flush: Callable[[], None]) -> None:
        """Send the job once `flush` has run in a thread."""
        if self.busy or self.layers.closed:
            return
        self.busy = True
        self.setText(self._texts[1])
        self.setEnabled(False)
        self._handle = handle = self.jobs.submit(job, before=flush)
        handle.progress.connect(lambda event: self.setText(f"{self._texts[1]} {event.done} of {event.total}"))
        handle.result.connect(lambda event: self._show(self.contents(event)))
        handle.finished.connect(self._ended)

    def _ended(self, outcome: str, text: str | None) -> None:
        self._handle, self.busy = None, False
        self.setText(self._texts[0])
        self.setEnabled(True)
        if outcome == "error":
            notify_error(text or "There is no answer.")

    def _show(self, contents: Sequence[QWidget]) -> None:
        """Open a window with these widgets, from top to bottom."""
        dialog = QDialog(self.window())
        dialog.setWindowTitle(self._texts[2])
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        inside = QWidget()
        rows = QVBoxLayout(inside)
        for widget in contents:
            rows.addWidget(widget)
        area = QScrollArea()
        area.setWidget(inside)
        column = QVBoxLayout(dialog)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(area)
        inside.adjustSize()
        dialog.resize(min(inside.width() + 24, 1100), min(inside.height() + 24, 720))
        dialog.destroyed.connect(self._forget)
        dialog.show()
        self.dialog = dialog
        self.shown.emit()

    def _forget(self, *_: object) -> None:
        self.dialog = None

    def closing(self) -> None:
        """Stop listening, and close the window."""
        if self._handle is not None:
            self._handle.blockSignals(True)
        if self.dialog is not None:
            self.dialog.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class CrossValidation(Asking):
    """Scores the training of a model by cross-validation: each group is held out by one more training."""

    FOLDS = 3

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        tip = (
            "Everything trained, so nothing is left to score this model on. This trains three more models in the "
            "background, each without a third of the patients or slides, and scores each on what it has not seen."
        )
        super().__init__(
            state,
            jobs,
            layers,
            "Score it by cross-validation…",
            "Cross-validating…",
            "Scores of a cross-validation",
            tip,
        )
        self._background = Background("msunet-folds", self)

    def ask(self, job: TrainJob, flush: Callable[[], None]) -> None:
        """Cross-validate a training."""
        again = job.model_copy(update={"start": None, "replaces": None, "resume": False})
        self.submit(CrossValidateJob(training=again, folds=self.FOLDS, out=self.new_folder()), flush)

    def contents(self, result: Result) -> Sequence[QWidget]:
        """A table of mean and standard deviation over the folds, for the fusion and each scale."""
        mean, spread = result.values["mean"], result.values["std"]
        rows = [("", "Dice", "IoU")]
        for output, scores in mean.items():
            cells = (
                f"{scores[n]:.3f} ± {spread[output][n]:.3f}" if scores[n] is not None else "–" for n in ("dice", "iou")
            )
            rows.append((escape(output), *cells))
        cells_of = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        table = QLabel(
            f'<table cellpadding="4">{cells_of}</table>Mean ± standard deviation over {self.FOLDS} trainings, each on '
            "what it had not seen. The model you have learned from all, so it should be about as good or better."
        )
        table.setWordWrap(True)
        table.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        folder = Path(result.files["folds"]).parent
        use = QPushButton("Use one model of all folds")
        use.setToolTip("Writes the trained models as one, which predicts with the mean of their probabilities.")
        use.clicked.connect(show_errors(lambda *_: self.use_all_folds(folder)))
        return [table, use]

    def use_all_folds(self, folder: Path) -> None:
        """Write one model of all folds into the project, and choose it; returns at once."""
        out = self.state.make_project().model_path("all folds")

        def write() -> Path:
            from napari_msunet.training.comparison.fold_models import model_of_folds  # torch, beside the window

            return model_of_folds(folder, out)

        self._background.run(write, self.state.use_model)

    def closing(self) -> None:
        """Stop listening, let a model be written to its end, and close the window."""
        self._background.close()
        super().closing()


def picture(path: str | Path, name: str) -> QLabel:
    """A picture from a file."""
    label = QLabel()
    label.setPixmap(QPixmap(str(path)))
    label.setAccessibleName(name)
    return label


class WindowPreview(Asking):
    """Shows what each scale will see of some training windows, before anything is trained."""

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        tip = (
            "Shows some training windows as each scale will see them, as they are and after the random changes set "
            "under Advanced. Nothing is trained."
        )
        super().__init__(state, jobs, layers, "See the windows…", "Reading windows…", "What each scale will see", tip)

    def ask(self, job: TrainJob, flush: Callable[[], None]) -> None:
        """Ask for some windows of a training."""
        self.submit(PreviewAugmentationJob(training=job, count=3, variants=2, out=self.new_folder()), flush)

    def contents(self, result: Result) -> Sequence[QWidget]:
        """The picture."""
        path = next(p for p in result.files.values() if str(p).endswith(".png"))
        return [picture(path, "Training windows")]


class Scores(Asking):
    """Scores the chosen model on the images with the role test, and shows the numbers and the best and worst image."""

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        tip = (
            "Scores the model on the slides and folders that have the role test in the Annotate step: numbers for the "
            "fusion and each scale, the best, the median and the worst image, and whether its probabilities are honest."
        )
        super().__init__(state, jobs, layers, "Score on test images…", "Scoring…", "Scores on the test images", tip)

    def ask(self, flush: Callable[[], None]) -> None:
        """Score the model of the dock."""
        self.state.count_annotations()
        self.submit(resolve.evaluate_job(self.state, out=self.new_folder()), flush)

    def contents(self, result: Result) -> Sequence[QWidget]:
        """A table, and the pictures below it."""
        table = QLabel(scores_table(result.values))
        table.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        pictures = [picture(result.files[n], n) for n in ("panels", "calibration") if n in result.files]
        return [table, *pictures]


def scores_table(values: dict[str, Any]) -> str:
    """The pooled scores of each output and class as HTML, and the interval of the fused Dice."""
    columns = ("dice", "iou", "precision", "recall")
    rows = ["<tr><th align='left'>Output</th><th align='left'>Class</th>" + "".join(f"<th>{c}</th>" for c in columns)]
    for output, scores in values["pooled"].items():
        for label, row in scores["classes"].items():
            cells = "".join(f"<td>{'-' if row[c] is None else format(row[c], '.3f')}</td>" for c in columns)
            rows.append(f"<tr><td>{escape(output)}</td><td>{escape(label)}</td>{cells}")
    low_high = values["intervals"]["dice"]["pooled"]
    count = len(values["images"])
    sure = f", 95 % of the fused Dice {low_high[0]:.3f} to {low_high[1]:.3f}" if low_high else ""
    return f"<p>{count} image{'s' * (count != 1)}{sure}</p><table cellspacing='6'>{''.join(rows)}</table>"
