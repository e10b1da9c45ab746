"""The pictures of an evaluation: image, truth and prediction side by side, reliability, and the matrix of scales."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet._io import aside
from napari_msunet.constants import IGNORED, OUTPUT_COLOURS
from napari_msunet.data import Item
from napari_msunet.geometry import Grid, Region, Window

SIDE = 768
"""Longest side of a picture, in pixels."""

ERROR = (0.9, 0.1, 0.1)

_CELL, _GAP, _TITLE = 320, 8, 26
"""Pixels of a picture's width, between pictures, and of the line with their titles."""


def figure_of(width: float, height: float, dpi: int = 120) -> Any:
    """A figure that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with aside(path) as file:
        figure.savefig(file, format="png")


Panel = tuple[str, npt.NDArray[Any], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Title, image `(h, w, 3)` uint8 or 0..1, truth and prediction `(h, w)` as class numbers; 255 in the truth is white."""


def best_median_worst(scores: Sequence[float]) -> list[tuple[str, int]]:
    """The titles and indices of the best, median and worst score; fewer where there are fewer than three numbers."""
    order = sorted((n for n, score in enumerate(scores) if np.isfinite(score)), key=lambda n: -scores[n])
    if not order:
        return []
    places = dict.fromkeys((0, (len(order) - 1) // 2, len(order) - 1))
    names = {1: ("only",), 2: ("best", "worst"), 3: ("best", "median", "worst")}[len(places)]
    return [(name, order[place]) for name, place in zip(names, places, strict=True)]


@dataclass(frozen=True)
class PackedPicture:
    """The truth and prediction of an image for a picture, compressed to some kilobytes, so that those of all images
    fit.

    Attributes
    ----------
    window : Window
        The part that is shown, on the truth's grid.
    step : int
        Every `step`-th pixel of the window is shown.
    shape : tuple of int
        `(2, h, w)`, for truth and prediction.
    packed : bytes
        Truth and prediction, compressed uint8.
    """

    window: Window
    step: int
    shape: tuple[int, ...]
    packed: bytes


def keep(truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8]) -> PackedPicture:
    """Pack the truth and prediction `(h, w)` of an image, or of the part of a large one with the most truth."""
    window = _middle(truth)
    step = max(1, max(window.shape) // SIDE)
    both = np.stack([values[window.slices()][::step, ::step] for values in (truth, predicted)])
    return PackedPicture(window, step, both.shape, zlib.compress(both.tobytes(), level=1))


def item_panel(title: str, item: Item, kept: PackedPicture) -> Panel:
    """The panel of an image with its packed truth and prediction."""
    truth, predicted = np.frombuffer(zlib.decompress(kept.packed), np.uint8).reshape(kept.shape)
    return title, _image(item, kept.window, kept.step), truth, predicted


def draw_panels(path: Path, rows: Sequence[Panel], classes: Sequence[str]) -> None:
    """Draw image, truth, prediction and their differences, one row for each image."""
    # By Pillow, pixel by pixel: matplotlib takes as long for these axes as a short training for its steps.
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(15)
    drawn = [_panel_row(*row) for row in rows]
    legend = 30
    height = sum(picture.shape[0] + _TITLE for _, picture in drawn) + legend
    canvas = Image.new("RGB", (4 * (_CELL + _GAP) + _GAP, height), "white")
    pen, y = ImageDraw.Draw(canvas), 0
    for titles, picture in drawn:
        for column, title in enumerate(titles):
            middle = _GAP + column * (_CELL + _GAP) + _CELL // 2
            pen.text((middle, y + _TITLE - 4), title, "black", font, anchor="ms")
        canvas.paste(Image.fromarray(picture), (_GAP, y + _TITLE))
        y += _TITLE + picture.shape[0]
    x = float(_GAP)
    for number, name in enumerate(classes, start=1):
        pen.rectangle((x, y + 9, x + 22, y + 21), class_colour(number))
        pen.text((x + 28, y + 15), name, "black", font, anchor="lm")
        x += 48 + pen.textlength(name, font)
    with aside(path) as file:
        canvas.save(file, format="png")


def _panel_row(
    title: str, image: npt.NDArray[Any], truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8]
) -> tuple[tuple[str, ...], npt.NDArray[np.uint8]]:
    """The four titles of a row, and its four pictures side by side, `(h, w, 3)` uint8."""
    from PIL import Image

    wrong = (truth != predicted) & (truth != IGNORED)
    known = max(1, int((truth != IGNORED).sum()))
    pictures = [image, _coloured(truth, truth), _coloured(predicted, truth), np.where(wrong[..., None], ERROR, 0.93)]
    height = max(1, round(_CELL * truth.shape[0] / truth.shape[1]))
    row = np.full((height + _GAP, 4 * (_CELL + _GAP), 3), 255, np.uint8)
    for column, picture in enumerate(pictures):
        pixels = picture if picture.dtype == np.uint8 else (np.asarray(picture) * 255).round().astype(np.uint8)
        # Coarser pixels would be skipped by "nearest", finer ones blurred by anything else.
        how = Image.Resampling.NEAREST if pixels.shape[1] <= _CELL else Image.Resampling.BOX
        cell = Image.fromarray(np.ascontiguousarray(pixels)).resize((_CELL, height), how)
        start = column * (_CELL + _GAP)
        row[:height, start : start + _CELL] = np.asarray(cell)
    return (title, "truth", "prediction", f"differs: {wrong.sum() / known:.1%}"), row


def class_colour(number: int) -> str:
    """The colour of class 1, 2, ... in pictures."""
    return OUTPUT_COLOURS[1 + (number - 1) % (len(OUTPUT_COLOURS) - 1)]


def _middle(truth: npt.NDArray[np.uint8]) -> Window:
    """The part of a large image with the most truth, at most four pictures wide."""
    side, whole = 2 * SIDE, Window(0, 0, *truth.shape)
    known = np.argwhere(truth[::16, ::16] != IGNORED)
    y, x = (known.mean(0) * 16).astype(int) if len(known) else (truth.shape[0] // 2, truth.shape[1] // 2)
    top, left = (max(0, min(int(c) - side // 2, n - side)) for c, n in zip((y, x), truth.shape, strict=True))
    return Window(top, left, side, side).intersection(whole)


def _image(item: Item, window: Window, step: int) -> npt.NDArray[Any]:
    """The pixels of the slide in a window of the truth."""
    region: Region = item.truth.grid.region(window)
    each = item.truth.grid.pixel
    grid = Grid(item.truth.grid.extent, (each[0] * step, each[1] * step))
    pixels = item.slide.read_window(grid, grid.window(region))
    return shown(pixels)


def shown(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`(h, w, c)` pixels as a picture: the first three channels, or one as grey; types other than uint8 are
    stretched."""
    values = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, 2)
    if values.dtype == np.uint8:
        return values
    largest = float(np.percentile(values, 99.5)) or 1.0
    return np.clip(values / largest, 0, 1)


def _coloured(values: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Class numbers as colours on light grey; white where there is no truth."""
    from PIL import ImageColor

    table = np.full((256, 3), 0.93)
    for number in range(1, 255):
        table[number] = np.array(ImageColor.getrgb(class_colour(number))) / 255
    table[IGNORED] = 1.0
    coloured = table[values]
    coloured[truth == IGNORED] = 1.0
    return coloured


def draw_reliability(path: Path, report: dict[str, Any]) -> None:
    """Draw accuracy by confidence, beside the diagonal on which it should lie."""
    figure = figure_of(4.6, 4.4)
    axes = figure.subplots()
    bins = report["bins"]
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=(0, (6, 3)), label="perfect")
    axes.plot(
        [b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o-", color=OUTPUT_COLOURS[1], label="fused"
    )
    axes.set(xlabel="probability of the likeliest class", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    error = "-" if report["error"] is None else f"{report['error']:.3f}"
    axes.set_title(f"Expected calibration error {error}", fontsize=10)
    axes.legend(frameon=False)
    save(figure, path)


def draw_scale_matrix(path: Path, matrix: dict[str, Any], whole: str = "the model's own resolution") -> None:
    """Draw the Dice of each output (rows) at each test scale (columns); `whole` says what 100 % is."""
    values = np.array([[np.nan if v is None else v for v in row] for row in matrix["dice"]], float)
    figure = figure_of(1.1 * values.shape[1] + 2.2, 0.55 * values.shape[0] + 1.6)
    axes = figure.subplots()
    axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        axes.text(
            x,
            y,
            "-" if np.isnan(value) else f"{value:.2f}",
            ha="center",
            va="center",
            color="w" if value < 0.6 else "k",
        )
    axes.set_xticks(range(values.shape[1]), [f"{t:.0%}" for t in matrix["test"]])
    axes.set_yticks(range(values.shape[0]), matrix["train"])
    axes.set(xlabel=f"tested at (100 % is {whole})", title="Dice by scale")
    save(figure, path)
