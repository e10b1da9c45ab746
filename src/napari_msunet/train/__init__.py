"""Training, its metrics and its records, and evaluation. No Qt.

Names are loaded when they are first used: the window checks a training without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_msunet.train.checks import check
    from napari_msunet.train.evaluate import evaluate_events
    from napari_msunet.train.progress import Finding
    from napari_msunet.train.trainer import train_events

_HOME = {"Finding": "progress", "check": "checks", "evaluate_events": "evaluate", "train_events": "trainer"}

__all__ = ["Finding", "check", "evaluate_events", "train_events"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
