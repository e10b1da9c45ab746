"""Which layer of the viewer shows what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_msunet.errors import MsunetError
from napari_msunet.widgets.pyramid_labels import PyramidLabels
from napari_msunet.widgets.slide_layers import is_slide, slide_path

if TYPE_CHECKING:
    from napari_msunet.widgets.dock.state import SlideRecord, State


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


class Layers:
    """Finds the layers of the dock's slides; nothing is kept, so that layers may be renamed and removed at any time.

    Parameters
    ----------
    viewer : napari.Viewer
    state : State
    """

    def __init__(self, viewer: Any, state: State) -> None:
        self._viewer, self._state = viewer, state

    def slide(self, record: SlideRecord | None) -> Any:
        """The layer that shows a slide (of several channels the first), if it is in the viewer."""
        return next(iter(self._of_slide(record)), None)

    def record(self, layer: Any) -> SlideRecord | None:
        """The slide that an image layer shows."""
        return self._state.slide_at(slide_path(layer)) if is_slide(layer) else None

    def annotation(self, record: SlideRecord | None) -> PyramidLabels | None:
        """The layer of a slide's annotation, if it is open."""
        return layer_of_labels(self._viewer, record.annotation if record else None)

    def labels(self, record: SlideRecord | None) -> PyramidLabels | None:
        """The layer of a slide's predicted labels, if it is open."""
        return layer_of_labels(self._viewer, record.labels if record else None)

    def all_of(self, record: SlideRecord) -> list[Any]:
        """All layers of a slide: its image, its annotation, its labels."""
        return [*self._of_slide(record), *(x for x in (self.annotation(record), self.labels(record)) if x is not None)]

    def _of_slide(self, record: SlideRecord | None) -> list[Any]:
        if record is None:
            return []
        return [x for x in self._viewer.layers if is_slide(x) and slide_path(x) == record.path]
