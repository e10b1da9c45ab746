"""Sample data: File > Open Sample > napari-msunet."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.slide import Slide, open_slide
from napari_msunet.widgets.slide_layers import add_labels, slide_layer_data

SLIDE = "CMU-1-Small-Region.svs"
CLASSES = ("epithelium", "stroma")
STROKES = {
    1: [((1680, 1150), (1850, 1220)), ((1060, 1240), (1180, 1330)), ((2560, 640), (2680, 700))],
    2: [((1780, 960), (1920, 1000)), ((2200, 1380), (2330, 1420)), ((1100, 960), (1240, 1000))],
    ANNOTATED_BACKGROUND: [((600, 240), (740, 420)), ((1900, 240), (2050, 420)), ((500, 1800), (700, 1900))],
}
"""Strokes of the annotated sample: their first and last point, in level-0 pixels `(y, x)`."""
BRUSH = 30


def slide_path() -> Path:
    """The CC0 slide that ships with the plugin."""
    return Path(str(files("napari_msunet").joinpath("demo_data", SLIDE)))


def open_slide_sample() -> list[Any]:
    """The slide, H&E at 0.5 µm per pixel."""
    return list(slide_layer_data(slide_path()))


def open_annotated_sample() -> list[Any]:
    """The slide with an annotation to paint on, both copied into the user's data folder."""
    slide, annotation = annotated_copy()
    data = slide_layer_data(slide)
    _then_add_labels(data[0][0], annotation)
    return list(data)


def annotated_copy(folder: Path | None = None) -> tuple[Path, Path]:
    """The slide and an annotation store with a few strokes, copied into a folder that can be written.

    Parameters
    ----------
    folder : Path, optional
        None: the user's data folder. Files that are there already stay as the user left them.
    """
    from platformdirs import user_data_path

    target = folder or user_data_path("napari-msunet", appauthor=False) / "sample"
    target.mkdir(parents=True, exist_ok=True)
    slide, annotation = target / SLIDE, target / "annotation.ome.zarr"
    if not slide.exists():
        shutil.copyfile(slide_path(), slide)
    if not annotation.exists():
        with open_slide(slide) as opened:
            _annotate(annotation, opened)
    return slide, annotation


def _annotate(path: Path, slide: Slide) -> None:
    store = LabelStore.create(path, classes=CLASSES, kind="annotation", slide=slide)
    for value, strokes in STROKES.items():
        for start, stop in strokes:
            region, mask = _stroke(start, stop)
            store.write(region, value, mask)
    store.close()


def _stroke(start: tuple[int, int], stop: tuple[int, int]) -> tuple[Any, Any]:
    """All pixels within a brush's radius of a line."""
    from napari_msunet.geometry import Region

    low = np.minimum(start, stop) - BRUSH
    high = np.maximum(start, stop) + BRUSH
    y, x = np.mgrid[low[0] : high[0], low[1] : high[1]]
    along = np.subtract(stop, start).astype(float)
    share = ((y - start[0]) * along[0] + (x - start[1]) * along[1]) / (along @ along)
    share = np.clip(share, 0, 1)
    mask = np.hypot(y - start[0] - share * along[0], x - start[1] - share * along[1]) <= BRUSH
    return Region(float(low[0]), float(low[1]), *(float(v) for v in high - low)), mask


def _then_add_labels(levels: Any, annotation: Path) -> None:
    """Add the labels once napari has added the slide's layer, because sample data may return plain layer data only."""
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        return

    def inserted(event: Any) -> None:
        layer = event.value
        if getattr(layer, "multiscale", False) and layer.data[0] is levels[0]:
            viewer.layers.events.inserted.disconnect(inserted)
            add_labels(viewer, annotation, layer)

    viewer.layers.events.inserted.connect(inserted)
    open_labels(annotation)  # a damaged store raises here, before anything is shown
