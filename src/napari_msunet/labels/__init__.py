"""Label stores: pyramids of labels on disk that keep every edit, and the runs of predictions beside them."""

from napari_msunet.labels.area import tissue_labels
from napari_msunet.labels.runs.run import Run
from napari_msunet.labels.shape_masks import Brush, Polygon
from napari_msunet.labels.store import LabelStore, open_labels

__all__ = ["Brush", "LabelStore", "Polygon", "Run", "open_labels", "tissue_labels"]
