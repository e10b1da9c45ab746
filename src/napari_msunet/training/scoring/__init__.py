"""Scores beyond the confusion matrix: outlines, instances, calibration, intervals; of images, people and models."""

from napari_msunet.training.scoring.instance_scores import INSTANCE_SCORES, Overlaps, instance_scores
from napari_msunet.training.scoring.outlines import OUTLINE_SCORES, boundary_iou, hausdorff, outline_scores
from napari_msunet.training.scoring.uncertainty import mean_interval, paired_interval, pooled_interval

__all__ = [
    "INSTANCE_SCORES",
    "OUTLINE_SCORES",
    "Overlaps",
    "boundary_iou",
    "hausdorff",
    "instance_scores",
    "mean_interval",
    "outline_scores",
    "paired_interval",
    "pooled_interval",
]
