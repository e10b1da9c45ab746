"""Branch networks, fusions, the multi-scale U-Net, its losses and its file.

Names are loaded when they are first used, so that the window can read the header of a model file without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_msunet.models.compose import branch_model, combine_models, with_scales
    from napari_msunet.models.files import load_model, save_model
    from napari_msunet.models.losses import SegmentationLoss
    from napari_msunet.models.msunet import MSUNet, build_model
    from napari_msunet.models.windows import input_windows
_HOME = {
    "MSUNet": "msunet",
    "SegmentationLoss": "losses",
    "branch_model": "compose",
    "build_model": "msunet",
    "combine_models": "compose",
    "input_windows": "windows",
    "load_model": "files",
    "save_model": "files",
    "with_scales": "compose",
}

__all__ = [
    "MSUNet",
    "SegmentationLoss",
    "branch_model",
    "build_model",
    "combine_models",
    "input_windows",
    "load_model",
    "save_model",
    "with_scales",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
