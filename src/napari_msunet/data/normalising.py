"""The constants that a model's first layer subtracts and divides by, from a sample of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.config import AnyModel, Kind, ModelConfig, Normalisation, NormaliseBy, TrainedOn, ValueRange
from napari_msunet.data.items import Item, Say
from napari_msunet.data.loader import as_tensor, as_unit
from napari_msunet.slide.appearance import legacy_scale, seen_as
from napari_msunet.slide.numbers import Numbers, PixelSample, decide, kept_of, unit_scale, with_origin

# ----------------------------------------------------------------------------------------------------------------------
# What the numbers of a set of images mean: kind and range decided for the set as a whole, and kept with each image.

MOST = 256
"""Images of a set whose pixels are looked at, spread evenly over it."""


def settle_numbers(
    items: Sequence[Item],
    config: AnyModel,
    say: Say,
    kind: Kind | None = None,
    value_range: ValueRange | None = None,
    given: dict[str, tuple[Kind | None, ValueRange | None]] | None = None,
) -> None:
    """Decide what the numbers of the images of one source mean, and how the model sees them, and keep it with the
    items.

    Parameters
    ----------
    items : sequence of Item
        Of one source; they are closed again.
    config : AnyModel
        Of the model that is trained or scored; what a trained one saw is kept to.
    say : callable
    kind, value_range : optional
        What a person gave for all images.
    given : dict, optional
        The same for single images, by name.
    """
    given = given or {}
    groups: dict[tuple[Kind | None, ValueRange | None], list[Item]] = {}
    for item in items:
        own_kind, own_range = given.get(item.name, (None, None))
        groups.setdefault((own_kind or kind, own_range or value_range), []).append(item)
    for (said_kind, said_range), own in groups.items():
        _settle(own, config, say, said_kind, said_range)


def _settle(items: list[Item], config: AnyModel, say: Say, kind: Kind | None, value_range: ValueRange | None) -> None:
    looked = {n * len(items) // min(MOST, len(items)) for n in range(min(MOST, len(items)))}
    samples = [_sample(item) if n in looked else None for n, item in enumerate(items)]
    # a public set has thousands of images, and all of them are like the first
    infos = [(item if "facts" in vars(item) or n in looked else items[0]).facts.info for n, item in enumerate(items)]
    blank = next(s for s in samples if s is not None)
    blank = blank._replace(pixels=blank.pixels[:0], low=float("nan"), high=float("nan"))
    every = decide(infos, [blank if s is None else s for s in samples], kind, value_range)
    told: dict[str, None] = {}
    for item, info, numbers in zip(items, infos, every, strict=True):
        scale = unit_scale(numbers.value_range)
        doubts: tuple[str, ...] = ()
        name = item.name if len(items) == 1 else f"{len(items)} images such as {item.name}"
        dtype = info.dtype
        model = config if isinstance(config, ModelConfig) else None
        if model is not None and model.trained_on is not None:
            scale, doubts = seen_as(model.trained_on, numbers, dtype, name)
        elif model is not None and model.normalisation is not None:  # a model of an older version
            scale = legacy_scale(dtype)
        elif numbers.doubt is not None:
            doubts = (f"{name}: {numbers.doubt}.",)
        item.decided["numbers"], item.decided["scale"] = numbers, scale
        if doubts and not any(d.split(": ", 1)[-1] in t for d in doubts for t in told):
            told |= dict.fromkeys(doubts)
    for text in told:
        say("warning", text)


def _sample(item: Item) -> PixelSample:
    """The pixels of an image that are looked at; the image is closed again unless it was open."""
    was_open = "slide" in item._kept
    try:
        return item.slide.sample
    finally:
        if not was_open:
            item.release()


def trained_on(items: Sequence[Item], say: Say) -> TrainedOn:
    """What a model keeps about its training images; a message shows it, too."""
    every: list[Numbers] = [item.numbers for item in items]
    words = dict.fromkeys(with_origin(numbers) for numbers in every)
    say("info", f"The images are {'; '.join(list(words)[:3])}.")
    known = {id(item): item.facts.dtype for item in items if "facts" in vars(item)}
    any_other = items[0].facts.dtype
    return kept_of(every, [known.get(id(item), any_other) for item in items])


# ----------------------------------------------------------------------------------------------------------------------
# Normalisation: what the model's first layer subtracts and divides by.

_KEPT = 65536
"""How many pixels of a window the percentiles are taken from."""
_LOW, _HIGH = 0.01, 0.99
_LEAST, _SAME = 1e-3, 2e-5
"""The divisor of a constant channel, which is one whose values vary by less than this."""


def fit_normalisation(windows: Iterable[npt.NDArray[Any]], by: NormaliseBy) -> Normalisation:
    """The constants of ``(input - mean) / std`` for each channel.

    Parameters
    ----------
    windows : iterable of (h, w, c) arrays
        A sample of the images' pixels, uint8 or float32 in 0..1; not looked at where only the range of numbers counts.
    by : str
        "z-score": mean 0, standard deviation 1. "percentile": the 1st percentile becomes 0, the 99th 1. "0-1" and
        "-1-1": the range of the numbers of the files.
    """
    count = 0
    total = square = np.zeros(0)
    kept: list[npt.NDArray[np.float32]] = []
    channels = 0
    for pixels in windows:
        values = as_unit(as_tensor(pixels)).double().numpy()
        channels = values.shape[0]
        if by in ("0-1", "-1-1"):
            break
        if not count:
            total, square = np.zeros(channels), np.zeros(channels)
        count += values[0].size
        if by == "z-score":
            total = total + values.sum((1, 2))
            square = square + (values**2).sum((1, 2))
        else:
            flat = values.reshape(channels, -1)
            kept.append(flat[:, :: max(1, flat.shape[1] // _KEPT)].astype(np.float32))
    if by == "0-1":
        mean, std = np.zeros(channels), np.ones(channels)
    elif by == "-1-1":
        mean, std = np.full(channels, 0.5), np.full(channels, 0.5)
    elif by == "percentile":
        low, high = np.quantile(np.concatenate(kept, 1).astype(np.float64), (_LOW, _HIGH), axis=1)
        mean, std = low, _not_zero(high - low)
    else:
        mean = total / count
        std = _not_zero(np.sqrt(np.maximum(square / count - mean**2, 0)))
    return Normalisation(mean=_rounded(mean), std=_rounded(std))


def _not_zero(spread: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Divisors without zeros: a dim image must not be taken for a constant one."""
    return np.where(spread < _SAME, _LEAST, spread)


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{v:.8g}") if abs(v) < 0.01 else round(float(v), 6) for v in values)
