"""The wands, which paint by the colours of the slide or by the model's probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_msunet import objects
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Grid, Window
from napari_msunet.labels import LabelStore, Run
from napari_msunet.widgets.tools.tool import Amount, Change, Tool, ToolInput

SIDE = 512
"""Pixels of the displayed level that a wand reads in each direction."""

COARSEST = 3
"""The coarsest level at which a wand works; its window is then 4,096 level-0 pixels wide."""

COARSEST_PROBABILITIES = 2


def _window(drawn: ToolInput, coarsest: int) -> tuple[Window, Window, int]:
    """The window that a wand reads: in pixels of its level, in level-0 pixels, and the level."""
    level = drawn.level
    if level > coarsest:
        raise StoreError(
            f"A wand cannot be used this far out: its area would be larger than {SIDE << coarsest:,} pixels; zoom in."
        )
    y, x = (int(np.floor(v)) >> level for v in drawn.place)
    height, width = drawn.store.info.shapes[level]
    coarse = Window(y - SIDE // 2, x - SIDE // 2, SIDE, SIDE).intersection(Window(0, 0, height, width))
    if not (0 <= y < height and 0 <= x < width):
        raise StoreError("This is outside the labels; click on the slide.")
    fine = drawn.inside(Window(coarse.y << level, coarse.x << level, coarse.height << level, coarse.width << level))
    return coarse, fine, level


def _painted(drawn: ToolInput, fine: Window, area: npt.NDArray[np.bool_], level: int) -> Change | None:
    """The change that paints a wand's area in level-0 pixels; it never covers an existing instance."""
    mask = area.repeat(1 << level, 0).repeat(1 << level, 1)[: fine.height, : fine.width]
    before = drawn.store.read(fine)
    if drawn.store.info.instances:
        return drawn.change(fine, objects.new_object(before, mask, objects.new_numbers(drawn.store, 1)[0]))
    return drawn.change(fine, objects.change_class(before, mask, drawn.label))


def image_wand(drawn: ToolInput) -> Change | None:
    if drawn.slide is None:
        raise StoreError("These labels have no slide in the viewer; open it in the Slide step.")
    coarse, fine, level = _window(drawn, COARSEST)
    pixel = drawn.store.pixel
    grid = Grid(drawn.slide.shape[:2], (pixel[0] * 2**level, pixel[1] * 2**level))
    image = drawn.slide.read_window(grid, coarse)
    y, x = drawn.place
    seed = (int(np.floor(y)) >> level) - coarse.y, (int(np.floor(x)) >> level) - coarse.x
    area = objects.wand_area(objects.wand_cost(image, seed), seed, drawn.amount, objects.RIM)
    return _painted(drawn, fine, area, level)


def probability_run(store: LabelStore) -> Run:
    """The newest run of a store that kept probabilities.

    Raises
    ------
    StoreError
        If there is none; the message says how to keep probabilities.
    """
    kept = [run for run in store.runs if "probabilities" in run.outputs]
    if not kept:
        raise StoreError(
            "The prediction kept no probabilities, and this tool needs them: in the Predict step, tick that they are "
            "kept, and predict again; your corrections stay."
        )
    return max(kept, key=lambda run: (run.path / "run.json").stat().st_mtime)


def _channel(run: Run, store: LabelStore, label: int) -> int:
    """The run's channel of a class of the store."""
    name = store.classes[label - 1] if 1 <= label <= len(store.classes) else None
    if label == 0:
        return 0
    if name not in run.classes:
        raise StoreError(f"The model does not know the class {name or label}; it knows {', '.join(run.classes)}.")
    return run.classes.index(name) + 1


def _probabilities(run: Run, window: Window) -> npt.NDArray[np.number]:
    planes = run.read(window, output="probabilities")
    if not planes.any():
        raise StoreError("The model was not run here, so there are no probabilities; predict here first.")
    return planes


def probability_wand(drawn: ToolInput) -> Change | None:
    _, fine, _ = _window(drawn, COARSEST_PROBABILITIES)
    run = probability_run(drawn.store)
    if drawn.store.info.instances:
        raise StoreError("The wand on probabilities paints classes; these labels hold numbers of objects.")
    channel = _channel(run, drawn.store, drawn.label)
    before = drawn.store.read(fine)
    planes = _probabilities(run, fine)
    edit = objects.probability_wand(before, planes, drawn.seed(fine), drawn.amount, channel, drawn.label)
    return drawn.change(fine, edit)


def snap(drawn: ToolInput) -> Change | None:
    if drawn.label == 0:
        raise StoreError("Background is chosen to paint with; choose the class to decide again.")
    window = drawn.around()
    run = probability_run(drawn.store)
    _channel(run, drawn.store, drawn.label)  # raises where the model does not know the class
    planes = _probabilities(run, window).astype(np.float32)
    in_store = np.zeros((len(drawn.store.classes) + 1, *window.shape), np.float32)
    in_store[0] = planes[0]
    for number, name in enumerate(run.classes, 1):
        if name in drawn.store.classes:
            in_store[drawn.store.classes.index(name) + 1] = planes[number]
    lasso = objects.inside_polygon(window.shape, drawn.local(window))
    return drawn.change(window, objects.snap(drawn.store.read(window), in_store, lasso, drawn.label, drawn.amount))


TOOLS = (
    Tool("image_wand", "Wand", "W", "Paints what looks alike around a click, from the image alone.",
         "Click; hold and drag sideways to take more or less.", "drag", image_wand,
         Amount("Tolerance", 0.12, 0.01, 1, 0.01), group="Wands"),
    Tool("probability_wand", "Model wand", "Shift+W", "Paints where the model finds the chosen class as probable.",
         "Click; hold and drag sideways to take more or less.", "drag", probability_wand,
         Amount("Less probable by", 0.3, 0.01, 1, 0.01), "classes", group="Wands"),
    Tool("snap", "Snap", "Q", "Decides the chosen class again in a lasso, at another threshold of its probability.",
         "Draw around the place to decide again.", "lasso", snap,
         Amount("From probability", 0.5, 0.01, 0.99, 0.05), "classes", group="Wands"),
)  # fmt: skip
