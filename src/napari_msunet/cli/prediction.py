"""The verb `predict`: one slide or thousands, on this machine or on a cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import ValidationError

from napari_msunet.cli.options import PredictOptions, RunOptions
from napari_msunet.cli.running import FAILED, app, run_or_print
from napari_msunet.config import PredictJob, PredictManyJob, PredictSettings, explain
from napari_msunet.errors import ImageNeededError, MsunetError

_PREDICTING, _RUN = PredictOptions(), RunOptions()


@app.command
def predict(
    *slides: Path,
    model: Annotated[tuple[Path, ...], Parameter(negative=())],
    out: Path,
    probabilities: bool = False,
    plan: bool = False,
    predicting: PredictOptions = _PREDICTING,
    options: RunOptions = _RUN,
) -> int:
    """Predict a slide, a part of it, or many slides, into label stores. Edits in these stay.

    A prediction that was stopped continues where it stopped when the same command is given again. Where one of many
    slides fails, the others are still predicted: results.csv in the --out folder has the outcome of each.

    Parameters
    ----------
    slides : Path
        A slide; or several slides, a folder (and the folders below it), or a CSV with a column slide and, if wanted,
        mpp, kind, value_range, out, where and group.
    model : Path
        The model.safetensors file; given several times, the mean of their probabilities.
    out : Path
        Label store, such as labels.ome.zarr; for many slides a folder, which gets a label store for each and
        results.csv.
    probabilities : bool
        Keep the probabilities of all classes too: the same as --outputs labels,probabilities.
    plan : bool
        Print what would be done (tiles, work, memory, time) instead of doing it.
    """
    if not slides:
        raise MsunetError("No slide was given; give a slide, several, a folder of slides, or a CSV.")
    outlines: str | None = None
    try:
        values = predicting.values()
    except ImageNeededError:  # the slides say which outlines of the file are meant
        given: Any = predicting
        outlines = str(given.where)
        values = replace(given, where=None).values()
    if probabilities:
        values["outputs"] = tuple(dict.fromkeys((*values.get("outputs", ("labels",)), "probabilities")))
    job = _job(slides, out, model[0] if len(model) == 1 else model, values, outlines)
    if plan:
        _show_plan(job, options.json)
        return 0
    result = run_or_print(lambda: job, options)
    return FAILED if result is not None and result.values.get("failed") else 0


def _job(
    slides: tuple[Path, ...],
    out: Path,
    model: Path | tuple[Path, ...],
    values: dict[str, Any],
    outlines: str | None,
) -> PredictJob | PredictManyJob:
    """The job for one slide, or for many where a folder, a table or several slides were given.

    `outlines` are a file in which each slide has its own.
    """
    from napari_msunet.inference.slide_inputs import is_many, parse_where, slide_inputs
    from napari_msunet.slide.pixel_size import given_mpp

    try:
        if not is_many(slides):
            if outlines is not None:
                values["where"] = parse_where(outlines, slide=slides[0])
            return PredictJob(slide=slides[0], out=out, model=model, **values)
        numbers = {"mpp": "slide_mpp", "kind": "image_kind", "value_range": "value_range"}
        given = {name: values.pop(own) for name, own in numbers.items() if own in values}
        settings = PredictSettings(model=model, **values)
    except ValidationError as error:
        raise explain(error, "What was given") from error
    given_mpp(given.get("mpp"))
    found = slide_inputs(slides, out)
    for name, value in given.items():
        found = tuple(s if getattr(s, name) is not None else s.model_copy(update={name: value}) for s in found)
    if outlines is not None:
        own = [s if s.where is not None else parse_where(outlines, slide=s.slide) for s in found]
        found = tuple(s.model_copy(update={"where": w}) if w is not s else s for s, w in zip(found, own, strict=True))
    return PredictManyJob(slides=found, out=out, settings=settings)


def _show_plan(job: PredictJob | PredictManyJob, as_json: bool) -> None:
    """Print the plan of each slide, without computing."""
    from napari_msunet.app.doctor import as_text
    from napari_msunet.inference.predict import describe_plan

    jobs = [job] if isinstance(job, PredictJob) else [job.one(item) for item in job.slides]
    plans: list[dict[str, Any]] = [{"slide": str(one.slide), **describe_plan(one)} for one in jobs]
    if as_json:
        print(json.dumps(plans if len(plans) > 1 else plans[0], indent=1, ensure_ascii=False))  # noqa: T201
    else:
        print("\n\n".join(as_text(one) for one in plans))  # noqa: T201
