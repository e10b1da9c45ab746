"""The demonstration in napari: the steps of `app.demo`, done through the dock, its worker and the brush."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import napari
from qtpy.QtWidgets import QApplication

from napari_msunet.app.demo import SLIDE, Stage
from napari_msunet.config import EvaluateJob, ExportJob, Job, PredictJob, TrainJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event, Message, Result
from napari_msunet.geometry import Region
from napari_msunet.labels import LabelStore
from napari_msunet.widgets.dock.dock import MultiScaleUNet
from napari_msunet.widgets.jobs import JobHandle
from napari_msunet.widgets.state import changed

if TYPE_CHECKING:
    from napari_msunet.widgets.paint import PyramidLabels
TITLE = "Multi-scale U-Net"


class WindowStage(Stage):
    """A napari window with the slide and the dock, which does the demonstration's work.

    Parameters
    ----------
    out : Path
        Where the project and the screenshots go.
    """

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self.viewer = napari.Viewer(title="napari-msunet: the demonstration")
        self.viewer.window.resize(1280, 800)
        self.dock = MultiScaleUNet(self.viewer)
        self.viewer.window.add_dock_widget(self.dock, name=TITLE, area="right")
        self.dock.open_project(self.out / "project.msunet")
        self.dock.open_slide(SLIDE)
        self._watched: list[object] = []

    def run(self, job: Job) -> Generator[Event, None, Result]:
        """Run a job through the dock, while its window stays alive."""
        happened: deque[Event] = deque()
        handle = self._started(job)
        handle.happened.connect(happened.append)
        while handle.outcome is None or handle.follow_up() or happened:
            wait(0.02)
            while happened:
                event = happened.popleft()
                # The worker leaves the merging of the run to the dock, because the dock has the labels open.
                if not (isinstance(event, Result) or (isinstance(job, PredictJob) and isinstance(event, Message))):
                    yield event
        wait(0.3)
        if handle.value is None:
            raise MsunetError(f"The demonstration's {job.job} did not come to its end; the window says why.")
        return handle.value

    def _started(self, job: Job) -> JobHandle:
        """Have the dock begin a job, as a person would."""
        dock, state = self.dock, self.dock.state
        if isinstance(job, TrainJob):
            state.set_sets(list(job.sources))  # type: ignore[arg-type]
            state.set_classes(job.model.classes)
            dock.set_model(job.model)
            names = ("size", "steps", "epochs", "time_limit", "validation")
            state.set_train_options(changed(state.train_options, **{name: getattr(job, name) for name in names}))
            dock.show_step("train")
            return dock.train()
        if isinstance(job, PredictJob):
            state.use_model(job.model.resolve())
            assert state.active is not None
            state.active.labels = job.out.resolve()
            state.set_predict_options(changed(state.predict_options, outputs=job.outputs))
            dock.show_step("predict")
            return dock.predict()
        if isinstance(job, ExportJob):
            dock.show_step("export")
            return dock.export(job.out)
        assert isinstance(job, EvaluateJob)
        return dock.jobs.submit(job)

    def paint(self, labels: LabelStore, place: Region, value: int) -> None:
        """Paint a dab with napari's brush, at a zoom that shows the place."""
        layer = self._layer(labels)
        middle = (place.y + place.height / 2, place.x + place.width / 2)
        self.viewer.scene.camera.center = (0, *layer.data_to_world(middle))
        self.viewer.scene.camera.zoom = 2.5
        layer.mode = "paint"
        layer.brush_size = place.height
        layer.paint(middle, value)
        wait(0.3)

    def undo(self, labels: LabelStore) -> None:
        """Undo in the layer, as Ctrl-Z does."""
        self._layer(labels).undo()
        wait(0.3)

    def picture(self, name: str) -> None:
        """Save a screenshot of the whole window in `screenshots/`."""
        if name in ("3-predicted", "5-predicted-again", "6-exported"):
            self.viewer.reset_view()
        if name == "4-corrected":
            self.dock.show_step("correct")
        wait(0.8)
        folder = self.out / "screenshots"
        folder.mkdir(exist_ok=True)
        self.viewer.window.screenshot(str(folder / f"{name}.png"), canvas_only=False, flash=False)

    def leave(self, stay: bool) -> None:
        """Leave the window to the user until it is closed; with `stay` False, close it."""
        if stay:
            napari.run()
        else:
            self.viewer.close()

    def _layer(self, labels: LabelStore) -> PyramidLabels:
        assert self.dock.state.active is not None
        layer = self.dock.layers.need_labels(self.dock.state.active)
        self.viewer.layers.selection.active = layer
        return layer


def wait(seconds: float) -> None:
    """Wait while the window handles its events."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        QApplication.processEvents()
        time.sleep(0.005)
