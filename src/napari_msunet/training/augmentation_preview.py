"""A preview of training windows as each scale sees them, unchanged and after random changes: arrays and a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from napari_msunet._io import aside, make_folder
from napari_msunet.config import Augmentation, PreviewAugmentationJob, TrainJob
from napari_msunet.constants import IGNORED
from napari_msunet.data.augmentation import Augmented, Views, augment
from napari_msunet.data.loader import Batch, Crops, TrainBatches
from napari_msunet.data.recipe import settle
from napari_msunet.data.sampling import Sampler
from napari_msunet.events import Event, Message, Result
from napari_msunet.models import input_windows
from napari_msunet.training.module import window_views
from napari_msunet.training.prepare import prepare_data
from napari_msunet.training.scoring.panels import figure_of, save

_CELL = 1.7  # inches


@dataclass(frozen=True)
class AugmentationPreview:
    """Windows as the branches see them.

    Attributes
    ----------
    names : tuple of str
        Names of the windows' images.
    scales : tuple of str
        Names such as ``"scale 1/2"``, one for each array of `inputs`.
    inputs : tuple of (n, 1 + variants, h, w, c) uint8 arrays
        For each scale and window, first the unchanged pixels, then the variants.
    truth : (n, 1 + variants, H, W) uint8 array
        0 background, 1..K classes, 255 ignored.
    """

    names: tuple[str, ...]
    scales: tuple[str, ...]
    inputs: tuple[npt.NDArray[np.uint8], ...]
    truth: npt.NDArray[np.uint8]


def augmentation_preview(
    training: TrainJob, count: int = 4, variants: int = 3, messages: list[Event] | None = None
) -> AugmentationPreview:
    """The first training windows of a job, and random changes of them, as the training draws them.

    Parameters
    ----------
    training : TrainJob
        The training whose windows are shown; nothing is trained or written.
    count, variants : int
        The number of windows, and of changes of each.
    messages : list, optional
        Gets the messages about the images.

    Raises
    ------
    SourceError, MissingMppError, SlideError
        If the images cannot be used.
    """
    told = messages if messages is not None else []

    def say(level: str, text: str) -> None:
        told.append(Message(level="warning" if level == "warning" else "info", text=text))

    job, reasons = settle(training)
    told += [Message(text=reason) for reason in reasons]
    prepared = prepare_data(job, say)
    try:
        config, sampler = prepared.seen, prepared.sampler
        crops = Crops(config.input_ratios, partial(input_windows, config), mirror=config.mirrored)
        views = window_views(config, prepared.size)
        plain = _batch(crops, sampler, count, ([0] * len(views.sizes), 0))
        padded = _batch(crops, sampler, count, views.pads(job.augmentation))
    finally:
        prepared.release()
    numbers = [place[0] for place in plain.places or []]
    seen = [augment(plain.inputs, plain.target, views, Augmentation.none(), 0)]
    seen += [
        augment(padded.inputs, padded.target, views, job.augmentation, plain.seed + n, padded.brightfield)
        for n in range(variants)
    ]
    return AugmentationPreview(
        tuple(sampler.items[n].name for n in numbers),
        tuple(f"scale {ratio}" for ratio in job.model.ratios),
        tuple(_pixels(seen, i, views) for i in range(len(views.sizes))),
        torch.stack([s.target for s in seen], 1).to(torch.uint8).numpy(),
    )


def _batch(crops: Crops, sampler: Sampler, count: int, pads: tuple[list[int], int]) -> Batch:
    """The first batch of the first epoch."""
    batches = TrainBatches(crops, sampler, count, 1, *pads)
    batch: Batch = next(iter(batches))
    batches.close()
    return batch


def _pixels(seen: list[Augmented], scale: int, views: Views) -> npt.NDArray[np.uint8]:
    """The windows of a scale, `(n, 1 + variants, h, w, c)`."""
    values = torch.stack([s.inputs[scale] for s in seen], 1).movedim(2, -1)
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def augmentation_preview_events(job: PreviewAugmentationJob) -> Iterator[Event]:
    """Run a preview job.

    Yields
    ------
    Event
        Messages, and a `Result` with ``"names"``, ``"scales"`` and ``"classes"``, and the files
        ``"preview"`` (PNG) and ``"arrays"`` (npz: ``truth``, and ``input0``, ``input1``, ... for the scales).

    Raises
    ------
    SourceError, MissingMppError, SlideError
        If the images cannot be used.
    OutputError
        If `job.out` cannot be written.
    """
    messages: list[Event] = []
    preview = augmentation_preview(job.training, job.count, job.variants, messages)
    yield from messages
    make_folder(job.out)
    picture, arrays = job.out / "preview.png", job.out / "preview.npz"
    with aside(arrays) as path, path.open("wb") as file:
        inputs: dict[str, Any] = {f"input{i}": values for i, values in enumerate(preview.inputs)}
        np.savez_compressed(file, truth=preview.truth, **inputs)
    draw_preview(picture, preview)
    yield Result(
        values={"names": preview.names, "scales": preview.scales, "classes": job.training.model.classes},
        files={"preview": str(picture), "arrays": str(arrays)},
    )


def draw_preview(path: Path, preview: AugmentationPreview) -> None:
    """Draw a grid with a row for each window, and for each of its variants a column for each scale and the truth.

    Raises
    ------
    OutputError
        If the picture cannot be written.
    """
    rows, shown = preview.truth.shape[:2]
    each = len(preview.inputs) + 1
    figure = figure_of(_CELL * each * shown, _CELL * rows + 0.5, dpi=100)
    axes = figure.subplots(rows, each * shown, squeeze=False)
    for row in range(rows):
        for variant in range(shown):
            for column in range(each):
                cell = axes[row][variant * each + column]
                cell.set_xticks([])
                cell.set_yticks([])
                if column < len(preview.inputs):
                    _show(cell, preview.inputs[column][row, variant])
                    title = preview.scales[column]
                else:
                    truth = np.ma.masked_equal(preview.truth[row, variant], IGNORED)
                    cell.imshow(truth, cmap="viridis", vmin=0, vmax=max(1, _classes(preview)), interpolation="nearest")
                    cell.set_facecolor("0.8")
                    title = "truth"
                if row == 0:
                    head = "as it is" if variant == 0 else f"change {variant}"
                    cell.set_title(f"{head}: {title}" if column == 0 else title, fontsize=8)
        axes[row][0].set_ylabel(preview.names[row][:18], fontsize=7)
    save(figure, path)


def _show(cell: Any, pixels: npt.NDArray[np.uint8]) -> None:
    """Show an image of any number of channels: in colour where there are three, else the first channel."""
    colour = pixels.shape[2] == 3
    cell.imshow(pixels if colour else pixels[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _classes(preview: AugmentationPreview) -> int:
    """The largest class number that occurs."""
    known = preview.truth[preview.truth != IGNORED]
    return int(known.max()) if known.size else 0
