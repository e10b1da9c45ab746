"""Which layers of the viewer steps look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Labels

from napari_msunet.errors import MsunetError
from napari_msunet.widgets.layer_slides import KEY

if TYPE_CHECKING:
    from napari_msunet.widgets.dock.dock import MultiScaleUNet
    from napari_msunet.widgets.state import SlideRecord


def layer_of_slide(dock: MultiScaleUNet, record: SlideRecord) -> Any:
    """The layer that shows a slide, whatever it is called now.

    Raises
    ------
    MsunetError
        If it was removed.
    """
    layer = dock.layers.slide(record)
    if layer is None:
        raise MsunetError(f"{record.path.name} is not in the viewer any more; open it again in the Slide step.")
    return layer


def layer_of_labels(dock: MultiScaleUNet, record: SlideRecord) -> Any:
    """The layer of a slide's predicted labels; opened if need be."""
    from napari_msunet.widgets.slide_layers import add_labels

    layer = dock.layers.of_store(record.labels)
    if layer is None:
        layer = add_labels(dock.viewer, record.labels, layer_of_slide(dock, record))
        layer.name, layer.opacity = f"Labels {record.name}", 0.5
    return layer


def hide_maps(viewer: Any) -> None:
    """Hide the maps of previews, which would cover everything else."""
    for layer in viewer.layers:
        if "map" in layer.metadata.get(KEY, {}):
            layer.visible = False


def add_to_look_at(viewer: Any, layer: Labels, below: Any = None) -> None:
    """Add labels that nobody paints on, perhaps below another layer; what is selected stays so."""
    layer.editable = False
    selected = set(viewer.layers.selection)
    viewer.add_layer(layer)
    if below is not None and below in viewer.layers:
        viewer.layers.move(viewer.layers.index(layer), viewer.layers.index(below))
    viewer.layers.selection = selected


class PassingLayer:
    """Labels to look at, in the viewer as long as something goes on.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.layer: Labels | None = None

    @property
    def there(self) -> bool:
        """Whether it is in the viewer."""
        return self.layer is not None and self.layer in self.viewer.layers

    def drop(self) -> None:
        """Take it away."""
        if self.there:
            self.viewer.layers.remove(self.layer)
        self.layer = None
