"""What a person decides of a truth, done beside the GUI thread; and whether strokes or an undo put places right."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, QTimer, Signal

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import truth
from napari_msunet.labels.checks import touched
from napari_msunet.labels.truth import Pair, TruthPlace
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.telling import tell_error
from napari_msunet.widgets.truth.finding import NOT_COMPARED, Finding
from napari_msunet.widgets.truth.model import PlaceModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.utils.events import Event
    from shapely import Polygon

    from napari_msunet.widgets.pyramid_labels import PyramidLabels

_SETTLE_MS = 300
_CHECKED_AGAIN = 50


class Decisions(QObject):
    """Keeps the truth or takes the model's answer, one stroke each time.

    Parameters
    ----------
    finding : Finding
        What was compared.
    model : PlaceModel
        The places that are shown; their states are kept true.
    parent : QObject, optional

    Attributes
    ----------
    changed : Signal()
        The state of a place is another one.
    layer : PyramidLabels, optional
        The truth whose strokes are followed.
    """

    changed = Signal()

    def __init__(self, finding: Finding, model: PlaceModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.finding, self.model = finding, model
        self.layer: PyramidLabels | None = None
        self._background = Background("msunet-truth-places", self)
        self._strokes: list[Window] = []
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)
        self._timer.timeout.connect(self._check_again)

    @property
    def pair(self) -> Pair:
        """What was compared; `MsunetError` if nothing was."""
        if self.finding.pair is None:
            raise MsunetError(NOT_COMPARED)
        return self.finding.pair

    def keep(self, place: TruthPlace) -> None:
        """The truth is right here: note it."""
        self._background.run(partial(truth.keep_truth, self.pair, place), None, partial(self._refused, place))
        self.model.mark(place, "kept")

    def take(self, place: TruthPlace, layer: PyramidLabels) -> None:
        """Write the model's answer into the truth here, as one step of undo."""
        self._take(place, place.window, layer, partial(self._refused, place))
        self.model.mark(place, "changed")

    def take_in(self, corners: npt.NDArray[np.float64], layer: PyramidLabels) -> None:
        """Write the model's answer into the truth inside a lasso, `(n, 2)` of `y, x`, as one step of undo."""
        low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
        window = Window.between((int(low[0]), int(low[1])), (int(high[0]), int(high[1])))
        self._take(corners, window, layer, lambda error: tell_error(str(error)))

    def offer_kept(self) -> None:
        """Forget what was kept, and compare again."""
        work = partial(truth.remove_kept, self.pair.store)
        self._background.run(work, lambda _: self.finding.start())

    def outline(self, place: TruthPlace, show: Callable[[Polygon | None], None]) -> None:
        """Call `show` with the polygon of a place as the truth is now, None if nothing is left of it."""
        pair = self.pair

        def work() -> Polygon | None:
            from napari_msunet.annotation.polygons import label_polygons

            mask = truth.place_mask(pair, place)
            corner = place.window.y, place.window.x
            return label_polygons(mask.astype(np.uint8), corner)[0].polygon if mask.any() else None

        self._background.run(work, show)

    def _take(
        self,
        where: TruthPlace | npt.NDArray[np.float64],
        window: Window,
        layer: PyramidLabels,
        failed: Callable[[BaseException], None],
    ) -> None:
        layer.end_stroke()
        region = Region(window.y, window.x, *window.shape)

        def show(number: int) -> None:
            if number == 0:
                show_info("Truth and model say the same here already; nothing was changed.")
                return
            layer.refresh_classes()
            layer.refresh_window(region)
            layer.events.stroke(region=region, number=number)

        self._background.run(partial(truth.take_answer, self.pair, where), show, failed)

    def _refused(self, place: TruthPlace, error: BaseException) -> None:
        """The disk, or another writer, did not let it be kept."""
        self.model.mark(place, None)
        self.changed.emit()
        tell_error(str(error))

    # ------------------------------------------------------------------------------------------------ following strokes

    def watch(self, layer: PyramidLabels | None) -> None:
        """Follow the strokes of another truth; None: of none."""
        if layer is self.layer:
            return
        if self.layer is not None:
            self.layer.events.stroke.disconnect(self._stroked)
        self.layer = layer
        if layer is not None:
            layer.events.stroke.connect(self._stroked)

    def _stroked(self, event: Event) -> None:
        if self.finding.review is not None and event.region is not None:
            self._strokes.append(touched(event.region))
            self._timer.start()

    def _check_again(self) -> None:
        """Which of the places near the last strokes are still what they were."""
        near, self._strokes, pair = self._strokes, [], self.finding.pair
        places = [p for p in self.model.places if any(not p.window.intersection(w).empty for w in near)]
        asked = [p for p in places if p.truth != p.model and self.model.states.get(p) != "kept"][:_CHECKED_AGAIN]
        if pair is not None and asked:
            self._background.run(lambda: [_is_there(pair, p) for p in asked], partial(self._checked, asked))

    def _checked(self, places: list[TruthPlace], there: list[bool]) -> None:
        for place, still in zip(places, there, strict=True):
            self.model.mark(place, None if still else "changed")
        self.changed.emit()

    def close(self) -> None:
        """Let go of the layer and of the thread."""
        self._timer.stop()
        self.watch(None)
        self._background.close()


def _is_there(pair: Pair, place: TruthPlace) -> bool:
    return bool(truth.place_mask(pair, place).any())
