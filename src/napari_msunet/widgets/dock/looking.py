"""Where the user looks, told to predictions that run: what is in view is computed first, also after moving on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_msunet.config import PredictJob
from napari_msunet.errors import MsunetError
from napari_msunet.widgets.dock.layers import layer_of_slide
from napari_msunet.widgets.placement import visible_region

if TYPE_CHECKING:
    from napari_msunet.widgets.dock.dock import MultiScaleUNet
    from napari_msunet.widgets.worker_bridge import JobRunner


class Looking:
    """Follows the camera of a dock's viewer for as long as the dock lives.

    Parameters
    ----------
    dock : MultiScaleUNet
    runner : JobRunner
        Hears it, and throttles it.
    """

    def __init__(self, dock: MultiScaleUNet, runner: JobRunner) -> None:
        self._dock = dock
        self._runner = runner
        # before napari 0.9 the camera was the viewer's own
        self._camera = getattr(dock.viewer, "scene", dock.viewer).camera.events
        for event in (self._camera.center, self._camera.zoom):
            event.connect(self._tell)
        runner.started.connect(self._tell)

    def close(self) -> None:
        """Follow no more."""
        for event in (self._camera.center, self._camera.zoom):
            event.disconnect(self._tell)
        self._runner.started.disconnect(self._tell)

    def _tell(self, _: Any = None) -> None:
        if not any(isinstance(handle.job, PredictJob) for handle in self._runner.jobs):
            return
        record = self._dock.state.active
        if record is None:
            return
        try:
            seen = visible_region(self._dock.viewer, layer_of_slide(self._dock, record))
        except MsunetError:  # nothing of the slide is in view
            return
        self._runner.look((seen.y, seen.x, seen.height, seen.width), record.path)
