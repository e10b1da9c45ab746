"""What a person decides, as data: the model and the jobs. Frozen pydantic models, checked when made, saved as JSON."""

from napari_msunet.config.augmentation import Augmentation
from napari_msunet.config.base import SCHEMA_VERSION, Device, Mpp, Positive, Share, explain
from napari_msunet.config.branches import BranchConfig, EncoderConfig, HRNetConfig, LinkNetConfig, UNetConfig
from napari_msunet.config.cluster import Cluster
from napari_msunet.config.jobs import (
    EvaluateJob,
    ExportJob,
    Job,
    MeasureJob,
    PyramidJob,
    TrainJob,
)
from napari_msunet.config.loss import LossConfig
from napari_msunet.config.model import MAX_CLASSES, Fusion, ModelConfig, Normalisation
from napari_msunet.config.optimiser import Optimiser
from napari_msunet.config.prediction import (
    Drawn,
    GivenSlide,
    InClasses,
    Margin,
    Output,
    PlanJob,
    Postprocess,
    PostprocessJob,
    PredictJob,
    PredictManyJob,
    PredictOptions,
    PredictSettings,
    PreviewJob,
    Where,
)
from napari_msunet.config.sources import FolderSource, MaskValues, Role, SlideSource, Source

__all__ = [
    "MAX_CLASSES",
    "SCHEMA_VERSION",
    "Augmentation",
    "BranchConfig",
    "Cluster",
    "Device",
    "Drawn",
    "EncoderConfig",
    "EvaluateJob",
    "ExportJob",
    "FolderSource",
    "Fusion",
    "GivenSlide",
    "HRNetConfig",
    "InClasses",
    "Job",
    "LinkNetConfig",
    "LossConfig",
    "Margin",
    "MaskValues",
    "MeasureJob",
    "ModelConfig",
    "Mpp",
    "Normalisation",
    "Optimiser",
    "Output",
    "PlanJob",
    "Positive",
    "Postprocess",
    "PostprocessJob",
    "PredictJob",
    "PredictManyJob",
    "PredictOptions",
    "PredictSettings",
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
