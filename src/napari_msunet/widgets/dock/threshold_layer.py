"""The layer that shows labels for other thresholds in the place of the stored ones."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from napari.layers import Labels

from napari_msunet.labels import LabelStore
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.layers import PassingLayer, add_to_look_at
from napari_msunet.widgets.placement import over
from napari_msunet.widgets.pyramid_labels.colours import colormap, features

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_msunet.widgets.dock.threshold_preview import Shown
    from napari_msunet.widgets.placement import Place

NAME = "Thresholds (preview)"


class PreviewLayer(PassingLayer):
    """A layer over the slide, made when it is first needed; while it is there, the labels' own layer is hidden.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self._hidden: Layer | None = None
        self._place: Place = {}

    def show(self, shown: Shown, store: LabelStore, slide_layer: Layer, labels_layer: Layer | None) -> None:
        """Bring labels into view."""
        size = store.pixel[0] * 2**shown.level, store.pixel[1] * 2**shown.level
        place = over(slide_layer, size, (shown.window.y * size[0], shown.window.x * size[1]))
        if not self.there:
            self._add(shown, store, place, labels_layer)
            return
        layer = self.layer
        assert layer is not None
        if place == self._place and layer.data.shape == shown.labels.shape:
            layer.data[...] = shown.labels
        else:
            # Each of these alone makes napari slice, draw and measure all layers anew: once is enough.
            with layer._block_refresh() if hasattr(layer, "_block_refresh") else nullcontext():
                for name in ("scale", "translate", "affine"):
                    if name in place:
                        setattr(layer, name, place[name])
                layer.data = shown.labels
            self._place = place
        layer.refresh(thumbnail=False, highlight=False, extent=False)

    def _add(self, shown: Shown, store: LabelStore, place: Place, labels_layer: Layer | None) -> None:
        self.layer = Labels(
            shown.labels,
            name=NAME,
            colormap=colormap(store),
            features=features(store),
            opacity=0.5 if labels_layer is None else labels_layer.opacity,
            metadata={KEY: {"map": "thresholds", "labels": str(store.path)}},
            **place,
        )
        self._place = place
        add_to_look_at(self.viewer, self.layer)
        if labels_layer is not None and labels_layer.visible:
            labels_layer.visible = False
            self._hidden = labels_layer

    def drop(self) -> None:
        """Take it away; the labels show again."""
        super().drop()
        if self._hidden is not None:
            self._hidden.visible = True
            self._hidden = None
