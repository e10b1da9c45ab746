"""Labels of whole slides that can be painted on, at any zoom."""

from napari_msunet.widgets.pyramid_labels.adding import add_labels
from napari_msunet.widgets.pyramid_labels.layer import PyramidLabels

__all__ = ["PyramidLabels", "add_labels"]
