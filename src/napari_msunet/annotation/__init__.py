"""Label stores and shapes: exports, measurements, and outlines from other programs."""

from napari_msunet.annotation.export import export_events
from napari_msunet.annotation.formats import read_shape_file, read_shapes
from napari_msunet.annotation.importing import ShapeFate, ShapeReport, import_file, import_shapes
from napari_msunet.annotation.measure import measure_events
from napari_msunet.annotation.shapes import DrawnImage, DrawnShape, ShapeFile
from napari_msunet.errors import ImageNeededError, ShapeFileError

__all__ = [
    "DrawnImage",
    "DrawnShape",
    "ImageNeededError",
    "ShapeFate",
    "ShapeFile",
    "ShapeFileError",
    "ShapeReport",
    "export_events",
    "import_file",
    "import_shapes",
    "measure_events",
    "read_shape_file",
    "read_shapes",
]
