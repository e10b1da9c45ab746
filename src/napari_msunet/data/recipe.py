"""The recipe: the options of a training that a person left open, chosen from the images, their truth and the time.

The rules were found by `benchmarks/defaults.py`; `docs/defaults.md` has what was measured.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, log, sqrt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import zoom

from napari_msunet.config import (
    AnyModel,
    Augmentation,
    AutoModel,
    ModelConfig,
    Optimiser,
    SettledTrainJob,
    TrainJob,
    UNetConfig,
)
from napari_msunet.config.sources import Source
from napari_msunet.constants import IGNORED
from napari_msunet.data.items import Item
from napari_msunet.data.masks import Mask
from napari_msunet.data.sources import load_sources
from napari_msunet.errors import SourceError
from napari_msunet.events import check as check_stop
from napari_msunet.geometry import Region, Resolution, Window, as_scale, common_alignment, round_up
from napari_msunet.slide.pixel_size import PIXELS

EPOCHS = 100
"""Without a time limit."""

UNLIMITED_EPOCHS = 1_000_000
"""With one: it ends the training before."""

VALIDATION = 0.2
BATCH = 8
WINDOW = 128
STOP_AFTER = 25
_PASS = 32
"""Batches that a classical method is fitted to and scored on."""

_IMAGES = 24  # how many are looked at
_SIDE = 1024  # pixels of each that are looked at, about its middle
_FACTORS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_ODD = (3, 5, 9, 15, 25)  # with odd factors two classes can never tie
_FURTHER = 2.0  # how far beyond the factors that were tried a limit may lie
_SHORT, _LONG = 60.0, 800.0  # processor seconds between which a training goes from coarse and narrow to fine and wide
_GPU = 50  # processor seconds that a second of a graphics card is worth, at least
_MASKS = 0.95, 0.97  # Dice that masks keep at the chosen resolution, at least: of a short and of a long training
_STRUCTURE = 0.8, 0.87  # share of the images' variance that is left at it, at least: likewise
_WIDTHS = 8, 16  # channels at the finest resolution: likewise
_BLURRED = 0.998  # share of the variance left at half the resolution, above which the finer one shows nothing more
_LEAST_WINDOW = 32
_LEAST_SIDE = 64  # pixels of an image's shorter side


@dataclass(frozen=True)
class ImageStatistics:
    """Measures of the images; all lengths in µm, or in pixels of the images for a model in pixels.

    Attributes
    ----------
    mpp : float
        µm per pixel of the images; of several, the median. 1 in pixels.
    extents : sequence of (height, width)
        Of all images in µm.
    channels : int
    effort : float
        How long is trained, from 0 (a minute) to 1: see `effort`.
    masks : float
        The coarsest µm per pixel at which masks keep most of their Dice when they are brought there and back.
    structure : float
        The coarsest µm per pixel at which the images keep most of their variance.
    sharp : float
        The finest µm per pixel at which the images hold detail.
    unit : str
    """

    mpp: float
    extents: Sequence[tuple[float, float]]
    channels: int
    effort: float
    masks: float
    structure: float
    sharp: float
    unit: Literal["µm", "px"] = "µm"

    @property
    def shorter(self) -> float:
        """The shorter side of a typical image in µm."""
        return float(np.median([min(extent) for extent in self.extents]))


def settle(job: TrainJob, look: ImageStatistics | None = None) -> tuple[SettledTrainJob, tuple[str, ...]]:
    """Choose the options that a job leaves open.

    Parameters
    ----------
    job : TrainJob
    look : ImageStatistics, optional
        What `look_for` found in the images of this job; None: they are looked at.

    Returns
    -------
    SettledTrainJob
    tuple of str
        Why it is what it is, in sentences; none where nothing was open.

    Raises
    ------
    SourceError, MissingMppError, SlideError
        If images and masks cannot be used.
    """
    limited = job.time_limit is not None
    values = {name: getattr(job, name) for name in TrainJob.model_fields}
    defaults = {
        "epochs": UNLIMITED_EPOCHS if limited else EPOCHS,
        "validation": 0.0 if limited else VALIDATION,
        "batch_size": BATCH,
    }
    values |= {name: default for name, default in defaults.items() if values[name] is None}
    if job.optimiser.stop_after is None and not limited:
        values["optimiser"] = job.optimiser.model_copy(update={"stop_after": STOP_AFTER})
    reasons: list[str] = []
    if isinstance(job.model, AutoModel) or job.size is None:
        wanted = _wanted(job)
        if isinstance(wanted, ModelConfig) and wanted.image_size is not None:
            values["size"] = wanted.image_size  # whole images
            return SettledTrainJob(**values), ()
        look = look or look_for(job)
        model = _model(wanted, look, reasons) if isinstance(wanted, AutoModel) else wanted
        values["model"] = model
        if job.size is None:
            values["size"] = _window(model, look, reasons)
    if values["model"].classical:
        reasons.append(
            "A classical method is fitted once, in one pass: time, epochs, loss, optimiser and random changes do not "
            "count."
        )
        values |= {"epochs": 1, "steps": job.steps or _PASS, "augmentation": Augmentation.none()}
        values |= {"optimiser": Optimiser(average="none"), "find_batch_size": False, "find_learning_rate": False}
    if limited and job.validation is None:
        reasons.append("All images train until the time is up, and an average of the last weights is kept: not scored.")
    return SettledTrainJob(**values), tuple(reasons)


def _wanted(job: TrainJob) -> AnyModel:
    """The model of a job, in pixels where all its images are."""
    wanted = job.model
    if isinstance(wanted, AutoModel) and wanted.mpp is None and all(s.mpp == PIXELS for s in job.sources):
        return wanted.model_copy(update={"mpp": PIXELS})
    return wanted


def look_for(job: TrainJob) -> ImageStatistics:
    """Look at the images of a job, for all trainings that differ from it in other options only."""
    return look_at(job.sources, _wanted(job), effort(job))


def effort(job: TrainJob) -> float:
    """How much a training can learn, from 0 (a minute of one processor) to 1 (a quarter of an hour, or no limit).

    Linear in the logarithm of the processor time. A machine's processors count up to four, which is what networks of
    this size make use of.
    """
    if job.time_limit is None:
        return 1.0
    seconds = job.time_limit
    if job.clock == "wall":
        on_gpu = job.device.startswith(("cuda", "mps"))
        seconds *= _GPU if on_gpu else min(4, os.cpu_count() or 1)
    return min(1.0, max(0.0, log(seconds / _SHORT) / log(_LONG / _SHORT)))


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])


# ---------------------------------------------------------------------------------------------------------- choosing


def _model(given: AutoModel, look: ImageStatistics, reasons: list[str]) -> ModelConfig:
    """One scale at the resolution that the objects need; options that are given stay."""
    works = given.target
    if works is None:
        works, reason = resolution(look)
        reasons.append(reason)
    size = works.size
    if given.image_size is not None:  # whole images, whose pixels have no size
        size, look = 1.0, replace(look, extents=[(float(given.image_size),) * 2])
    pixel = size if works.unit == "px" else 1.0
    chosen: dict[str, Any] = {"mpp": works.mpp, "pixel": pixel, "channels": look.channels}
    scales = given.scales or (1.0,)
    chosen |= {"scales": scales, "fusion": "mean" if len(scales) == 1 else "attention"}
    chosen["field"] = "same" if len(scales) == 1 else "concentric"
    depth = _depth(look, size)
    while given.image_size is not None and depth > 1 and given.image_size % _multiple(scales, depth):
        depth -= 1
    chosen["branch"] = UNetConfig(depth=depth, width=_WIDTHS[look.effort >= 0.5])
    return ModelConfig.model_validate(chosen | given.given)


def _multiple(scales: Sequence[float], depth: int) -> int:
    """Sides of windows are multiples of this, with U-Nets of this depth."""
    return common_alignment(tuple(as_scale(s) for s in scales), (2**depth,) * len(scales))


def resolution(look: ImageStatistics) -> tuple[Resolution, str]:
    """The coarsest resolution that keeps the masks' outlines and the images' structure, and the reason for it."""
    wanted, why = min(
        (look.masks, f"at a coarser one the masks' Dice would fall below {_between(_MASKS, look.effort):.2f}"),
        (
            look.structure,
            f"at a coarser one less than {_between(_STRUCTURE, look.effort):.0%} of the structure is left",
        ),
        (look.shorter / _LEAST_SIDE, f"at a coarser one the images would have fewer than {_LEAST_SIDE} pixels a side"),
    )
    if wanted <= look.sharp:
        wanted, why = look.sharp, "the images hold no finer detail"
    works = Resolution(wanted if wanted == look.mpp else float(f"{wanted:.2g}"), look.unit)
    return works, f"The model works {works.at}: {why}."


def _depth(look: ImageStatistics, mpp: float) -> int:
    """Poolings: four, fewer where the images are small."""
    return 4 if look.shorter / mpp >= 64 else 3 if look.shorter / mpp >= 32 else 2


def _window(model: ModelConfig, look: ImageStatistics, reasons: list[str]) -> int:
    """Side of a window: no larger than a typical image, whole strides of the network."""
    if model.image_size is not None:
        reasons.append(f"Windows are whole images, brought to {model.image_size} x {model.image_size} pixels.")
        return model.image_size
    multiple, pixel = model.size_multiple, model.resolution.size
    fitting = int(look.shorter / pixel) // multiple * multiple
    size = max(min(round_up(WINDOW, multiple), fitting), round_up(_LEAST_WINDOW, multiple))
    if size > look.shorter / pixel + 0.5:
        reasons.append(
            f"Windows have {size} pixels, more than the images' {look.shorter / pixel:.0f}: the rest is background."
        )
    else:
        reasons.append(f"Windows have {size} pixels ({size * pixel:.3g} {look.unit}) a side, {BATCH} in a step.")
    return size


# ----------------------------------------------------------------------------------------------------------- looking


def look_at(sources: Sequence[Source], model: AnyModel, effort: float = 1.0) -> ImageStatistics:
    """Look at a sample of the images and of their truth, for a training of this effort.

    Raises
    ------
    SourceError
        If the images differ in their channels, or nothing is annotated in any.
    MissingMppError, SlideError
        If images cannot be used.
    """
    items = load_sources(sources, model)
    chosen = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(_IMAGES, len(items))).round().astype(int))]
    looks = []
    for item in chosen:
        check_stop()
        try:
            looks.append(_look(item, len(model.classes), effort))
        finally:
            item.release()
    channels = {look.channels for look in looks}
    if len(channels) > 1:
        raise SourceError(
            f"The images have {' and '.join(map(str, sorted(channels)))} channels; give images with equally many."
        )
    own = float(np.median([look.mpp for look in looks]))
    masks = [look.masks for look in looks if look.masks]
    return ImageStatistics(
        mpp=own,
        extents=[extent for look in looks for extent in look.extents],
        channels=channels.pop(),
        effort=effort,
        masks=max(own, _middle(masks)) if masks else own,
        structure=max(own, _middle([look.structure for look in looks])),
        sharp=_middle([look.sharp for look in looks]),
        unit=model.unit,
    )


def _middle(values: Sequence[float]) -> float:
    """The median of sizes, by their ratios."""
    return exp(float(np.median([log(value) for value in values])))


def _look(item: Item, classes: int, effort: float) -> ImageStatistics:
    """One image, about the place where most is annotated; `masks` is 0 where nothing is annotated as a class."""
    slide = item.slide
    sides = slide.mpp or (1.0, 1.0)  # loading refuses images of another unit than the model's
    mpp = sqrt(sides[0] * sides[1])
    window = _busiest(item)
    grid = item.truth.grid
    region = grid.region(window)
    pixels = slide.read(Region(region.y, region.x, min(region.height, _SIDE), min(region.width, _SIDE)))
    structure, sharp = _image_limits(pixels.astype(np.float32).mean(-1), mpp, _between(_STRUCTURE, effort))
    own_mpp = sqrt(grid.pixel[0] * grid.pixel[1]) * mpp
    masks = _masks_limit(item.truth.read(window), own_mpp, classes, _between(_MASKS, effort))
    extent = slide.shape[0] * sides[0], slide.shape[1] * sides[1]
    return ImageStatistics(mpp, [extent], slide.shape[2], effort, masks, structure, sharp)


def _busiest(item: Item) -> Window:
    """The square of the truth's own pixels in which most is annotated as a class."""
    values, grid = item.truth.overview()
    own = item.truth.grid
    labelled = ((values > 0) & (values != IGNORED)).astype(np.int64)
    for axis in (0, 1):
        side = max(1, round(_SIDE * own.pixel[axis] / grid.pixel[axis]))
        labelled = np.add.reduceat(labelled, np.arange(0, labelled.shape[axis], side), axis)
    y, x = np.unravel_index(int(labelled.argmax()), labelled.shape)
    item.forget_mask()
    return Window(int(y) * _SIDE, int(x) * _SIDE, _SIDE, _SIDE).intersection(own.whole)


def _image_limits(grey: npt.NDArray[np.float32], mpp: float, least: float) -> tuple[float, float]:
    """The coarsest µm per pixel that keeps this share of an image's variance, and the finest that shows anything more.

    Averages over blocks of pixels, whose variance falls as detail is lost.
    """
    whole = float(grey.var())
    if whole <= 0:
        return mpp, mpp
    left = {1: 1.0}
    for factor in _FACTORS[1:]:
        if min(grey.shape) < 2 * factor:
            break
        left[factor] = float(_blocks(grey, factor).var()) / whole
    sharp = 1
    while 2 * sharp in left and left[2 * sharp] > _BLURRED:
        sharp *= 2
    return mpp * _crossing(left, least), mpp * sharp


def _blocks(grey: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float32]:
    """Means of blocks of `factor` pixels a side."""
    height, width = (n // factor * factor for n in grey.shape)
    blocks = grey[:height, :width].reshape(height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean((1, 3)), np.float32)


def _crossing(kept: dict[int, float], least: float) -> float:
    """The factor, interpolated between the tried ones, at which the kept share falls below `least`; the last if
    never."""
    factors = sorted(kept)
    for before, after in pairwise(factors):
        if kept[after] < least:
            share = (kept[before] - least) / (kept[before] - kept[after])
            return exp(log(before) + share * (log(after) - log(before)))
    return float(factors[-1])


def _masks_limit(values: Mask, mpp: float, classes: int, least: float) -> float:
    """The coarsest µm per pixel at which a truth keeps this Dice; 0 where it has none of the classes.

    What is lost grows with the size of the pixels, as long as it is little: it is measured where it is about as much as
    may be lost, and the rest is proportion. So masks of other resolutions give the same µm.
    """
    present = [value for value in range(1, classes + 1) if (values == value).any()]
    if not present:
        return 0.0
    best = (1, 0.0)
    for factor in _ODD:
        if min(values.shape) < 2 * factor:
            break
        lost = max(1e-6, 1 - _dice_at(values, factor, classes, present))
        if not best[1] or abs(log(lost / (1 - least))) < abs(log(best[1] / (1 - least))):
            best = factor, lost
        if lost > 1 - least:
            break
    factor, lost = best
    return mpp * factor * min(_FURTHER, (1 - least) / lost) if lost else mpp


def _dice_at(values: Mask, factor: int, classes: int, present: Sequence[int]) -> float:
    """Dice, mean over classes, of a truth brought to larger pixels by majority, and back bilinearly."""
    rows, columns = (-(-n // factor) for n in values.shape)
    padded = np.full((rows * factor, columns * factor), IGNORED, np.uint8)
    padded[: values.shape[0], : values.shape[1]] = values
    blocks = padded.reshape(rows, factor, columns, factor)
    most = np.stack([(blocks == value).sum((1, 3)) for value in range(classes + 1)]).argmax(0)
    maps = [(most == value).astype(np.float32) for value in range(classes + 1)]
    larger = [zoom(m, factor, order=1, grid_mode=True, mode="nearest") for m in maps]
    back = np.stack(larger).argmax(0)[: values.shape[0], : values.shape[1]]
    known = values != IGNORED
    found = [((back == v) & known, values == v) for v in present]
    return float(np.mean([2 * (p & t).sum() / (p.sum() + t.sum()) for p, t in found]))
