"""The instances of a run as a layer: each object in a colour of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Labels, Layer

from napari_msunet.errors import StoreError
from napari_msunet.labels import Run
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.placement import over, placed

if TYPE_CHECKING:
    from napari.components import ViewerModel


def add_instances(viewer: ViewerModel, run: Run, slide_layer: Layer | None = None) -> Labels:
    """Show a run's instances over the slide, in place of those that another run showed.

    Parameters
    ----------
    viewer : napari.Viewer
    run : Run
        Complete, with "instances" among its outputs.
    slide_layer : Layer, optional
        The slide's layer: they lie exactly over it. None: by µm.

    Returns
    -------
    Labels
        A pyramid to look at, which reads what is in view only; corrections belong into the labels.

    Raises
    ------
    StoreError
        If the run has no instances, or is not complete.
    """
    if "instances" not in run.outputs or not run.complete:
        raise StoreError(f'The run {run.key} has no finished instances; predict with "instances" among the outputs.')
    store = run.path.parent.parent
    for layer in [one for one in viewer.layers if one.metadata.get(KEY, {}).get("instances_of") == str(store)]:
        viewer.layers.remove(layer)
    pixel, mpp = run.info.pixel, run.info.mpp
    slide_mpp = None if mpp is None else (mpp[0] / pixel[0], mpp[1] / pixel[1])
    place = placed(slide_mpp, pixel) if slide_layer is None else over(slide_layer, pixel)
    levels = run.levels("instances")
    layer = Labels(
        levels if len(levels) > 1 else levels[0],
        multiscale=len(levels) > 1,
        name=f"Instances {run.info.name}",
        opacity=0.6,
        metadata={KEY: {"instances_of": str(store), "run": run.key}},
        **place,
    )
    layer.editable = False
    viewer.add_layer(layer)
    return layer
