"""What is looked after once a second: what another process wrote, and what of a store cannot be read."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, QTimer

from napari_msunet.errors import MsunetError
from napari_msunet.labels import LabelStore

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    import pint
    from napari.components import LayerList
    from napari.utils.transforms import Affine

    from napari_msunet.geometry import Region, Window

_MS = 1000
_EDGE = 24  # level-0 pixels: to be seen with the whole slide in view
_shown: WeakKeyDictionary[LabelStore, set[Path]] = WeakKeyDictionary()


class PaintedLayer(Protocol):
    """What is asked here of a `PyramidLabels`."""

    store: LabelStore
    name: str
    scale: npt.NDArray[np.float64]
    translate: npt.NDArray[np.float64]
    rotate: npt.NDArray[np.float64]
    shear: npt.NDArray[np.float64]
    affine: Affine
    units: tuple[pint.Unit, ...]

    def can_be_stored(self) -> bool: ...
    def refresh_window(self, window: Window | Region) -> None: ...
    def end_stroke(self, patience: float | None = None) -> None: ...
    def flush(self) -> None: ...
    def follow_zoom(self) -> None: ...


def start(parent: QObject, layers: LayerList, painted: Collection[PaintedLayer]) -> None:
    """Look after those of a viewer's `layers` that are `painted`, as long as `parent`, its window, lives."""
    timer = QTimer(parent)
    timer.setInterval(_MS)
    timer.timeout.connect(lambda: look(layers, painted))
    timer.start()


def look(layers: LayerList, painted: Collection[PaintedLayer]) -> None:
    """Show what another process wrote into stores that are looked at only, and say what is damaged."""
    for layer in [layer for layer in layers if layer in painted]:
        with suppress(MsunetError, OSError, RuntimeError):  # a store that was closed or is changing: next time
            if not layer.can_be_stored():
                for region in layer.store.news():
                    layer.refresh_window(region)
            _show_damage(layers, layer)


def _show_damage(layers: LayerList, layer: PaintedLayer) -> None:
    """Red frames around the chunks that do not decode, and one sentence."""
    from napari.layers import Shapes

    known = _shown.setdefault(layer.store, set())
    found = [damage for damage in layer.store.damaged if damage.level == 0 and damage.path not in known]
    if not found:
        return
    known.update(damage.path for damage in found)
    frames = [
        np.array([[w.y, w.x], [w.y, w.stop[1]], [w.stop[0], w.stop[1]], [w.stop[0], w.x]]) - 0.5
        for w in (damage.window for damage in found)
    ]
    marks = next((other for other in layers if other.metadata.get("damage of") == layer.name), None)
    if marks is None:
        marks = Shapes(
            name=f"{layer.name}: damaged",
            ndim=2,
            metadata={"damage of": layer.name},
            scale=layer.scale,
            translate=layer.translate,
            rotate=layer.rotate,
            shear=layer.shear,
            affine=layer.affine,
            units=layer.units,
        )
        active = layers.selection.active
        layers.append(marks)
        layers.selection.active = active
    marks.add(frames, shape_type="polygon", edge_color="red", face_color="transparent", edge_width=_EDGE)
    marks.editable = False
    more = f" ({len(found) - 1} more like it)" if len(found) > 1 else ""
    show_error(f"Damaged labels: {found[0].message}{more} It is shown in a red frame; the rest can be worked on.")
