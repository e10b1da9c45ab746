"""Images that several trainings of one job share: loaded, checked and read once, then held in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from napari_msunet.config import AnyModel, Source
from napari_msunet.data.items import Item, Say
from napari_msunet.data.loader import WholeCache, cache_bytes
from napari_msunet.data.sources import load_sources

_TARGETS = 4
"""For how many resolutions (or other properties of the model that images are loaded for) the items are kept."""

_LOADED_FOR = {"classes", "channels", "channel_names", "normalisation", "trained_on"}
"""The fields of a model on which the items depend, beside its target grid."""


class SharedImages:
    """Images with their truth, loaded once for all trainings that use them.

    Attributes
    ----------
    cache : WholeCache
        The pixels of small images at all scales.
    """

    def __init__(self) -> None:
        self.cache = WholeCache(cache_bytes())
        self._items: OrderedDict[tuple[str, ...], list[Item]] = OrderedDict()

    def load(self, sources: Sequence[Source], config: AnyModel, say: Say | None = None) -> list[Item]:
        """As `load_sources`; messages come only when the images are really loaded."""
        wanted = config.model_dump_json(include=_LOADED_FOR)
        key = (wanted, config.unit, repr(config.target), *(source.model_dump_json() for source in sources))
        if key not in self._items:
            self._items[key] = load_sources(sources, config, say)
            while len(self._items) > _TARGETS:
                self._items.popitem(last=False)
        self._items.move_to_end(key)
        return list(self._items[key])

    def release(self) -> None:
        """Close all images."""
        for items in self._items.values():
            for item in items:
                item.release()
