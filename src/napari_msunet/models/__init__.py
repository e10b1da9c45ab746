"""Branch networks, fusions, the multi-scale U-Net, its losses and its file."""

from napari_msunet.models.compose import branch_model, combine_models, with_scales
from napari_msunet.models.files import load_model, save_model
from napari_msunet.models.losses import IGNORED, SegmentationLoss
from napari_msunet.models.msunet import MSUNet, build_model
from napari_msunet.models.windows import input_windows

__all__ = [
    "IGNORED",
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
