"""What training makes small: losses on pixels, on overlaps and on outlines, and their weighted sum."""

from napari_msunet.models.losses.combined import SegmentationLoss, balanced_weights, segmentation_loss
from napari_msunet.models.losses.maps import Maps, border_weights, signed_distance
from napari_msunet.models.losses.scene import IGNORED

__all__ = [
    "IGNORED",
    "Maps",
    "SegmentationLoss",
    "balanced_weights",
    "border_weights",
    "segmentation_loss",
    "signed_distance",
]
