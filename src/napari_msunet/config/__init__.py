"""What a person decides, as data: the model and the jobs. Frozen pydantic models, checked when made, saved as JSON."""

from napari_msunet.config.base import SCHEMA_VERSION, Device, Mpp, Positive, Share, explain
from napari_msunet.config.jobs import (
    Augmentation,
    EvaluateJob,
    ExportJob,
    Job,
    LossConfig,
    MeasureJob,
    Optimiser,
    PyramidJob,
    TrainJob,
)
from napari_msunet.config.model import MAX_CLASSES, Fusion, ModelConfig, Normalisation, UNetConfig
from napari_msunet.config.prediction import (
    Drawn,
    InClasses,
    Margin,
    Output,
    Postprocess,
    PostprocessJob,
    PredictJob,
    PreviewJob,
    Where,
)
from napari_msunet.config.sources import FolderSource, MaskValues, Role, SlideSource, Source

__all__ = [
    "MAX_CLASSES",
    "SCHEMA_VERSION",
    "Augmentation",
    "Device",
    "Drawn",
    "EvaluateJob",
    "ExportJob",
    "FolderSource",
    "Fusion",
    "InClasses",
    "Job",
    "LossConfig",
    "Margin",
    "MaskValues",
    "MeasureJob",
    "ModelConfig",
    "Mpp",
    "Normalisation",
    "Optimiser",
    "Output",
    "Positive",
    "Postprocess",
    "PostprocessJob",
    "PredictJob",
    "PreviewJob",
    "PyramidJob",
    "Role",
    "Share",
    "SlideSource",
    "Source",
    "TrainJob",
    "UNetConfig",
    "Where",
    "explain",
]
