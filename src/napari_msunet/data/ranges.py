"""What the numbers of a set of images mean: kind and range decided for the set as a whole, and kept with each image."""

from __future__ import annotations

from collections.abc import Sequence

from napari_msunet.config import AnyModel, Kind, ModelConfig, TrainedOn, ValueRange
from napari_msunet.data.items import Item, Say
from napari_msunet.slide.appearance import legacy_scale, seen_as
from napari_msunet.slide.numbers import Numbers, PixelSample, decide, kept_of, unit_scale, with_origin

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
    """Decide what the numbers of the images of one source mean, and how the model sees them; kept with the items.

    Parameters
    ----------
    items : sequence of Item
        Of one source; they are closed again.
    config : AnyModel
        Of the model that is trained or scored; what a trained one saw is kept to.
    say : callable
    kind, value_range : optional
        What a person says of all images.
    given : dict, optional
        The same of single images, by name.
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
    # of the thousands of images of a public set, all are as the first
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
        elif model is not None and model.normalisation is not None:  # a model of before
            scale = legacy_scale(dtype)
        elif numbers.doubt is not None:
            doubts = (f"{name}: {numbers.doubt}.",)
        item.decided["numbers"], item.decided["scale"] = numbers, scale
        if doubts and not any(d.split(": ", 1)[-1] in t for d in doubts for t in told):
            told |= dict.fromkeys(doubts)
    for text in told:
        say("warning", text)


def _sample(item: Item) -> PixelSample:
    """What is looked at of an image; it is closed again unless it was open."""
    was_open = "slide" in item._kept
    try:
        return item.slide.sample
    finally:
        if not was_open:
            item.release()


def trained_on(items: Sequence[Item], say: Say) -> TrainedOn:
    """What a model keeps of its training images; said in a sentence."""
    every: list[Numbers] = [item.numbers for item in items]
    words = dict.fromkeys(with_origin(numbers) for numbers in every)
    say("info", f"The images are {'; '.join(list(words)[:3])}.")
    known = {id(item): item.facts.dtype for item in items if "facts" in vars(item)}
    any_other = items[0].facts.dtype
    return kept_of(every, [known.get(id(item), any_other) for item in items])
