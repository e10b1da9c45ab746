"""What a slide looked like when it was left: its layers and the view, noted in its record and brought back."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from napari_msunet.app.project import MapsNote
from napari_msunet.errors import MsunetError
from napari_msunet.labels import open_labels
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.napari_internals import camera
from napari_msunet.widgets.placement import to_level0, to_world

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import SlideRecord


def note_view(layers: Layers, record: SlideRecord) -> None:
    """Note in a slide's record what is in view of it, and its maps; nothing where its layer is gone."""
    layer = layers.slide(record)
    if layer is None:
        return
    at = camera(layers.viewer)
    y, x = to_level0(layers.viewer, layer, at.center)
    record.view = (round(y, 2), round(x, 2), round(float(at.zoom) * _side(layers, layer), 6))
    maps = _maps(layers, record)
    keys = [one.metadata[KEY]["run"] for one in maps]
    record.maps = MapsNote(run=keys[-1], visible=tuple(one.name for one in maps if one.visible)) if maps else None


def look_again(layers: Layers, record: SlideRecord) -> bool:
    """Move the view to where it was when the slide was left; gives whether that is known."""
    layer = layers.slide(record)
    if layer is None or record.view is None:
        return False
    y, x, zoom = record.view
    at = camera(layers.viewer)
    centre = list(at.center)
    centre[-2:] = to_world(layers.viewer, layer, [(y, x)])[0].tolist()
    at.center, at.zoom = tuple(centre), zoom / _side(layers, layer)
    return True


def bring_back(layers: Layers, record: SlideRecord) -> list[str]:
    """Show a slide with its annotation, labels and maps, as they were when it was left.

    Returns
    -------
    list of str
        A sentence for each part that cannot be shown.
    """
    from napari_msunet.widgets.slide_layers import add_labels, add_slide

    problems = []
    slide = layers.slide(record)
    try:
        slide = slide or add_slide(layers.viewer, record.path, record.job_mpp)
        if record.annotation is not None and record.annotation.exists() and layers.annotation(record) is None:
            add_labels(layers.viewer, record.annotation, slide).name = f"Annotation {record.name}"
    except MsunetError as error:
        problems.append(str(error))
    if slide is not None and record.labels is not None and record.labels.exists():
        try:
            layers.need_labels(record)
            _show_maps(layers, record)
        except MsunetError as error:
            problems.append(str(error))
    chosen = layers.of_store(record.labels) or layers.annotation(record) or slide
    if chosen is not None:  # napari selects the layer that came last, which may be a map
        layers.viewer.layers.selection.active = chosen
    look_again(layers, record)
    return problems


def _show_maps(layers: Layers, record: SlideRecord) -> None:
    from napari_msunet.widgets.prediction.run_maps import add_instances, add_run_maps, run_maps

    if record.maps is None or record.labels is None:
        return
    slide, labels = layers.need_slide(record), layers.of_store(record.labels)
    with suppress(MsunetError):  # the run is gone: what it showed is no part of the labels
        run = open_labels(record.labels).run(record.maps.run)
        if run_maps(run):
            add_run_maps(layers.viewer, run, slide)
        if "instances" in run.outputs and run.complete:
            add_instances(layers.viewer, run, slide)
    for layer in _maps(layers, record):
        layer.visible = layer.name in record.maps.visible
        if labels is not None:  # the labels stay on top
            layers.viewer.layers.move(layers.viewer.layers.index(layer), layers.viewer.layers.index(labels))


def _maps(layers: Layers, record: SlideRecord) -> list[Layer]:
    """The layers of the maps and instances of a slide's labels."""
    own = None if record.labels is None else str(record.labels)
    found = []
    for layer in layers.viewer.layers:
        about = layer.metadata.get(KEY)
        if own is not None and isinstance(about, dict) and own in (about.get("maps_of"), about.get("instances_of")):
            found.append(layer)
    return found


def _side(layers: Layers, layer: Layer) -> float:
    """The side of a level-0 pixel of a slide in the viewer's world."""
    down = to_world(layers.viewer, layer, [(0.0, 0.0), (1.0, 0.0)])
    return float(np.linalg.norm(down[1] - down[0]))
