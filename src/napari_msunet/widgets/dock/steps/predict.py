"""The Predict step: what is in view, a drawn region or the slide; labels fill in while it runs."""

from __future__ import annotations

import shutil
import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QPushButton

from napari_msunet.config import PostprocessJob, PredictJob, PreviewJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import RegionDone, Result
from napari_msunet.geometry import Region
from napari_msunet.widgets.dock.drawing import RegionDrawing
from napari_msunet.widgets.dock.job_box import JobBox
from napari_msunet.widgets.dock.layers import hide_maps, layer_of_labels, layer_of_slide
from napari_msunet.widgets.dock.merging import Merging, prepare_store
from napari_msunet.widgets.dock.predicting.forms import PredictForm
from napari_msunet.widgets.dock.python_lines import job_lines
from napari_msunet.widgets.dock.steps.step import Step
from napari_msunet.widgets.dock.telling import told
from napari_msunet.widgets.dock.threshold import ThresholdPanel
from napari_msunet.widgets.dock.weights import WeightBars, is_dark, model_config
from napari_msunet.widgets.instances import add_instances
from napari_msunet.widgets.maps import add_map
from napari_msunet.widgets.placement import visible_region

if TYPE_CHECKING:
    from napari_msunet.widgets.dock.dock import MultiScaleUNet


class PredictStep(Step):
    """Predicts with the current model into labels that can be painted on."""

    name = "predict"
    title = "Predict"
    purpose = "The model labels the slide. What you corrected by hand stays as it is."

    def __init__(self, dock: MultiScaleUNet) -> None:
        super().__init__(dock)
        self.last: PredictJob | None = None
        self.needed = self.note()
        self.model_line = QLabel()
        self.model_line.setWordWrap(True)
        self.view = self._button("What is in view", "Predicts the part of the slide that the window shows now.", "view")
        self.region = QPushButton("Region…")
        self.region.setToolTip("Then draw a rectangle on the slide: it is predicted as soon as you let go.")
        self.region.clicked.connect(told(lambda *_: self.draw_region()))
        self.slide = self._button("Whole slide", "Predicts all of it; the labels fill in while it runs.", "slide")
        self.slide.setObjectName("primary")
        self.again = QPushButton("Resume")
        self.again.setToolTip("Goes on with the prediction that was stopped: finished tiles are not computed again.")
        self.again.clicked.connect(told(lambda *_: self.resume()))
        self.again.hide()
        self.form = PredictForm(self.state.predict_options)
        self.form.valueChanged.connect(self.state.set_predict_options)
        self.box = JobBox(dock, "predict")
        self.box.happened.connect(self._happened)
        self.box.ended.connect(self._ended)
        self.thresholds = ThresholdPanel(dock)
        self.thresholds.apply_wanted.connect(told(lambda job: self.postprocess(job)))
        self.scales = QPushButton("Each scale's prediction")
        self.scales.setToolTip("For what is in view: one layer for each scale, as if it were alone.")
        self.scales.clicked.connect(told(lambda *_: self.show_maps("scales")))
        self.weights = QPushButton("Weights of the fusion")
        self.weights.setToolTip("For what is in view: how much the fusion trusts each scale at each pixel, as layers.")
        self.weights.clicked.connect(told(lambda *_: self.show_maps("weights")))
        self.bars_title = self.note("Average weight of each scale in what was in view:")
        self.bars = WeightBars(is_dark(self.viewer.theme))
        self._lay_out()
        self.drawing = RegionDrawing(self.viewer)
        self.drawing.drawn.connect(told(lambda region: self.predict(region)))
        self.merging = Merging(self)
        self.merging.idle.connect(self._merged)
        self._shown = ""
        self._previews: list[Path] = []
        self._began = 0.0

    def _button(self, text: str, tip: str, where: str) -> QPushButton:
        button = QPushButton(text)
        button.setToolTip(tip)
        button.clicked.connect(told(lambda *_: self.predict(where)))
        return button

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setSpacing(6)
        grid.addWidget(self.slide, 0, 0, 1, 2)
        grid.addWidget(self.view, 1, 0)
        grid.addWidget(self.region, 1, 1)
        for widget in (self.needed, self.model_line):
            self.body.addWidget(widget)
        self.body.addLayout(grid)
        why = self.note("To see why, show for what is in view:")
        for widget in (self.again, self.box, self.form, self.thresholds, why):
            self.body.addWidget(widget)
        row = QHBoxLayout()
        row.addWidget(self.scales)
        row.addWidget(self.weights)
        self.body.addLayout(row)
        self.body.addWidget(self.bars_title)
        self.body.addWidget(self.bars)
        self.bars_title.hide()

    # -------------------------------------------------------------------------------------------------------- showing

    def refresh(self) -> None:
        missing = self.missing()
        if self.form.value() != self.state.predict_options:
            self.form.setValue(self.state.predict_options)
        self.needed.setText(missing or "")
        self.needed.setVisible(missing is not None)
        self.model_line.setVisible(missing is None)
        if missing is None:
            self.model_line.setText(self._model_text())
        ready = missing is None and self.state.running is None
        for button in (self.view, self.region, self.slide, self.again, self.scales, self.weights):
            button.setEnabled(ready)
        self.region.setText("Draw it now…" if self.drawing.active else "Region…")
        self.again.setVisible(self.last is not None and not self.box.running)
        self.thresholds.refresh()
        self.thresholds.look()

    def _model_text(self) -> str:
        path = self.state.model_path
        assert path is not None
        try:
            config = model_config(path)
        except MsunetError as error:
            return escape(str(error))
        name = path.parent.name if path.stem == "model" else path.stem
        scales = ", ".join(str(r) for r in config.ratios)
        classes = escape(", ".join(config.classes))
        return f"Model: <b>{escape(name)}</b> ({classes}; {config.mpp:g} µm/px; scales {scales})"

    def summary(self) -> str:
        return self.box.bar.format() if self.box.running else ""

    # ------------------------------------------------------------------------------------------------------ predicting

    def predict(self, where: str | Region = "slide") -> PredictJob:
        """Predict the "view", the "slide" or a region (level-0 pixels) of the active slide; returns at once."""
        self.drawing.stop()
        job = self._job(where)
        self._start(job)
        return job

    def resume(self) -> PredictJob:
        """Go on with the prediction that was stopped; returns at once."""
        if self.last is None:
            raise MsunetError("No prediction was stopped; start one.")
        self._start(self.last)
        return self.last

    def postprocess(self, job: PostprocessJob | None = None) -> PostprocessJob:
        """Make the labels that the sliders say, or a job says, from kept probabilities; returns at once."""
        job = job or self.thresholds.job()
        layer = self.thresholds.labels_layer()
        self._began = time.monotonic()
        self.box.start(
            job, "From probabilities to labels.", before=layer.store.hold, ready=lambda _: self.merging.start(layer)
        )
        return job

    def draw_region(self) -> None:
        """Let a rectangle be drawn, which is predicted then; asked a second time, not any more."""
        if self.drawing.active:
            self.drawing.stop()
        else:
            self.drawing.start(self._slide_layer())
        self.refresh()

    def _slide_layer(self) -> Any:
        if (missing := self.missing()) is not None:
            raise MsunetError(missing)
        return layer_of_slide(self.dock, self.state.active)

    def _job(self, where: str | Region) -> PredictJob:
        region = where if isinstance(where, Region) else None
        if where == "view":
            region = visible_region(self.viewer, self._slide_layer())
        elif region is None and where != "slide":
            raise MsunetError(f'{where!r} cannot be predicted; give "view", "slide" or a Region.')
        return self.state.predict_job(region=region)

    def _start(self, job: PredictJob) -> None:
        record = self.state.slide_at(job.slide)
        config = model_config(job.model)
        free = self.state.make_project().labels_path(record.name)
        self.bars_title.hide()
        self.bars.hide()

        def ready(out: Path) -> None:
            # Another resolution needs labels of its own: what is there stays.
            self.box.job = self.last = job.model_copy(update={"out": out})
            self._show_labels(out, record)

        self._began = time.monotonic()
        self.box.start(job, "Preparing the labels.", before=lambda: prepare_store(job, config, free), ready=ready)

    def _show_labels(self, out: Path, record: Any) -> None:
        """Bring the layer of the labels into view, and merge into it from now on."""
        record.labels = out
        layer = layer_of_labels(self.dock, record)
        layer.visible = True
        hide_maps(self.viewer)
        self.merging.start(layer)
        self.box.say("Predicting: the labels fill in as they come.")

    def _happened(self, event: Any) -> None:
        if isinstance(event, RegionDone):
            self.merging.add(event)
        elif isinstance(event, Result) and isinstance(self.box.job, PreviewJob):
            self._show_maps(event)

    def _ended(self, outcome: str, result: Result | None) -> None:
        if isinstance(self.box.job, PredictJob | PostprocessJob) and self.merging.layer is not None:
            if outcome == "done":
                self.last = None if isinstance(self.box.job, PredictJob) else self.last
                self.box.say("Merging the last tiles.")
            self._outcome, self._key = outcome, (result.values.get("run") if result else None)
            self.merging.finish(self._key)

    def _merged(self) -> None:
        """All that was predicted is in the labels."""
        layer = self.merging.layer
        if layer is None:
            return
        self.state.predicted.add(self.merging.path)
        if self._outcome == "done":
            self.thresholds.put_back()
            self._show_instances(layer.store.run(self._key))
            seconds = time.monotonic() - self._began
            self.box.say(f'Done in {seconds:.0f} s: the labels are in the layer "{layer.name}", ready to be corrected.')
        self.state.emit("results")

    def _show_instances(self, run: Any) -> None:
        """Instances, where the run has some, as a layer."""
        if "instances" in run.outputs:
            add_instances(self.viewer, run, layer_of_slide(self.dock, self.state.active))

    # ------------------------------------------------------------------------------------------------------------ maps

    def show_maps(self, what: str) -> PreviewJob:
        """Show each scale's own prediction ("scales") or the "weights" of the fusion in what is in view, as layers."""
        layer = self._slide_layer()
        region = visible_region(self.viewer, layer)
        if what == "weights" and model_config(self.state.model_path).fusion in ("max", "concat"):
            raise MsunetError(
                "This model's fusion has no weights (maximum or concatenation); look at each scale instead."
            )
        job = self.state.predict_job(region=region)
        folder = self.state.make_project().folder / "predictions" / f".preview {time.time_ns()}"
        preview = PreviewJob(
            slide=job.slide, model=job.model, slide_mpp=job.slide_mpp, region=job.region, out=folder, device=job.device
        )
        self._previews.append(folder)
        self._wanted = what
        self.box.start(preview, "Looking at each scale of what is in view.")
        return preview

    def _show_maps(self, result: Result) -> None:
        folder = Path(result.files["maps"])
        config = model_config(self.box.job.model)
        names = list(config.outputs[1:]) if self._wanted == "scales" else ["weights"]
        hide_maps(self.viewer)
        shown = [layer for name in names for layer in add_map(self.viewer, folder, name, self._slide_layer())]
        for layer in shown[1:]:
            layer.visible = False
        self.viewer.layers.selection.active = shown[0]
        shares = result.values.get("learned_weights") or result.values.get("mean_weights")
        if shares:
            self.bars_title.setVisible(True)
            self.bars.set_weights(config.outputs[1:], shares)

    def as_python(self) -> str:
        """The prediction of the whole slide as Python, or of the region that was predicted last."""
        return job_lines(self.last or self._job("slide"))

    def closing(self) -> None:
        self.drawing.stop()
        self.box.closing()
        self.merging.closing()
        self.thresholds.closing()
        for folder in self._previews:
            shutil.rmtree(folder, ignore_errors=True)
