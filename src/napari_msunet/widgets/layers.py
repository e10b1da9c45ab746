"""Which layers of the viewer belong to which slide; looked up at each question, since layers come, go and get
renamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Image, Labels, Layer, Shapes

from napari_msunet.errors import MsunetError
from napari_msunet.widgets.layer_slides import KEY

if TYPE_CHECKING:
    import napari.viewer
    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.components import ViewerModel

    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.state import SlideRecord, State


class Layers:
    """Finds the layers of slides and stores in a viewer.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    state : State

    Attributes
    ----------
    closed : bool
        Whether the window is closed or closing, so that nothing is shown any more.
    """

    def __init__(self, viewer: napari.viewer.Viewer, state: State) -> None:
        self.viewer, self.state = viewer, state
        self.closed = False

    def need_slide(self, record: SlideRecord) -> Image:
        """The layer that shows a slide, even if it was renamed.

        Raises
        ------
        MsunetError
            If the layer was removed.
        """
        layer = self.slide(record)
        if layer is None:
            raise MsunetError(f"{record.path.name} is not in the viewer any more; open it again in the Slide step.")
        return layer

    def need_labels(self, record: SlideRecord) -> PyramidLabels:
        """The layer of a slide's predicted labels; it is opened where it is not in the viewer."""
        from napari_msunet.widgets.slide_layers import add_labels

        layer = self.of_store(record.labels)
        if layer is None:
            layer = add_labels(self.viewer, record.labels, self.need_slide(record))
            layer.name, layer.opacity = f"Labels {record.name}", 0.5
        return layer

    def slide(self, record: SlideRecord | None) -> Image | None:
        """The layer that shows a slide; for a slide of several channels, the first of its layers."""
        return next((layer for layer in self.all_of(record) if isinstance(layer, Image)), None)

    def annotation(self, record: SlideRecord | None) -> PyramidLabels | None:
        """The paintable layer of a slide's annotation, if it is in the viewer."""
        return None if record is None else self.of_store(record.annotation)

    def of_store(self, path: Path | None) -> PyramidLabels | None:
        """The layer of a label store, if it is in the viewer."""
        if path is None:
            return None
        path = path.resolve()  # the paths of stores are resolved too
        return next((layer for layer in self.viewer.layers if store_path(layer) == path), None)

    def all_of(self, record: SlideRecord | None) -> list[Layer]:
        """All layers of a slide: its channels, its annotation, its labels and its tissue."""
        if record is None:
            return []
        from napari_msunet.widgets.layer_slides import is_slide, slide_path

        found: list[Layer] = []
        for layer in self.viewer.layers:
            store = store_path(layer)
            if store is not None:
                if store in (record.annotation, record.labels, record.tissue):
                    found.append(layer)
            elif isinstance(layer, Image) and is_slide(layer) and slide_path(layer) == record.path:
                found.append(layer)
        return found

    def record(self, layer: Layer | None) -> SlideRecord | None:
        """The slide that a layer shows or belongs to."""
        return next((record for record in self.state.slides if layer in self.all_of(record)), None)

    def owner(self, layer: Layer) -> SlideRecord | None:
        """As `record`, but also for layers that lie over a slide: drawn regions, maps, instances."""
        about = layer.metadata.get("napari_msunet")
        about = about if isinstance(about, dict) else {}
        labels = next((about[n] for n in ("labels", "maps_of", "instances_of") if n in about), None)
        marked = layer.metadata.get("napari_msunet_marks")
        for record in self.state.slides:
            if (labels is not None and str(record.labels) == labels) or (
                marked is not None and str(record.annotation) == marked
            ):
                return record
            if str(record.path) == about.get("regions_of"):
                return record
        return self.record(layer)


def store_path(layer: Layer) -> Path | None:
    """The path of the label store that a layer edits; None for all other layers."""
    store = getattr(layer, "store", None) if isinstance(layer, Labels) else None
    return None if store is None else store.path


def hide_maps(viewer: ViewerModel) -> None:
    """Hide the maps of previews, which would cover everything else."""
    for layer in viewer.layers:
        if "map" in layer.metadata.get(KEY, {}):
            layer.visible = False


def add_to_look_at(viewer: ViewerModel, layer: Labels, below: Layer | None = None) -> None:
    """Add labels that are not for painting, if wanted below another layer; the selection stays as it is."""
    layer.editable = False
    selected = set(viewer.layers.selection)
    viewer.add_layer(layer)
    if below is not None and below in viewer.layers:
        viewer.layers.move(viewer.layers.index(layer), viewer.layers.index(below))
    viewer.layers.selection = selected


class PassingLayer:
    """A layer of labels that is shown only for a while, such as a preview.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self.viewer = viewer
        self.layer: Labels | None = None

    @property
    def there(self) -> bool:
        """Whether the layer is in the viewer."""
        return self.layer is not None and self.layer in self.viewer.layers

    def drop(self) -> None:
        """Remove the layer."""
        if self.there:
            self.viewer.layers.remove(self.layer)
        self.layer = None


class ShapesUnderWay:
    """Knows whether a shape of some layers is just being drawn or moved: it does not count before it is let go."""

    def __init__(self) -> None:
        self.layers: list[Shapes] = []
        self._pressed = False

    def follow(self, layer: Shapes) -> None:
        """Look after a layer too."""
        layer.mouse_drag_callbacks.append(self._held)
        self.layers.append(layer)

    def _held(self, _layer: Shapes, event: NapariMouseEvent) -> Iterator[None]:
        self._pressed = True
        yield
        while event.type == "mouse_move":
            yield
        self._pressed = False

    def __bool__(self) -> bool:
        return self._pressed or any(
            getattr(layer, "_is_creating", False) or getattr(layer, "_is_moving", False) for layer in self.layers
        )

    def let_go(self) -> None:
        """Follow no layer any more."""
        for layer in self.layers:
            if self._held in layer.mouse_drag_callbacks:
                layer.mouse_drag_callbacks.remove(self._held)
        self.layers.clear()
