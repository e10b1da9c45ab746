"""Sources of truth, splits, sampling and augmentation: from files to batches. No Qt."""

from napari_msunet.data.items import Item
from napari_msunet.data.sources import load_sources
from napari_msunet.data.split import Split, split

__all__ = ["Item", "Split", "load_sources", "split"]
