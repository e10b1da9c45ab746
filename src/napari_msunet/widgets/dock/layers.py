"""Which layer of the viewer shows what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_msunet.errors import MsunetError
from napari_msunet.widgets.pyramid_labels import PyramidLabels
from napari_msunet.widgets.slide_layers import is_slide, slide_path

if TYPE_CHECKING:
    from napari_msunet.widgets.dock.state import SlideRecord


def layer_of_slide(viewer: Any, record: SlideRecord) -> Any:
    """The layer that shows a slide, whatever it is called now.

    Raises
    ------
    MsunetError
        If it was removed.
    """
    for layer in viewer.layers:
        if is_slide(layer) and slide_path(layer) == record.path:
            return layer
    raise MsunetError(f"{record.path.name} is not in the viewer any more; open it again in the Slide step.")


def layer_of_labels(viewer: Any, path: Path | None) -> PyramidLabels | None:
    """The layer that shows a label store, if it is open."""
    if path is None:
        return None
    where = path.resolve()
    return next((x for x in viewer.layers if isinstance(x, PyramidLabels) and x.store.path == where), None)
