"""From what a person names (folders, tables, slides, public sets) to items: images with their truth, all checked."""

from __future__ import annotations

from collections.abc import Sequence

from napari_msunet.config import (
    AnyModel,
    FolderSource,
    ShapesSource,
    SlideSource,
    Source,
    TableSource,
)
from napari_msunet.data.duplicates import once
from napari_msunet.data.folders import folder_items, pair_files, read_table, stem, table_items
from napari_msunet.data.items import Item, Say
from napari_msunet.data.slides import shapes_item, slide_item

__all__ = ["Say", "load_sources", "pair_files", "read_table", "stem"]


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
