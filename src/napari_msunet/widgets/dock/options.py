"""What a training and a prediction can be told in the dock: the options of the jobs that its forms show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, create_model

from napari_msunet.config import PredictJob, TrainJob
from napari_msunet.config.option import option_of


def _taken(name: str, job: type[BaseModel], *more: str) -> type[BaseModel]:
    """A frozen model with the options of a job: their types, limits and defaults are the job's."""
    options = {field: option_of(info) for field, info in job.model_fields.items()}
    fields = [field for field, option in options.items() if (option and option.form) or field in more]
    parts: Any = {field: (job.model_fields[field].annotation, job.model_fields[field]) for field in fields}
    return create_model(name, __config__=ConfigDict(frozen=True, extra="forbid"), __doc__=job.__doc__, **parts)


if TYPE_CHECKING:
    Options = TypeVar("Options", bound=BaseModel)

    class TrainOptions(TrainJob):
        def __init__(self, **options: object) -> None: ...

    class PredictOptions(PredictJob):
        def __init__(self, **options: object) -> None: ...

else:
    TrainOptions = _taken("TrainOptions", TrainJob)
    PredictOptions = _taken("PredictOptions", PredictJob, "channels", "where")  # rows of the Predict step


def changed(options: Options, **values: object) -> Options:
    """The same options with other values, checked by pydantic (`ValidationError` where they cannot be)."""
    return type(options).model_validate({**dict(options), **values})
