"""Score a model against masks, at the masks' own resolution, fused and each scale alone, per image and pooled."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from napari_msunet.config import EvaluateJob
from napari_msunet.data import IGNORED, Item, load_sources
from napari_msunet.data.sampling import known_cells
from napari_msunet.errors import OutputError, SourceError
from napari_msunet.events import Event, Message, Progress, Result
from napari_msunet.geometry import Grid, Window, round_up
from napari_msunet.infer import predict_image
from napari_msunet.models import MSUNet, load_model
from napari_msunet.train.metrics import SCORES, Confusion, report
from napari_msunet.train.record import write_text

_MEMORY = 256e6
_LARGEST = 2048
_BAND = 256

Probabilities = npt.NDArray[np.float32]


def evaluate_events(job: EvaluateJob) -> Iterator[Event]:
    """Score a model.

    Parameters
    ----------
    job : EvaluateJob

    Yields
    ------
    Event
        `Progress` (images) and at the end a `Result`. Its ``"pooled"`` has, for "fused" and each scale, the mean of
        each score over classes 1..K and under ``"classes"`` each class's own; ``"images"`` the same for each image,
        beside its ``"name"`` and ``"group"``; ``"classes"`` the names. With `job.out`: report.json and images.csv.

    Raises
    ------
    ModelError
        If there is no such model.
    SourceError, MissingMppError, SlideError
        If images and masks cannot be used.
    OutputError
        If the report cannot be written.
    """
    model = load_model(job.model)
    messages: list[Event] = []
    items = load_sources(
        job.sources,
        model.config,
        lambda level, text: messages.append(Message(level="warning" if level == "warning" else "info", text=text)),
    )
    chosen = [i for i in items if job.roles is None or i.role in job.roles]
    if not chosen:
        raise SourceError(
            f"None of the {len(items)} images has the role {' or '.join(job.roles or ())}; leave roles out, or give "
            "their sources this role."
        )
    yield from messages
    yield from _warn_of_training(model, chosen)
    started = time.monotonic()
    pooled = {name: Confusion(len(model.config.classes) + 1) for name in model.config.outputs}
    images: list[dict[str, Any]] = []
    for number, item in enumerate(chosen, start=1):
        try:
            counts = score_item(model, item, job.device)
        finally:
            item.release()
        images.append({"name": item.name, "group": item.group} | _reports(counts, model))
        for name, confusion in counts.items():
            pooled[name].merge(confusion)
        left = (time.monotonic() - started) / number * (len(chosen) - number)
        yield Progress(done=number, total=len(chosen), unit="images", seconds_left=left)
    values = {
        "pooled": _reports(pooled, model),
        "images": images,
        "classes": list(model.config.classes),
        "model": {"path": str(job.model), "fingerprint": model.fingerprint, "mpp": model.config.mpp},
    }
    yield Result(values=values, files=_write(job.out, values) if job.out else {})


def _warn_of_training(model: MSUNet, items: list[Item]) -> Iterator[Event]:
    """Scores on training images say little."""
    trained = set(model.summary.get("split", {}).get("train", ()))
    if known := sum(i.name in trained for i in items):
        yield Message(
            level="warning",
            text=f"{known} of the {len(items)} images have the names of images this model was trained on; scores on "
            "them look better than on new ones.",
        )


def _reports(counts: Mapping[str, Confusion], model: MSUNet) -> dict[str, Any]:
    return {name: report(confusion.matrix, model.config.classes) for name, confusion in counts.items()}


def score_item(model: MSUNet, item: Item, device: str = "auto") -> dict[str, Confusion]:
    """Count predicted against true classes at the truth's own resolution, where there is truth.

    A large image is done window by window, so memory does not grow with it.

    Parameters
    ----------
    model : MSUNet
    item : Item
    device : str

    Returns
    -------
    dict of str to Confusion
        For "fused" and each scale.
    """
    outputs = len(model.config.classes) + 1
    counts = {name: Confusion(outputs) for name in model.config.outputs}
    size = int(min(_LARGEST, (_MEMORY / 4 / outputs / len(counts)) ** 0.5))
    size = min(size, round_up(max(item.grid.shape), 2))
    for cell in known_cells(item, size):
        own = item.truth.grid.centres(item.grid.region(cell)).intersection(item.truth.grid.whole)
        if own.empty:
            continue
        truth = item.truth.read(own)
        if (truth == IGNORED).all():
            continue
        needed = target_window(own, item.truth.grid, item.grid)
        maps = predict_image(model, item.slide, window=needed, device=device)
        for name, confusion in counts.items():
            for top in range(0, own.height, _BAND):
                band = Window(own.y + top, own.x, min(_BAND, own.height - top), own.width)
                predicted = on_grid(maps[name], needed, item.grid, item.truth.grid, band).argmax(0)
                confusion.add(torch.from_numpy(predicted), torch.from_numpy(truth[top : top + band.height]))
    return counts


def target_window(own: Window, own_grid: Grid, grid: Grid) -> Window:
    """The pixels of `grid` between which the pixels of a window of `own_grid` are interpolated."""
    first, last = zip(*(_places(own, own_grid, grid, axis)[0][[0, -1]] for axis in (0, 1)), strict=True)
    stop = [min(int(v) + 2, n) for v, n in zip(last, grid.shape, strict=True)]
    return Window.between((int(first[0]), int(first[1])), (stop[0], stop[1]))


def _places(
    own: Window, own_grid: Grid, grid: Grid, axis: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each pixel of a window along an axis: the grid pixel before its centre, and how far it is from that to the
    next, 0 to 1. Beyond the first and the last pixel centre of the grid, the outermost pixel counts."""
    start, count = (own.y, own.height) if axis == 0 else (own.x, own.width)
    centres = (start + np.arange(count) + 0.5) * own_grid.pixel[axis] / grid.pixel[axis] - 0.5
    centres = np.clip(centres, 0, grid.shape[axis] - 1)
    first = np.floor(centres).astype(np.int64)
    return first, (centres - first).astype(np.float32)


def on_grid(maps: Probabilities, window: Window, grid: Grid, own_grid: Grid, own: Window) -> Probabilities:
    """Bring maps to another grid over the same slide, bilinearly between pixel centres.

    Parameters
    ----------
    maps : (K+1, h, w) float32 array
        In `window` of `grid`, which holds at least `target_window(own, ...)`.
    own : Window
        The wanted pixels of `own_grid`.

    Returns
    -------
    (K+1, height, width) float32 array
    """
    rows, row_share = _places(own, own_grid, grid, 0)
    columns, column_share = _places(own, own_grid, grid, 1)
    rows, columns = rows - window.y, columns - window.x
    below, right = np.minimum(rows + 1, maps.shape[1] - 1), np.minimum(columns + 1, maps.shape[2] - 1)
    share = row_share[:, None]
    mixed: npt.NDArray[Any] = maps[:, rows] * (1 - share) + maps[:, below] * share
    mixed = mixed[:, :, columns] * (1 - column_share) + mixed[:, :, right] * column_share
    return mixed.astype(np.float32, copy=False)


def _write(out: Path, values: dict[str, Any]) -> dict[str, str]:
    """report.json, and images.csv with a row for each image, output and class."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {out} cannot be made: {error.strerror}; give one in a place that can be written to."
        ) from error
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "group", "output", "class", *SCORES, "pixels"])
    for image in values["images"]:
        for output in values["pooled"]:
            scores = image[output]
            for label, row in {"mean": scores, **scores["classes"]}.items():
                numbers = ["" if row[s] is None else f"{row[s]:.6f}" for s in SCORES]
                writer.writerow([image["name"], image["group"] or "", output, label, *numbers, scores["pixels"]])
    write_text(out / "images.csv", text.getvalue())
    write_text(out / "report.json", json.dumps(values, indent=2))
    return {"report": str(out / "report.json"), "images": str(out / "images.csv")}
