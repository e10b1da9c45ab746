"""Labels of whole slides that can be painted on, at any zoom."""

from napari_msunet.widgets.paint.adding import add_labels
from napari_msunet.widgets.paint.pyramid_labels import PyramidLabels

__all__ = ["PyramidLabels", "add_labels"]
