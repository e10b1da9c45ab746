"""Objects while they are edited: the one under the mouse, and all of them in a table."""

from napari_msunet.widgets.objects.panel import ObjectsPanel

__all__ = ["ObjectsPanel"]
