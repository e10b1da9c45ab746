"""What a training and a prediction can be told: the jobs' own fields, without those that the dock knows itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, create_model

from napari_msunet.config import PredictJob, TrainJob

TRAIN_FIELDS = (
    "size",
    "border",
    "batch_size",
    "epochs",
    "steps",
    "time_limit",
    "validation",
    "test",
    "sampling",
    "normalise",
    "find_batch_size",
    "find_learning_rate",
    "track",
    "track_uri",
    "augmentation",
    "loss",
    "optimiser",
    "seed",
    "device",
)
PREDICT_FIELDS = (
    "channels",
    "where",
    "outputs",
    "margin",
    "tile",
    "batch_size",
    "memory",
    "device",
    "tta",
    "engine",
    "precision",
    "compile",
    "probability_dtype",
    "postprocess",
)


def _taken(name: str, job: type[BaseModel], fields: tuple[str, ...]) -> Any:
    """A frozen model with some of a job's fields: their types, limits and defaults are the job's."""
    parts: Any = {field: (job.model_fields[field].annotation, job.model_fields[field]) for field in fields}
    return create_model(name, __config__=ConfigDict(frozen=True, extra="forbid"), __doc__=job.__doc__, **parts)


if TYPE_CHECKING:
    TrainOptions = TrainJob
    PredictOptions = PredictJob
else:
    TrainOptions = _taken("TrainOptions", TrainJob, TRAIN_FIELDS)
    PredictOptions = _taken("PredictOptions", PredictJob, PREDICT_FIELDS)


def changed(options: BaseModel, **values: Any) -> Any:
    """The same options with other values, checked by pydantic (`ValidationError` where they cannot be)."""
    return type(options).model_validate({**dict(options), **values})
