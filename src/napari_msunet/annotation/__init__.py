"""Label stores to shapes: polygons, measurements, exports to formats that other programs read."""

from napari_msunet.annotation.export import export_events
from napari_msunet.annotation.measure import measure_events
from napari_msunet.annotation.polygons import LabelShape, label_polygons, walk_polygons

__all__ = ["LabelShape", "export_events", "label_polygons", "measure_events", "walk_polygons"]
