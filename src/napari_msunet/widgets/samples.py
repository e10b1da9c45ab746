"""Sample data: File > Open Sample > Multi-scale U-Net."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.slide import Slide, open_slide
from napari_msunet.widgets.slide_layers import add_labels, slide_layer_data

SLIDE = "CMU-1-Small-Region.svs"
CLASSES = ("tissue", "gap")
STROKES = {
    1: [((900, 700), (1050, 900)), ((1500, 1300), (1650, 1400)), ((500, 1700), (620, 1850))],
    2: [((300, 400), (330, 520)), ((1900, 600), (1940, 760))],
}
"""Strokes of the annotated sample, from and to, in level-0 pixels `(y, x)`."""
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
    """The slide and an annotation store with a few strokes, copied where they can be written.

    Parameters
    ----------
    folder : Path, optional
        None: the user's data folder. What is there already stays as the user left it.
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
    """Put the labels on the slide's layer once napari has added it: sample data may return plain layer data only."""
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
    open_labels(annotation)  # a damaged store is told before anything is shown
