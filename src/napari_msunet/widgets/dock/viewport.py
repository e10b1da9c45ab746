"""What is on the screen, told to predictions that run: it is computed first, also after moving on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_msunet.config import PredictJob
from napari_msunet.errors import MsunetError
from napari_msunet.stopping import View
from napari_msunet.widgets.placement import visible_region

if TYPE_CHECKING:
    from napari_msunet.widgets.jobs import Jobs
    from napari_msunet.widgets.layers import Layers


def view_of(layers: Layers, slide: Path) -> View | None:
    """What of a slide is on the screen, in its level-0 pixels; None where nothing of it is."""
    record = layers.state.slide_at(slide)
    if record is None:
        return None
    try:
        seen = visible_region(layers.viewer, layers.need_slide(record))
    except MsunetError:  # it is not in view, or its layer was removed
        return None
    return seen.y, seen.x, seen.height, seen.width


class Viewport:
    """Follows the camera of a dock's viewer for as long as the dock lives.

    Parameters
    ----------
    jobs : Jobs
        Hears it, and throttles it.
    layers : Layers
    """

    def __init__(self, jobs: Jobs, layers: Layers) -> None:
        self._layers = layers
        self._jobs = jobs
        # before napari 0.9 the camera was the viewer's own
        self._camera = getattr(layers.viewer, "scene", layers.viewer).camera.events
        for event in (self._camera.center, self._camera.zoom):
            event.connect(self._tell)
        jobs.started.connect(self._tell)
        jobs.view_of = lambda slide: view_of(layers, slide)

    def close(self) -> None:
        """Follow no more."""
        for event in (self._camera.center, self._camera.zoom):
            event.disconnect(self._tell)
        self._jobs.started.disconnect(self._tell)
        self._jobs.view_of = None

    def _tell(self, _: object = None) -> None:
        """Tell the predictions that run what is seen of their own slide, whichever slide is active."""
        slides = {handle.job.slide for handle in self._jobs.jobs if isinstance(handle.job, PredictJob)}
        for slide in slides:
            self._jobs.look(view_of(self._layers, slide), slide)
