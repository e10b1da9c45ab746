"""Exact tiled inference: the plan, the engine, predictions into a label store, probabilities in memory.

Names are loaded when they are first used: the window post-processes without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_msunet.infer.image import predict_image
    from napari_msunet.infer.plan import Plan, make_plan
    from napari_msunet.infer.postprocess import postprocess_events
    from napari_msunet.infer.prediction import predict, predict_events
    from napari_msunet.infer.preview import preview_events

_HOME = {
    "Plan": "plan",
    "make_plan": "plan",
    "postprocess_events": "postprocess",
    "predict": "prediction",
    "predict_events": "prediction",
    "predict_image": "image",
    "preview_events": "preview",
}

__all__ = ["Plan", "make_plan", "postprocess_events", "predict", "predict_events", "predict_image", "preview_events"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
