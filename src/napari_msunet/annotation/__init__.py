"""Label stores to shapes and back: polygons, measurements, exports, and drawings of other programs."""

from napari_msunet.annotation.export import export_events
from napari_msunet.annotation.fates import ShapeFate, ShapeReport
from napari_msunet.annotation.importing import import_file, import_shapes
from napari_msunet.annotation.measure import measure_events
from napari_msunet.annotation.polygons import LabelShape, label_polygons, walk_polygons
from napari_msunet.annotation.shape_files import DrawnShape, ShapeFile, ShapeFileError, read_shape_file, read_shapes

__all__ = [
    "DrawnShape",
    "LabelShape",
    "ShapeFate",
    "ShapeFile",
    "ShapeFileError",
    "ShapeReport",
    "export_events",
    "import_file",
    "import_shapes",
    "label_polygons",
    "measure_events",
    "read_shape_file",
    "read_shapes",
    "walk_polygons",
]
