"""Predict a slide into a run of a label store, resumably, and merge the run into the labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_msunet.config import PredictJob, PredictOptions, explain
from napari_msunet.errors import MsunetError, SlideError, StoreError, StoreLockedError, as_path
from napari_msunet.events import Event, Message, Result
from napari_msunet.geometry import Region, Window, as_region
from napari_msunet.infer.budget import planned_memory
from napari_msunet.infer.fill import fill, unfinished
from napari_msunet.infer.kept import KEPT
from napari_msunet.infer.plan import Plan, summary
from napari_msunet.infer.postprocess import finish, needs_raw
from napari_msunet.infer.seams import seam_meter
from napari_msunet.infer.setup import Setup, estimate, plan_for, set_up
from napari_msunet.labels import LabelStore, Run, open_labels
from napari_msunet.labels.checks import same_pixels, size_of
from napari_msunet.labels.damage import TOLD
from napari_msunet.labels.where import left_out
from napari_msunet.models import MSUNet, load_model
from napari_msunet.slide import Slide, open_slide

__all__ = ["describe_plan", "fill", "open_run", "predict", "predict_events", "prediction"]

Models = Sequence[MSUNet]


def options_of(job: PredictOptions) -> PredictOptions:
    """What a job says about how to predict."""
    return PredictOptions(**{name: getattr(job, name) for name in PredictOptions.model_fields})


def predict_events(job: PredictJob) -> Iterator[Event]:
    """Run a prediction job; see `napari_msunet.run`."""
    models = [KEPT.model(path) for path in job.models]
    with KEPT.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
        yield from prediction(slide, models, job.out, options_of(job))


def predict(
    slide: Slide | str | Path,
    model: MSUNet | str | Path | Sequence[MSUNet | str | Path],
    out: str | Path,
    region: Region | tuple[float, float, float, float] | None = None,
    **options: Any,
) -> LabelStore:
    """Predict a slide, or a part of it, into a label store.

    The result equals the network run over the whole slide in one piece (the slide padded with its background by the
    model's margin), whatever the tile size. Called again with the same slide, model and options, a prediction that
    was stopped goes on where it stopped, and one that is complete returns at once. What a person has edited in `out`
    stays.

    Parameters
    ----------
    slide : Slide or path
    model : MSUNet or path of a model file, or several
        Several are an ensemble: the mean of their probabilities.
    out : path
        Label store (OME-Zarr), made when it is not there.
    region : Region, or y, x, height, width; optional
        In level-0 pixels: the pixels whose centre lies inside are computed. None: the whole slide.
    **options
        The fields of `PredictOptions`: `outputs=("labels",)` (also "probabilities", "disagreement", "entropy",
        "instances"), `where="all"` ("tissue", `Drawn`, `InClasses`), `margin="exact"` ("fast", or target pixels),
        `tile=None` (useful side in target pixels), `memory=2.0` (GB), `device="auto"`, `tta="none"`,
        `precision="float32"`, `probability_dtype="float16"`, `postprocess=Postprocess()`, `channels=None`, ...

    Returns
    -------
    LabelStore
        With "probabilities" in `outputs`, `labels.probabilities` is a lazy `(y, x, K+1)` array.

    Raises
    ------
    MissingMppError
        If the slide's µm per pixel are not known.
    ModelError, StoreError, StoreLockedError, OutputError
    """
    unknown = set(options) - set(PredictOptions.model_fields)
    if unknown:
        raise MsunetError(
            f"predict has no option {', '.join(sorted(unknown))}; it has {', '.join(PredictOptions.model_fields)}."
        )
    if region is not None:
        region = as_region(region)
    box = None if region is None else (region.y, region.x, region.height, region.width)
    path = as_path(out, "the label store to fill")
    try:
        how = PredictOptions(region=box, **options)
    except ValidationError as error:
        raise explain(error, "The options of predict") from error
    given = model if isinstance(model, Sequence) and not isinstance(model, str) else [model]
    opened = slide if isinstance(slide, Slide) else open_slide(slide)
    networks = [m if isinstance(m, MSUNet) else load_model(m) for m in given]
    try:
        for _ in prediction(opened, networks, path, how):
            pass
    finally:
        if opened is not slide:
            opened.close()
    return open_labels(path)


def prediction(slide: Slide, models: Models, out: Path, options: PredictOptions) -> Iterator[Event]:
    """Fill the run of these options in `out`, then merge it, saying what happens."""
    setup = set_up(slide, models, options)
    store, run = open_run(setup, out)
    yield from (Message(level="warning", text=text) for text in left_out(options.where, setup.mask))
    if run.complete and run.sound:
        yield Message(text=f"The run {run.key} is complete already; nothing was computed again.")
    else:
        yield from (Message(level="warning", text=text) for text in setup.doubts)
        with run.writing():
            yield from (Message(level="warning", text=text) for text in run.messages)
            yield from fill(run, setup)
            yield from close_run(run, setup)
    yield from merge(store, run)
    yield result_of(run, setup, out)


def result_of(run: Run, setup: Setup, out: Path) -> Result:
    """The last event of a prediction; an error where tiles are missing and nobody said that they may be."""
    plan = Plan(**run.description["plan"])
    lost = {number: window for number, window in unfinished(run, plan).items() if number in run.failed}
    if lost and setup.options.damaged == "refuse":
        raise SlideError(
            f"{lost_text(lost, run)} of {setup.slide.path or 'the slide'}; all others are done and in {out}. The same "
            'prediction tries them again, and goes on without them if it is told to (damaged="skip").'
        )
    pixels = sum(window.height * window.width for window in run.done.values())
    values = {"run": run.key, "pixels": pixels, "tiles": plan.tiles, "failed": len(run.failed)}
    values |= {name: run.description[name] for name in ("seam", "measured") if name in run.description}
    if lost:
        values["damaged"] = [[w.y, w.x, w.height, w.width] for w in lost.values()]
    return Result(values=values, files={"labels": str(out)})


def lost_text(lost: Mapping[int, Window], run: Run) -> str:
    """Tiles that could not be computed, in words."""
    texts = [f"y {w.y} to {w.stop[0]}, x {w.x} to {w.stop[1]}" for w in list(lost.values())[:TOLD]]
    if len(lost) > TOLD:
        texts.append(f"and {len(lost) - TOLD} more")
    why = run.failed[next(iter(lost))].rstrip(".")
    many = f"{len(lost)} tiles" if len(lost) > 1 else "1 tile"
    return f"{many} could not be computed ({'; '.join(texts)} of the labels; {why})"


def close_run(run: Run, setup: Setup) -> Iterator[Event]:
    """What comes after the last tile, in a run opened for writing: post-processing, the seam meter, the pyramid."""
    plan = Plan(**run.description["plan"])
    yield from finish(run, setup.options.postprocess)
    blended = any(stream.blended for stream in plan.streams)
    if (setup.options.margin != "exact" or blended) and "seam" not in run.description and plan.tiles > 1:
        seam = seam_meter(run, setup, plan)
        run.note(seam=seam)
        yield Message(text=seam_text(seam, blended))
    if not plan.tiles:
        yield Message(level="warning", text="Nothing was computed: this slide has none of what `where` asks for.")
    failed = {n: why for n, why in run.failed.items() if n in unfinished(run, plan)}
    if not failed:
        run.complete_run()
        return
    first = next(iter(failed.values()))
    yield Message(
        level="warning",
        text=f"{len(failed)} of {plan.tiles} tiles could not be computed ({first.rstrip('.')}); the rest is done, and "
        "the same prediction tries them again.",
    )


def seam_text(seam: dict[str, float], blended: bool = False) -> str:
    """The seam meter in a sentence."""
    why = "This model sees whole tiles, so they were blended:" if blended else "With this margin"
    cure = "a model without such a layer makes" if blended else "margin='exact' makes"
    return (
        f"{why} {seam['near']:.2%} of the labels near tile borders change with the tiling, and "
        f"{seam['elsewhere']:.2%} elsewhere; {cure} it none."
    )


def open_run(setup: Setup, out: Path, unit: int | None = None) -> tuple[LabelStore, Run]:
    """The label store at `out` and in it the run of these options: found by its key, or made with a plan of its own.

    Parameters
    ----------
    unit : int, optional
        Largest side of a unit of work, in target pixels.
    """
    store = _store(out, setup)
    key, asked = setup.key()
    if key in {run.key for run in store.runs}:
        return store, store.run(key)
    plan = plan_for(setup, unit)
    options = setup.options
    outputs = {"labels": "uint8"}
    for name in (*options.outputs, *needs_raw(options.postprocess, options.outputs)):
        outputs[name] = {
            "probabilities": options.probability_dtype,
            "instances": "uint32",
            "disagreement": "uint8",
            "entropy": "uint8",
        }.get(name, "uint8")
    description: dict[str, Any] = {
        "settings": asked,
        "options": options.model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "slide": str(setup.slide.path or ""),
    }
    if setup.statistics is not None:
        description["statistics"] = list(setup.statistics)
    return store, store.create_run(key, description, setup.models[0].config.classes, outputs)


def describe_plan(job: PredictJob) -> dict[str, Any]:
    """The plan of a prediction in numbers, without predicting: tiles, pixels, memory, estimated seconds."""
    models = [KEPT.model(path) for path in job.models]
    with KEPT.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
        setup = set_up(slide, models, options_of(job))
        plan = plan_for(setup)
        found = summary(plan)
        if plan.tiles and not plan.memory:  # a small prediction is begun without counting
            most = min(plan.limit, plan.through)
            needed = planned_memory([model.config for model in models], most, plan.variants)
            found["memory_gb"] = round(needed / 1e9, 2)
        return {**found, "seconds": estimate(setup, plan) if plan.tiles else 0.0}


def _store(out: Path, setup: Setup) -> LabelStore:
    """The label store at `out`, made if need be; another mpp or shape is refused."""
    config, grid = setup.models[0].config, setup.grid
    if not out.exists():
        return LabelStore.create(out, mpp=config.target, classes=config.classes, slide=setup.slide, check_names=False)
    store = open_labels(out)
    if store.kind != "labels":
        raise StoreError(f"{out} holds annotations, not labels; give another output.")
    if not same_pixels(store, grid):
        raise StoreError(
            f"{out} has pixels of {size_of(store)}, this model and slide give {size_of(grid)}; give another output."
        )
    if store.shape != grid.shape:
        raise StoreError(f"{out} has {store.shape} pixels, this slide needs {grid.shape}; give another output.")
    store.check_slide(setup.slide, "give another output")
    return store


def merge(store: LabelStore, run: Run) -> Iterator[Event]:
    """Bring the run into the labels, unless another process edits them: then that one merges it."""
    try:
        store.merge(run)
    except StoreLockedError as error:
        yield Message(level="warning", text=f"The run {run.key} is finished but not merged: {error}")
        return
    store.flush()
    yield from ()
