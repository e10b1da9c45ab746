"""From what a person names (folders, tables, slides, public sets) to items: images with their truth, all checked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from napari_msunet.annotation.formats import read_shape_file
from napari_msunet.annotation.importing import ClassedShapes, radii
from napari_msunet.annotation.shapes import DrawnImage, ShapeFile
from napari_msunet.config import AnyModel, FolderSource, PixelSize, ShapesSource, SlideSource, Source, TableSource
from napari_msunet.constants import IGNORED
from napari_msunet.data.duplicates import once
from napari_msunet.data.folders import folder_items, some, stem, table_items
from napari_msunet.data.items import Item, Say, check_channels
from napari_msunet.data.ranges import settle_numbers
from napari_msunet.data.truth import ShapeTruth, StoreTruth
from napari_msunet.errors import SlideError, SourceError
from napari_msunet.slide import Slide, open_slide
from napari_msunet.slide.backend import outlines_note

# ----------------------------------------------------------------------------------------------------------------------
# Slides with what was marked on them: a label store, or outlines drawn in another program.


def slide_item(source: SlideSource, config: AnyModel, say: Say) -> Item:
    """The item of a slide with a label store."""
    from napari_msunet.labels import open_labels
    from napari_msunet.labels.area import where_mask
    from napari_msunet.labels.store import check_store

    opener = partial(open_slide, source.slide, mpp=source.mpp, kind=source.image_kind, value_range=source.value_range)
    name = stem(source.slide)
    slide = opener()
    _check_size(slide, config)
    store = open_labels(source.labels)
    if tuple(store.extent) != tuple(slide.shape[:2]):
        raise SourceError(
            f"The labels {source.labels} are for an image of {store.extent[0]} x {store.extent[1]} pixels, but "
            f"{source.slide} has {slide.shape[0]} x {slide.shape[1]}; give the labels of this slide."
        )
    store.check_slide(slide)
    planes = ("labels", "edited") if source.edited_only else ("labels",)
    left_out = check_store(store, source.damaged, planes)
    if left_out is not None:
        say("warning", left_out)
    if not set(store.classes) & set(config.classes):
        raise SourceError(
            f"The labels {source.labels} have the classes {', '.join(store.classes)}, the model has "
            f"{', '.join(config.classes)}: none is the same; use the same names."
        )
    truth = StoreTruth(store, config.classes, source.edited_only, where_mask(slide, source.within))
    if truth.missing:
        say("warning", f"{name}: the model has no class {some(truth.missing)}; pixels labelled so are left out.")
    # A slide is a group of its own: parts of it never stand on both sides unless it is cut into blocks.
    group, kept = source.group or name, {"slide": slide}
    item = Item(name, opener, truth, config.target, group, source.role, kept, source.slide, source.edited_only)
    check_channels(item, config.channels)
    settle_numbers([item], config, say, source.image_kind, source.value_range)
    if bool(np.all(item.truth.overview()[0] == IGNORED)):
        if source.edited_only:
            raise SourceError(
                f"Nothing was corrected in {source.labels}, and only corrections count (edited_only); correct the "
                "prediction in a few places first."
            )
        if source.within != "all" and store.kind == "labels":
            raise SourceError(
                f"Nothing of {source.labels} counts: it has no class anywhere, and the part of {source.slide} that "
                "`within` names is empty; correct the mask, or leave out `within`."
            )
        raise SourceError(
            f"Nothing is annotated in {source.labels}; paint a few examples of each class and of background first."
        )
    return item


def shapes_item(source: ShapesSource, config: AnyModel, say: Say) -> Item:
    """The item of a slide with outlines."""
    from napari_msunet.labels.area import where_mask

    opener = partial(open_slide, source.slide, kind=source.image_kind, value_range=source.value_range)
    slide = opener(mpp=source.mpp)
    drawn = _drawn(source, slide)
    mpp: PixelSize | None = source.mpp
    if config.unit == "µm" and slide.mpp is None and source.mpp is None and drawn.mpp is not None:
        slide.close()
        mpp = drawn.mpp
        slide = opener(mpp=mpp)
        say("info", f"{source.slide.name} does not say its µm per pixel; {source.shapes.name} says {mpp:g}.")
        drawn = drawn if source.radius is None else _drawn(source, slide)
    name = stem(source.slide)
    _check_size(slide, config)
    names = None if source.values == "classes" else source.values
    found = ClassedShapes.of(drawn, config.classes, names)
    report = found.report((slide.shape[0], slide.shape[1]))
    found.check(report, config.classes, "the model", (slide.shape[0], slide.shape[1]))
    if doubt := outlines_note(source.slide.name, slide.turned):
        say("warning", f"{doubt}.")
    if report.lost:
        say("warning", f"{source.shapes.name}: {report.counted()} are used. {report.losses()}")
    outside = 0 if source.outside == "background" else IGNORED
    truth = ShapeTruth(found.numbered, (slide.shape[0], slide.shape[1]), outside, where_mask(slide, source.within))
    group, kept = source.group or name, {"slide": slide}
    item = Item(name, partial(opener, mpp=mpp), truth, config.target, group, source.role, kept, path=source.slide)
    check_channels(item, config.channels)
    settle_numbers([item], config, say, source.image_kind, source.value_range)
    return item


def _drawn(source: ShapesSource, slide: Slide) -> ShapeFile:
    return read_shape_file(source.shapes, DrawnImage.of(slide, source.image), radii(source.radius, slide.mpp))


def _check_size(slide: Slide, config: AnyModel) -> None:
    """Close a slide on which the model cannot work, with the sentence that says why."""
    try:
        slide.check_unit(config.unit)
    except SlideError:
        slide.close()
        raise


# ----------------------------------------------------------------------------------------------------------------------
# Sources of any kind as items of training data.


def load_sources(sources: Sequence[Source], config: AnyModel, say: Say | None = None) -> list[Item]:
    """Images with their truth, from folders, tables, slides and public sets.

    Every image and mask is opened once and checked: sizes, values, channels, µm per pixel. An image that is given twice
    (by its pixels, whatever its name) never comes onto two sides: see `once`. (Of the thousands of images
    of a public set in one array, the first.)

    Parameters
    ----------
    sources : sequence of FolderSource, SlideSource, TableSource, ShapesSource or PublishedSource
    config : AnyModel
        Its classes, mpp and channels are what the images must fit.
    say : callable, optional
        Takes a level ("info" or "warning") and a sentence for the user.

    Returns
    -------
    list of Item

    Raises
    ------
    SourceError
        If images, masks, tables or stores are missing or do not fit together, or one image is given for two sides.
    ShapeFileError
        If a file of outlines cannot be read.
    MissingMppError
        If an image's µm per pixel are not known.
    """
    say = say or (lambda level, text: None)
    items: list[Item] = []
    for source in sources:
        items += _items(source, config, say)
    return once(items, say)


def _items(source: Source, config: AnyModel, say: Say) -> list[Item]:
    """The items of one source."""
    if isinstance(source, FolderSource):
        return folder_items(source, config, say)
    if isinstance(source, TableSource):
        return table_items(source, config, say)
    if isinstance(source, SlideSource):
        return [slide_item(source, config, say)]
    if isinstance(source, ShapesSource):
        return [shapes_item(source, config, say)]
    from napari_msunet.data.published import published_items

    return published_items(source, config, say)
