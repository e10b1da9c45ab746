"""Explaining a prediction of the view: the prediction of each scale alone, and the weights of the fusion."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr
from napari.layers import Image, Layer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_msunet.config import PredictJob, PreviewJob
from napari_msunet.errors import MsunetError, OutputError
from napari_msunet.events import Result
from napari_msunet.geometry import Window
from napari_msunet.widgets.dock.model_card import WeightBars, is_dark, model_config
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.layers import hide_maps
from napari_msunet.widgets.placement import over, placed

if TYPE_CHECKING:
    import dask.array as da
    from napari.components import ViewerModel

    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.placement import LayerPlacement, Pair
    from napari_msunet.widgets.state import State
# ----------------------------------------------------------------------------------------------------------------------
# The maps of a preview as layers: the prediction of each scale, that of the fusion, and the weights of the scales.

FUSED, WEIGHTS = "fused", "weights"
IN_MEMORY = 4_000_000
"""Largest map, in pixels, that is read at once; larger ones stay on disk."""
OVERVIEW_SIDE = 2048


@dataclass(frozen=True)
class Preview:
    """The maps that a `PreviewJob` has written to a folder.

    Attributes
    ----------
    maps : dict
        Lazy arrays `(c, h, w)` by name ("fused", "scale 1/2", "weights").
    classes, outputs : tuple of str
    pixel : (y, x)
        Size of a map's pixel in level-0 pixels of the slide.
    corner : (y, x)
        The corner of the maps, in level-0 pixels of the slide.
    mpp : float, optional
        Size of a map's pixel in µm; None for a model in pixels.
    """

    folder: Path
    maps: dict[str, zarr.Array]
    classes: tuple[str, ...]
    outputs: tuple[str, ...]
    pixel: tuple[float, float]
    corner: tuple[float, float]
    mpp: float | None


def open_preview(folder: str | Path) -> Preview:
    """The maps in a folder of a `PreviewJob`.

    Raises
    ------
    OutputError
        If there are none.
    """
    where = Path(folder)
    try:
        group = zarr.open_group(where, mode="r")
        about: dict[str, Any] = dict(group.attrs)
        maps = {str(array.attrs.get("name", name)): array for name, array in group.arrays()}
        pixel = float(about["pixel"][0]), float(about["pixel"][1])
        window = Window(*(int(n) for n in about["window"]))
        classes, outputs = tuple(about["classes"]), tuple(about["outputs"])
        mpp = None if about["mpp"] is None else float(about["mpp"])
    except Exception as error:  # zarr raises many kinds of errors
        raise OutputError(f"{where} holds no maps of a preview; run the preview again.") from error
    corner = window.y * pixel[0], window.x * pixel[1]
    return Preview(where, maps, classes, outputs, pixel, corner, mpp)


def add_preview(viewer: ViewerModel, folder: str | Path, slide_layer: Layer | None = None) -> list[Image]:
    """Show all maps of a preview over the slide: those of each scale and of the fusion, and the weights.

    Parameters
    ----------
    viewer : napari.Viewer
    folder : path
        The folder that a `PreviewJob` wrote. Each preview needs a folder of its own as long as its layers are open.
    slide_layer : Layer, optional
        The slide's layer, over which the maps are placed exactly. None: they are placed by µm.

    Returns
    -------
    list of Image
        One layer per map and class. At first only the fusion's first class is visible.
    """
    preview = open_preview(folder)
    names = [name for name in (*reversed(preview.outputs), WEIGHTS) if name in preview.maps and name != FUSED]
    layers: list[Image] = []
    for name in (*names, *([FUSED] if FUSED in preview.maps else [])):
        layers += add_map(viewer, preview, name, slide_layer)
    for layer in layers:
        layer.visible = layer.metadata[KEY]["map"] == FUSED and layer.metadata[KEY]["of"] == preview.classes[0]
    return layers


def add_map(
    viewer: ViewerModel, source: Preview | str | Path, what: str, slide_layer: Layer | None = None
) -> list[Image]:
    """Show one map of a preview over the slide; the maps of a run are shown by `run_maps`.

    Parameters
    ----------
    viewer : napari.Viewer
    source : Preview or path
        A preview, or its folder.
    what : str
        "fused", "scale 1/2", ... (a layer per class) or "weights" (a layer per scale).
    slide_layer : Layer, optional
        The slide's layer. None: the map is placed by µm.

    Returns
    -------
    list of Image
        The new layers, probabilities in magma and weights in viridis, both from 0 to 1.

    Raises
    ------
    OutputError
        If there is no such map.
    """
    preview = source if isinstance(source, Preview) else open_preview(source)
    if what not in preview.maps:
        raise OutputError(
            f'The preview {preview.folder} has no map "{what}"; it has {", ".join(sorted(preview.maps))}.'
        )
    mpp, pixel = preview.mpp, preview.pixel
    slide_mpp = None if mpp is None else (mpp / pixel[0], mpp / pixel[1])
    place = _place(slide_layer, slide_mpp, preview.pixel, preview.corner)
    parts = _parts(what, preview.classes, preview.outputs)
    array = preview.maps[what]
    about = {"map": what, "preview": str(preview.folder)}
    return [_add(viewer, _levels(array, number), what, part, place, about) for number, part in parts]


def _parts(what: str, classes: Sequence[str], outputs: Sequence[str]) -> list[tuple[int, str]]:
    """The planes of a map that are shown, and their names. Background is left out: it is what the classes leave."""
    if what == WEIGHTS:
        return list(enumerate(outputs[1:]))
    return list(enumerate(classes, 1))


def _place(slide_layer: Layer | None, slide_mpp: Pair | None, pixel: Pair, corner: Pair) -> LayerPlacement:
    return placed(slide_mpp, pixel, corner) if slide_layer is None else over(slide_layer, pixel, corner)


def _levels(array: zarr.Array, plane: int) -> list[npt.NDArray[np.float32] | da.Array]:
    """One plane of a map: in memory where it is small, else lazy with coarser levels."""
    _, height, width = array.shape
    if height * width <= IN_MEMORY:
        return [np.asarray(array[plane], np.float32)]
    import dask.array as da  # takes a second: not before it is needed

    full = da.from_zarr(array)[plane].astype(np.float32)
    levels = [full]
    while max(levels[-1].shape) > OVERVIEW_SIDE:
        levels.append(da.coarsen(np.mean, levels[-1], {0: 2, 1: 2}, trim_excess=True))
    return levels


def _add(
    viewer: ViewerModel,
    levels: list[npt.NDArray[np.float32] | da.Array],
    what: str,
    part: str,
    place: LayerPlacement,
    about: dict[str, str],
) -> Image:
    weight = what == WEIGHTS
    layer = Image(
        levels[0] if len(levels) == 1 else levels,
        multiscale=len(levels) > 1,
        name=f"weight of {part}" if weight else f"{part} ({what})",
        colormap="viridis" if weight else "magma",
        contrast_limits=(0.0, 1.0),
        opacity=0.7,
        rgb=False,
        metadata={KEY: {**about, "of": part}},
        **place,
    )
    viewer.add_layer(layer)
    return layer


# ----------------------------------------------------------------------------------------------------------------------
# The row of buttons that show and hide these layers.


class WhyRow(QWidget):
    """Two buttons that show maps of the view, and bars of the weights.

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
        """Hide the bars, whose weights belong to an earlier view."""
        self.bars_title.hide()
        self.bars.hide()

    def set_ready(self, ready: bool) -> None:
        """Set whether the buttons can be pressed."""
        self.scales.setEnabled(ready)
        self.weights.setEnabled(ready)

    def preview(self, job: PredictJob, what: str) -> PreviewJob:
        """The job that makes the maps of a region; `MsunetError` where this model has no such maps."""
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
        """Add the layers of a finished preview."""
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
        """Remove the files."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
