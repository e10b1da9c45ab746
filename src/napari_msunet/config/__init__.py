"""What a person decides, as data: the model and the jobs. Frozen pydantic models, checked when made, saved as JSON."""

from napari_msunet.config.base import SCHEMA_VERSION, Device, Mpp, Positive, Share, explain
from napari_msunet.config.jobs import (
    Augmentation,
    EvaluateJob,
    ExportJob,
    Job,
    LossConfig,
    Margin,
    MeasureJob,
    Optimiser,
    PredictJob,
    PreviewJob,
    PyramidJob,
    TrainJob,
)
from napari_msunet.config.model import MAX_CLASSES, Fusion, ModelConfig, Normalisation, UNetConfig
from napari_msunet.config.sources import FolderSource, MaskValues, Role, SlideSource, Source

__all__ = [
    "MAX_CLASSES",
    "SCHEMA_VERSION",
    "Augmentation",
    "Device",
    "EvaluateJob",
    "ExportJob",
    "FolderSource",
    "Fusion",
    "Job",
    "LossConfig",
    "Margin",
    "MaskValues",
    "MeasureJob",
    "ModelConfig",
    "Mpp",
    "Normalisation",
    "Optimiser",
    "Positive",
    "PredictJob",
    "PreviewJob",
    "PyramidJob",
    "Role",
    "Share",
    "SlideSource",
    "Source",
    "TrainJob",
    "UNetConfig",
    "explain",
]
