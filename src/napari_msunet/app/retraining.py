"""Retraining: the job that makes the next model, from an earlier run and the corrections made since."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_msunet.config import SlideSource, Source, TrainJob, explain
from napari_msunet.errors import MsunetError

REPLAY = 0.5
"""Share of each batch that comes from the earlier training data. Corrections are few, and a model trained on them alone
would soon forget everything else."""

JOB, MODEL = "job.json", "model.safetensors"


def corrections(slide: str | Path, labels: str | Path, **options: Any) -> SlideSource:
    """A corrected prediction as a source: pixels that were edited or accepted in review are true, zeros included.

    Parameters
    ----------
    slide, labels : path
        A slide, and its label store.
    **options
        `mpp`, `group` or `role` of a `SlideSource`.
    """
    return SlideSource(slide=Path(slide), labels=Path(labels), edited_only=True, **options)


def retraining_job(
    previous: TrainJob | str | Path,
    corrected: Sequence[Source],
    out: str | Path,
    *,
    classes: Sequence[str] | None = None,
    start: bool = True,
    replay: float | None = REPLAY,
    **changes: Any,
) -> TrainJob:
    """The training that learns from corrections and from all that the earlier one learned from.

    Parameters
    ----------
    previous : TrainJob or path
        The earlier training: its job, its folder, or the model file in its folder.
    corrected : sequence of sources
        Corrected predictions, as `corrections` makes them, and other new sources. A source that the earlier training
        used already is replaced.
    out : path
        Folder of the new run.
    classes : sequence of str, optional
        The classes of the new model; classes that the earlier model knows keep their weights. None: the same classes.
    start : bool
        Whether to begin with the earlier model's weights (fine-tuning) instead of random ones.
    replay : float, optional
        Share of each batch that does not come from corrections; None: in proportion to the sizes of the sources.
    **changes
        Other fields of the job, such as ``epochs=20`` or ``time_limit=300``.

    Returns
    -------
    TrainJob
        The job, not yet run. It replaces the earlier model: the frozen test images are never trained on, and both
        models are scored on them at the end.

    Raises
    ------
    MsunetError
        If the earlier run cannot be found, or something given cannot be used.
    """
    job, model = _previous(previous)
    given: list[Source] = [_as_before(source, job) for source in corrected]
    kept = [source for source in job.sources if not any(same_truth(source, now) for now in given)]
    config = job.model if classes is None else job.model.model_copy(update={"classes": tuple(classes)})
    values = {name: getattr(job, name) for name in TrainJob.model_fields} | {
        "model": config,
        "sources": tuple(_unique([*kept, *given])),
        "out": Path(out),
        "resume": False,
        "start": model if start else None,
        "replay": replay,
        "replaces": model,
    }
    try:
        return TrainJob(**values | changes)
    except ValidationError as error:
        raise explain(error, "The retraining") from error


def _previous(previous: TrainJob | str | Path) -> tuple[TrainJob, Path]:
    """The earlier job, and its model."""
    if isinstance(previous, TrainJob):
        job, model = previous, previous.out / MODEL
    else:
        path = Path(previous)
        folder = path if path.is_dir() else path.parent
        try:
            job = TrainJob.model_validate_json((folder / JOB).read_bytes())
        except OSError as error:
            raise MsunetError(
                f"There is no {JOB} of a training in {folder}, so it is not known what the model learned from; give "
                "the folder of its run, or make a TrainJob with start=model and all its sources."
            ) from error
        except ValidationError as error:
            raise explain(error, f"The job {folder / JOB}") from error
        model = folder / MODEL
    if not model.is_file():
        raise MsunetError(f"The earlier training has left no model at {model}; train it first.")
    return job, model


def _unique(sources: Sequence[Source]) -> list[Source]:
    """Each source once; of several with the same truth, the last."""
    return list({_key(source): source for source in sources}.values())


def same_truth(one: Source, other: Source) -> bool:
    """Whether two sources take the same masks or labels, read in the same way."""
    return _key(one) == _key(other)


def _key(source: Source) -> str:
    """The key of a source's truth: everything about where it is and how it is read."""
    if isinstance(source, SlideSource):
        return f"{source.labels.absolute()} {source.edited_only}"
    return source.model_dump_json(exclude={"role", "mpp", "group", "image_kind", "value_range"})


def _as_before(source: Source, job: TrainJob) -> Source:
    """The source with the role, group and µm per pixel that its slide had before, where it has none of its own."""
    if not isinstance(source, SlideSource):
        return source
    same = [s for s in job.sources if isinstance(s, SlideSource) and s.slide.absolute() == source.slide.absolute()]
    if not same:
        return source
    names = ("mpp", "group", "image_kind", "value_range")
    fields: dict[str, Any] = {name: getattr(source, name) or getattr(same[0], name) for name in names}
    if source.role == "auto":
        fields["role"] = same[0].role
    return source.model_copy(update=fields)
