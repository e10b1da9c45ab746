"""Why the model decides so: each scale's own prediction, and the fusion's weights, of what is in view."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_msunet.config import PredictJob, PreviewJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import Result
from napari_msunet.widgets.dock.weights import WeightBars, is_dark, model_config
from napari_msunet.widgets.layers import hide_maps
from napari_msunet.widgets.maps import add_map

if TYPE_CHECKING:
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import State


class WhyRow(QWidget):
    """Two buttons that show maps of what is in view, and bars of the weights.

    Parameters
    ----------
    state : State
    layers : Layers

    Attributes
    ----------
    wanted : Signal(str)
        A button was pressed: "scales" or "weights".
    """

    wanted = Signal(str)

    def __init__(self, state: State, layers: Layers) -> None:
        super().__init__()
        self.state, self.layers = state, layers
        self.scales = QPushButton("Each scale's prediction")
        self.scales.setToolTip("For what is in view: one layer for each scale, as if it were alone.")
        self.scales.clicked.connect(lambda *_: self.wanted.emit("scales"))
        self.weights = QPushButton("Weights of the fusion")
        self.weights.setToolTip("For what is in view: how much the fusion trusts each scale at each pixel, as layers.")
        self.weights.clicked.connect(lambda *_: self.wanted.emit("weights"))
        self.bars_title = QLabel("Average weight of each scale in what was in view:")
        self.bars_title.setObjectName("note")
        self.bars = WeightBars(is_dark(layers.viewer.theme))
        self._wanted = ""
        self._folders: list[Path] = []
        row = QHBoxLayout()
        row.addWidget(self.scales)
        row.addWidget(self.weights)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        title = QLabel("To see why, show for what is in view:")
        title.setObjectName("note")
        column.addWidget(title)
        column.addLayout(row)
        column.addWidget(self.bars_title)
        column.addWidget(self.bars)
        self.hide_bars()

    def hide_bars(self) -> None:
        """The weights of another day say nothing about what comes now."""
        self.bars_title.hide()
        self.bars.hide()

    def set_ready(self, ready: bool) -> None:
        """Whether the buttons can be pressed."""
        self.scales.setEnabled(ready)
        self.weights.setEnabled(ready)

    def preview(self, job: PredictJob, what: str) -> PreviewJob:
        """The job that makes the maps of a region; `MsunetError` where this model has none such."""
        config = model_config(job.models[0])
        if what == "weights" and (config.joint or config.fusion in ("max", "concat")):
            raise MsunetError("This model's fusion has no weights to show; look at each scale instead.")
        if what == "scales" and not config.own:
            raise MsunetError("The scales of this model are one network, so none has a prediction of its own.")
        folder = self.state.make_project().folder / "predictions" / f".preview {time.time_ns()}"
        preview = PreviewJob(
            slide=job.slide,
            model=job.models[0],
            slide_mpp=job.slide_mpp,
            image_kind=job.image_kind,
            value_range=job.value_range,
            region=job.region,
            out=folder,
            device=job.device,
        )
        self._folders.append(folder)
        self._wanted = what
        return preview

    def show_result(self, preview: PreviewJob, result: Result) -> None:
        """Add the layers of a preview that has come to its end."""
        viewer = self.layers.viewer
        folder = Path(result.files["maps"])
        config = model_config(preview.model)
        names = list(config.outputs[1:]) if self._wanted == "scales" else ["weights"]
        hide_maps(viewer)
        slide_layer = self.layers.need_slide(self.state.slide_at(preview.slide))
        shown = [layer for name in names for layer in add_map(viewer, folder, name, slide_layer)]
        for layer in shown[1:]:
            layer.visible = False
        viewer.layers.selection.active = shown[0]
        shares = result.values.get("learned_weights") or result.values.get("mean_weights")
        if shares:
            self.bars_title.setVisible(True)
            self.bars.set_weights(config.outputs[1:], shares)

    def closing(self) -> None:
        """Take the files away."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
