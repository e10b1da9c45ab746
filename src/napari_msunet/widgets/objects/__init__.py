"""Objects in the viewer: the one under the mouse, and all of them in a table that follows edits."""

from napari_msunet.widgets.objects.panel import ObjectsPanel

__all__ = ["ObjectsPanel"]
