"""The dock "Multi-scale U-Net": from a slide to exported labels, step by step."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_info
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import (
    QApplication,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_msunet.app.shipped import shipped_model
from napari_msunet.config import PredictJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import View
from napari_msunet.slide.probing import PROBE
from napari_msunet.widgets import keys, resolve
from napari_msunet.widgets.dock.active_slide import ActiveSlideView
from napari_msunet.widgets.dock.annotation_counting import AnnotationCounter
from napari_msunet.widgets.dock.job_box import JobBox
from napari_msunet.widgets.dock.project_sync import remember
from napari_msunet.widgets.dock.section import WIDTH, Section, stylesheet
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.jobs import JobHandle, Jobs
from napari_msunet.widgets.layer_slides import slide_of
from napari_msunet.widgets.layers import Layers
from napari_msunet.widgets.napari_internals import drop_brush_box, dropped_on, main_window
from napari_msunet.widgets.placement import visible_region
from napari_msunet.widgets.reader import chosen, is_project
from napari_msunet.widgets.samples import annotated_copy
from napari_msunet.widgets.slides.bring_back import note_view
from napari_msunet.widgets.slides.first_try import piece_to_try
from napari_msunet.widgets.state import STEPS, State, StepName
from napari_msunet.widgets.steps.step import Step

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image
    from qtpy.QtGui import QDragEnterEvent, QDropEvent

    from napari_msunet.config import ModelConfig
    from napari_msunet.geometry import Region
    from napari_msunet.widgets.paint import PyramidLabels
# ----------------------------------------------------------------------------------------------------------------------
# The viewport: running predictions compute first what is on the screen, also after the view has moved.


def view_of(layers: Layers, slide: Path) -> View | None:
    """The part of a slide that is on the screen, in its level-0 pixels; None where none is."""
    record = layers.state.slide_at(slide)
    if record is None:
        return None
    try:
        seen = visible_region(layers.viewer, layers.need_slide(record))
    except MsunetError:  # it is not in view, or its layer was removed
        return None
    return seen.y, seen.x, seen.height, seen.width


class Viewport:
    """Follows the camera of a dock's viewer for as long as the dock lives.

    Parameters
    ----------
    jobs : Jobs
        Gets the view, and limits how often it is sent on.
    layers : Layers
    """

    def __init__(self, jobs: Jobs, layers: Layers) -> None:
        self._layers = layers
        self._jobs = jobs
        # before napari 0.9 the camera was the viewer's own
        self._camera = getattr(layers.viewer, "scene", layers.viewer).camera.events
        for event in (self._camera.center, self._camera.zoom):
            event.connect(self._tell)
        jobs.started.connect(self._tell)
        jobs.view_of = lambda slide: view_of(layers, slide)

    def close(self) -> None:
        """Stop following the camera."""
        for event in (self._camera.center, self._camera.zoom):
            event.disconnect(self._tell)
        self._jobs.started.disconnect(self._tell)
        self._jobs.view_of = None

    def _tell(self, _: object = None) -> None:
        """Send running predictions the view of their own slide, whichever slide is active."""
        slides = {handle.job.slide for handle in self._jobs.jobs if isinstance(handle.job, PredictJob)}
        for slide in slides:
            self._jobs.look(view_of(self._layers, slide), slide)


# ----------------------------------------------------------------------------------------------------------------------
# The dock.

_ADVICE_LINES = 3

WARMING = ("model", "train", "predict", "correct")
"""Opening one of these steps starts the worker process."""


def _step_classes() -> list[type[Step]]:
    """The steps' classes in order: `SlideStep` in ``steps/slide.py`` and so on."""
    found = []
    for name in STEPS:
        try:
            module = importlib.import_module(f"napari_msunet.widgets.steps.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"napari_msunet.widgets.steps.{name}":
                raise
            continue
        found.append(getattr(module, f"{name.capitalize()}Step"))
    return found


def _dropped(event: QDropEvent) -> list[Path]:
    """The files and folders that are dropped."""
    return [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]


class MultiScaleUNet(QWidget):
    """The dock widget.

    In the console, its methods do what its buttons do; they raise `MsunetError` where a button shows a notification.

    Parameters
    ----------
    viewer : napari.viewer.Viewer

    Attributes
    ----------
    state : State
        All that the dock knows: slides, sources, model, options, results.
    steps : dict of Step
        By name: "slide", "annotate", "model", "train", "predict", "correct", "review", "export".
    jobs : Jobs
        Runs jobs in the worker process.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        # napari gives a plugin's widget a proxy that hides the window; the callbacks of layers know the viewer itself
        self.viewer = viewer = getattr(viewer, "__wrapped__", viewer)
        drop_brush_box(viewer)
        self.state = State(exclusive=True)
        self.layers = Layers(viewer, self.state)
        self.counting = AnnotationCounter(self.state, self)
        # These objects get a parent: otherwise Python may delete them, and their timers, in any thread that collects
        # garbage.
        self.jobs = Jobs(self)
        self._viewport = Viewport(self.jobs, self.layers)
        PROBE.start()
        self.setObjectName("Multi-scale U-Net")
        self.setAcceptDrops(True)
        self.setMinimumWidth(WIDTH)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self.steps: dict[str, Step] = {}
        self.sections: dict[str, Section] = {}
        self._build()
        self._refreshing = QTimer(self)
        self._refreshing.setSingleShot(True)
        self._refreshing.setInterval(0)
        self._refreshing.timeout.connect(self.refresh)
        self._saving = QTimer(self)
        self._saving.setSingleShot(True)
        self._saving.setInterval(500)
        self._saving.timeout.connect(show_errors(self.save_project))
        self.state.changed.connect(self._changed)
        self.state.wanted.connect(self.show_step)
        self.steps["slide"].first_try.wanted.connect(show_errors(lambda: self.try_shipped_model()))
        self.steps["export"].numbers.table_wanted.connect(show_errors(self._show_objects))
        self.steps["correct"].train_wanted.connect(show_errors(self._train_on_corrections))
        for layer in list(viewer.layers):  # layers that were there before the dock
            self.steps["annotate"].take(layer)
        self.counting.scan_new()
        viewer.events.theme.connect(self._restyle)
        main_window(viewer).installEventFilter(self)
        dropped_on(viewer).installEventFilter(self)
        self._relay = keys.KeyRelay(self)
        self._restyle()
        self.shown = ActiveSlideView(self.state, self.layers, self)
        self.refresh()
        self.show_step(resolve.next_step(self.state))
        QApplication.instance().aboutToQuit.connect(self.shut_down)

    # --------------------------------------------------------------------------------------------------------- layout

    def _build(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 6, 0, 6)
        column.setSpacing(6)
        column.addWidget(self._advice_bar())
        inner = QWidget()
        self._list = QVBoxLayout(inner)
        self._list.setContentsMargins(0, 0, 6, 0)
        self._list.setSpacing(0)
        for kind in _step_classes():
            step = kind(self.state, self.jobs, self.layers)
            section = Section(STEPS.index(step.name) + 1, step)
            section.toggled.connect(lambda opened, name=step.name: self._toggled(name, opened))
            section.copy_wanted.connect(lambda name=step.name: self.copy_python(name))
            if isinstance(box := getattr(step, "box", None), JobBox):
                box.changed.connect(section.show_summary)
            self.steps[step.name], self.sections[step.name] = step, section
            self._list.addWidget(section)
        self._list.addStretch(1)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setFrameShape(QFrame.Shape.NoFrame)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setWidget(inner)
        column.addWidget(self._scroll, 1)

    def _advice_bar(self) -> QFrame:
        bar = QFrame()
        bar.setObjectName("msunet_advice")
        column = QVBoxLayout(bar)
        column.setContentsMargins(8, 4, 6, 4)
        column.setSpacing(2)
        self.advice = QLabel()
        self.advice.setWordWrap(True)
        self.advice.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.advice.setAccessibleName("What to do next")
        row = QHBoxLayout()
        self.go = QPushButton()
        self.go.setToolTip("Opens the step to do next.")
        self.go.clicked.connect(lambda: self.show_step(resolve.next_step(self.state)))
        where = QPushButton("⚙")
        where.setAccessibleName("Where jobs run")
        where.setToolTip("Where jobs run: this computer, or another one over ssh.")
        where.setFixedWidth(28)
        where.clicked.connect(show_errors(lambda *_: self.edit_worker()))
        row.addStretch(1)
        row.addWidget(self.go)
        row.addWidget(where)
        column.addWidget(self.advice)
        column.addLayout(row)
        return bar

    def edit_worker(self) -> None:
        """Open the dialog for where jobs run: the worker's command, and the names of folders there."""
        from napari_msunet.widgets.worker_settings import WorkerSettings

        dialog = WorkerSettings(self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.saved.connect(lambda _: self.jobs.renew())
        dialog.open()

    def _restyle(self, event: object = None) -> None:
        self.setStyleSheet(stylesheet(self.viewer.theme))

    def _toggled(self, name: StepName, opened: bool) -> None:
        if opened:
            self.show_step(name)
        else:
            self.refresh()

    def show_step(self, name: StepName) -> None:
        """Open the section of a step and close the others."""
        for other, section in self.sections.items():
            section.set_open(other == name)
        if self.state.step != name:
            self.state.step = name
            self._saving.start()
        self.refresh()
        if name in WARMING and not self.layers.closed:
            self.jobs.warm()  # so the worker loads while the user looks at the step
        if name in self.sections:
            QTimer.singleShot(0, lambda: self._reveal(name))

    def _reveal(self, name: StepName) -> None:
        if not self.layers.closed:
            self._scroll.ensureWidgetVisible(self.sections[name].header, 0, 0)

    def _changed(self, what: str) -> None:
        if not self.layers.closed:
            self._refreshing.start()
            if what in ("slides", "project", "results", "annotations"):
                self.counting.scan_new()
            if what not in ("counts", "review"):
                self._saving.start()

    def save_project(self) -> None:
        """Write the state into the project, if there is one; this happens by itself after each change."""
        if self.state.active is not None:
            note_view(self.layers, self.state.active)
        remember(self.state)

    def refresh(self) -> None:
        """Show the state as it is now."""
        if self.layers.closed:
            return
        found = resolve.resolve(self.state)
        following = found.next_step
        self.advice.setText(found.advice)
        self.advice.setToolTip(found.advice)
        # always as high as a long sentence: what is below must not move as one clicks it
        self.advice.setFixedHeight(_ADVICE_LINES * self.advice.fontMetrics().lineSpacing() + 12)
        shown = self.sections.get(following)
        self.go.setVisible(shown is not None and not shown.is_open)
        self.go.setText(f"{self.steps[following].title} ›" if following in self.steps else "")
        for name, section in self.sections.items():
            possible = found.steps[name]
            section.set_state("next" if name == following else "done" if possible.done else "waiting")
            if section.is_open:
                self.steps[name].refresh()

    # ---------------------------------------------------------------------------------------------- what buttons do

    def step(self, name: StepName) -> Any:
        """The step of this name; `MsunetError` where there is none."""
        if name not in self.steps:
            raise MsunetError(f"The dock has no step {name!r}; it has {', '.join(self.steps)}.")
        return self.steps[name]

    def open_slide(self, path: str | Path, mpp: float | tuple[float, float] | None = None) -> Image:
        """Open a slide, or use one that is open; gives its layer."""
        return self.step("slide").open_slide(path, mpp)

    def try_shipped_model(self) -> JobHandle:
        """Label nuclei with the model that comes with the package, on the active slide or, without one, on a sample;
        returns at once.

        Of a large view, the square with the most tissue is labelled.

        Raises
        ------
        MsunetError
            If no model comes with this copy, or the slide's µm per pixel are not known.
        """
        model = shipped_model()
        if self.state.active is None:
            self.open_slide(annotated_copy()[0])
        layer = self.layers.need_slide(self.state.active)
        slide = slide_of(layer)
        if slide is None or slide.mpp is None:
            raise MsunetError("The size of this slide's pixels is not known; give it in the Slide step.")
        self.load_model(model)
        self.show_step("predict")
        return self.predict(piece_to_try(slide, visible_region(self.viewer, layer)))

    def open_project(self, folder: str | Path) -> None:
        """Open a project with its slides and annotations, or make one there."""
        self.step("slide").open_project(folder)

    def start_annotating(self, classes: tuple[str, ...] | None = None) -> PyramidLabels:
        """Make an annotation of the active slide, or open the one it has; gives its layer, ready to paint."""
        return self.step("annotate").start_annotating(classes)

    def set_model(self, config: ModelConfig) -> None:
        """Choose the model to train."""
        self.step("model").set_model(config)

    def load_model(self, path: str | Path) -> None:
        """Choose a model file that predicts."""
        self.step("model").load_model(path)

    def train(self, **options: object) -> JobHandle:
        """Train on all sources; returns at once, with a handle that can be waited for."""
        handle: JobHandle = self.step("train").train(**options)
        return handle

    def train_on_corrections(self) -> JobHandle:
        """Continue training the model on its earlier data and on the corrected pixels; returns at once, with a
        handle."""
        self.step("correct").count_corrections()
        return self._train_on_corrections()

    def _show_objects(self) -> None:
        """Show the table of objects below the canvas, without opening another step."""
        self.steps["review"].refresh()
        self.steps["review"].show_objects()

    def _train_on_corrections(self) -> JobHandle:
        self.show_step("train")
        return self.train()

    def predict(self, where: str | Region = "slide") -> JobHandle:
        """Predict the "view", the "slide" or a region of the active slide; returns at once, with a handle."""
        handle: JobHandle = self.step("predict").predict(where)
        return handle

    def predict_all(self) -> JobHandle:
        """Predict all slides, one after the other; returns at once, with a handle."""
        handle: JobHandle = self.step("predict").predict_all()
        return handle

    def export(self, path: str | Path, **options: object) -> JobHandle:
        """Write the labels of the active slide to a file; returns at once, with a handle."""
        handle: JobHandle = self.step("export").export(path, **options)
        return handle

    def as_python(self, name: StepName | None = None) -> str:
        """The lines that repeat a step without the dock; None: all steps that can be done."""
        if name is not None:
            return self.step(name).as_python()
        return "\n\n".join(step.as_python() for step in self.steps.values() if step.missing() is None)

    @show_errors
    def copy_python(self, name: StepName) -> None:
        """Put the lines that repeat a step on the clipboard."""
        QApplication.clipboard().setText(self.as_python(name))
        show_info("Copied: the lines of Python that do this step without the dock.")

    # ---------------------------------------------------------------------------------------------------- drag and drop

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take projects and slides that are dragged onto the dock."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    @show_errors
    def dropEvent(self, event: QDropEvent) -> None:
        """Open the project, or the slides, that are dropped onto the dock."""
        event.acceptProposedAction()
        for path in _dropped(event):
            if is_project(path):
                self.open_project(path)
            else:
                self.open_slide(chosen(path))

    def _dropped_on_canvas(self, event: QDropEvent) -> bool:
        """Open a project that is dropped onto the canvas, where napari would ask which reader to take for a folder."""
        paths = _dropped(event)
        if len(paths) != 1 or not is_project(paths[0]):
            return False
        event.acceptProposedAction()
        show_errors(self.open_project)(paths[0])
        return True

    # --------------------------------------------------------------------------------------------- worker and closing

    @property
    def closed(self) -> bool:
        """Whether the window is closed, or closing."""
        return self.layers.closed

    def event(self, event: QEvent) -> bool:
        """Notice that the dock is closed for good: napari takes it out of its window."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.shut_down()
        elif event.type() == QEvent.Type.Show and not self.layers.closed:
            self._refreshing.start()  # with the font of the window, which says how high the advice is
        return bool(super().event(event))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Notice that the window closes: it gets a close event, and then hides; and projects that are dropped on it."""
        if event.type() == QEvent.Type.Drop and not self.closed:
            return self._dropped_on_canvas(event)
        if event.type() == QEvent.Type.WindowActivate and not self.closed:
            self._refreshing.start()  # back from another program, where files may have come or gone
        if event.type() == QEvent.Type.Close:
            watched.setProperty("msunet_closing", True)
            if not event.spontaneous():  # closed by a program: napari does not ask the user for confirmation
                self.shut_down()
        elif event.type() == QEvent.Type.Hide and watched.property("msunet_closing"):
            self.shut_down()
        return False

    def shut_down(self) -> None:
        """End the worker and let go of layers and stores; everything painted is on disk."""
        if self.layers.closed:
            return
        self.layers.closed = True
        self._refreshing.stop()
        self._saving.stop()
        show_errors(self.save_project)()
        self.state.changed.disconnect(self._changed)
        self.state.wanted.disconnect(self.show_step)
        self.viewer.events.theme.disconnect(self._restyle)
        for step in self.steps.values():
            step.closing()
        self.counting.close()
        self.shown.close()
        self._viewport.close()
        self.jobs.close()
        if self.state.project is not None:
            self.state.project.release()
