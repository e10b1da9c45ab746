"""A small slide, annotated, a model trained on it, and a dock in a real window."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

import napari_msunet as ms
from napari_msunet.geometry import Window
from napari_msunet.widgets import resolve

SIDE = 448
MODEL = ms.ModelConfig(
    classes=("blob",), mpp=1.0, scales=(1.0, 0.5), fusion="attention", branch=ms.UNetConfig(depth=2, width=4)
)
LONG = 120_000


def truth(side: int = SIDE) -> np.ndarray:
    """Where the violet blobs are."""
    y, x = np.mgrid[:side, :side]
    return (np.sin(y / 24) * np.sin(x / 30)) > 0.25


def make_slide(folder: Path, side: int = SIDE) -> Path:
    """A pyramid with violet blobs on pink."""
    rng = np.random.default_rng(0)
    image = np.where(truth(side)[..., None], (140, 60, 160), (235, 200, 220)) + rng.normal(0, 8, (side, side, 3))
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "blobs.png")
    return ms.build_pyramid(folder / "blobs.png", folder / "blobs.ome.zarr", mpp=0.5)


def annotate(store: ms.LabelStore, side: int = SIDE) -> None:
    """Strips of the truth, as strokes of a person."""
    values = np.where(truth(side), 1, 255).astype(np.uint8)
    for y in range(20, side - 30, 60):
        store.write(Window(y, 10, 24, side - 20), values[y : y + 24, 10 : side - 10])


def click(qtbot: Any, button: Any) -> None:
    """A real click on a button that can be clicked."""
    settle(0.05)
    assert button.isVisible()
    assert button.isEnabled(), button.toolTip()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def idle(qtbot: Any, dock: Any) -> None:
    """Wait until no job runs and everything is merged."""
    qtbot.waitUntil(lambda: not dock.state.running, timeout=LONG)
    qtbot.waitUntil(lambda: not dock.steps["predict"].merging.busy, timeout=LONG)
    settle(0.1)


def train(slide: Path, folder: Path) -> Path:
    """A model that knows the blobs a little."""
    with ms.open_slide(slide) as opened:
        store = ms.LabelStore.create(folder / "a.ome.zarr", classes=("blob",), kind="annotation", slide=opened)
    annotate(store)
    store.close()
    job = ms.TrainJob(
        model=MODEL,
        sources=(ms.SlideSource(slide=slide, labels=folder / "a.ome.zarr"),),
        out=folder / "run",
        size=64,
        batch_size=4,
        epochs=3,
        steps=8,
    )
    return ms.train(job).model_path


def settle(seconds: float = 0.1) -> None:
    """Let the window work."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.005)


def annotated_dock(dock, slide: Path) -> None:
    """Open the slide and annotate it, as the Slide and Annotate steps do."""
    dock.open_slide(slide)
    layer = dock.start_annotating(("blob",))
    annotate(layer.store)
    layer.refresh()
    layer.events.stroke(region=ms.Region(0, 0, *layer.store.shape), number=1)  # as the layer's own strokes do
    dock.set_model(MODEL)
    end = time.monotonic() + 20
    while resolve.missing(dock.state, "train") and time.monotonic() < end:
        settle()
    assert resolve.missing(dock.state, "train") is None
