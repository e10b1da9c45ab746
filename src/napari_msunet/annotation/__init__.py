"""Label stores to shapes and back: polygons, measurements, exports, and drawings of other programs."""

from napari_msunet.annotation.export import export_events
from napari_msunet.annotation.measure import measure_events
from napari_msunet.annotation.painting import import_shapes
from napari_msunet.annotation.polygons import LabelShape, label_polygons, walk_polygons
from napari_msunet.annotation.shape_files import DrawnShape, ShapeFileError, read_shapes

__all__ = [
    "DrawnShape",
    "LabelShape",
    "ShapeFileError",
    "export_events",
    "import_shapes",
    "label_polygons",
    "measure_events",
    "read_shapes",
    "walk_polygons",
]
