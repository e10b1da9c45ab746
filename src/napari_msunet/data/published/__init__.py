"""Public data sets as they were published: one small file for each family."""

from napari_msunet.data.published.reading import published_items, recognised

__all__ = ["published_items", "recognised"]
