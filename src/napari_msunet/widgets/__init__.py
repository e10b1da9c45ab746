"""The part of napari-msunet that uses napari and Qt: slides and labels as layers, and the dock. Loaded on first use."""

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
