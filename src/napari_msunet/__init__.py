"""Segment large histology images with multi-scale U-Nets: in napari, from Python and from the command line.

Names are loaded when they are first used, so that ``import napari_msunet`` is quick and imports neither torch nor Qt.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_msunet.app.retraining import retraining_job
    from napari_msunet.config import (
        AutoModel,
        ClassicalConfig,
        EncoderConfig,
        EvaluateJob,
        ExperimentJob,
        ExportJob,
        FolderSource,
        HRNetConfig,
        LinkNetConfig,
        LossConfig,
        MeasureJob,
        ModelConfig,
        PredictJob,
        PyramidJob,
        SlideSource,
        TrainJob,
        TuneJob,
        UNetConfig,
    )
    from napari_msunet.errors import MissingMppError, MsunetError, StoreLockedError
    from napari_msunet.geometry import Region
    from napari_msunet.inference.predict import predict
    from napari_msunet.jobs.run import (
        context_study,
        cross_validate,
        evaluate,
        experiment,
        export,
        job_from_json,
        measure,
        run,
        train,
        tune,
    )
    from napari_msunet.labels import LabelStore, open_labels, tissue_labels
    from napari_msunet.models import MSUNet, build_model, load_model, save_model
    from napari_msunet.models.export_model import export_model
    from napari_msunet.review.queue import review_queue
    from napari_msunet.slide import Slide, build_pyramid, open_slide, slide_from_array, tissue_mask
    from napari_msunet.training.comparison.fold_models import model_of_folds
    from napari_msunet.training.comparison.side_by_side import compare

    __version__: str

_HOMES = {
    "app.retraining": "retraining_job",
    "config": (
        "AutoModel ClassicalConfig EncoderConfig EvaluateJob ExperimentJob ExportJob FolderSource HRNetConfig "
        "LinkNetConfig LossConfig MeasureJob ModelConfig PredictJob PyramidJob SlideSource TrainJob TuneJob UNetConfig"
    ),
    "errors": "MissingMppError MsunetError StoreLockedError",
    "geometry": "Region",
    "inference.predict": "predict",
    "jobs.run": "context_study cross_validate evaluate experiment export job_from_json measure run train tune",
    "labels": "LabelStore open_labels tissue_labels",
    "models": "MSUNet build_model load_model save_model",
    "models.export_model": "export_model",
    "review.queue": "review_queue",
    "training.comparison.fold_models": "model_of_folds",
    "training.comparison.side_by_side": "compare",
    "slide": "Slide build_pyramid open_slide slide_from_array tissue_mask",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "AutoModel",
    "ClassicalConfig",
    "EncoderConfig",
    "EvaluateJob",
    "ExperimentJob",
    "ExportJob",
    "FolderSource",
    "HRNetConfig",
    "LabelStore",
    "LinkNetConfig",
    "LossConfig",
    "MSUNet",
    "MeasureJob",
    "MissingMppError",
    "ModelConfig",
    "MsunetError",
    "PredictJob",
    "PyramidJob",
    "Region",
    "Slide",
    "SlideSource",
    "StoreLockedError",
    "TrainJob",
    "TuneJob",
    "UNetConfig",
    "build_model",
    "build_pyramid",
    "compare",
    "context_study",
    "cross_validate",
    "evaluate",
    "experiment",
    "export",
    "export_model",
    "job_from_json",
    "load_model",
    "measure",
    "model_of_folds",
    "open_labels",
    "open_slide",
    "predict",
    "retraining_job",
    "review_queue",
    "run",
    "save_model",
    "slide_from_array",
    "tissue_labels",
    "tissue_mask",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("napari-msunet")
    elif name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
