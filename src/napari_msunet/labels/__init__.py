"""Label stores: pyramids of labels on disk that keep every edit, and the machine's runs beside them."""

from napari_msunet.labels.review import Candidate, review_queue
from napari_msunet.labels.runs import Run
from napari_msunet.labels.shapes import Brush, Polygon
from napari_msunet.labels.store import LabelStore, open_labels
from napari_msunet.labels.tissue import tissue_labels

__all__ = ["Brush", "Candidate", "LabelStore", "Polygon", "Run", "open_labels", "review_queue", "tissue_labels"]
