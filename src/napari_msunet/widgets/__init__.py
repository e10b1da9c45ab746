"""napari's side of napari-msunet: slides and labels as layers, and the dock. Loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_msunet.widgets.dock.dock import MultiScaleUNet
__all__ = ["MultiScaleUNet"]


def __getattr__(name: str) -> Any:
    if name != "MultiScaleUNet":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from napari_msunet.widgets.dock.dock import MultiScaleUNet

    return MultiScaleUNet
