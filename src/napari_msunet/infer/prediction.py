"""Predict a slide into a run of a label store, resumably, and merge the run into the labels."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from napari_msunet.config import Margin, PredictJob
from napari_msunet.errors import MsunetError, StoreError, StoreLockedError
from napari_msunet.events import Event, Message, Progress, RegionDone, Result
from napari_msunet.geometry import Grid, Region, Window
from napari_msunet.infer.engine import TileResult, check_fits, pick_device, run_plan
from napari_msunet.infer.kept import KEPT
from napari_msunet.infer.plan import Plan, make_plan
from napari_msunet.labels import LabelStore, Run, open_labels
from napari_msunet.models import MSUNet, load_model
from napari_msunet.slide import Slide, open_slide


@dataclass(frozen=True)
class Settings:
    """How to predict; see `PredictJob` for each."""

    region: tuple[float, float, float, float] | None = None
    outputs: tuple[str, ...] = ("labels",)
    margin: Margin = "exact"
    tile: int | None = None
    batch_size: int = 1
    device: str = "auto"
    probability_dtype: str = "float16"


def predict_events(job: PredictJob) -> Iterator[Event]:
    """Run a prediction job; see `napari_msunet.run`."""
    settings = Settings(**{name: getattr(job, name) for name in Settings.__dataclass_fields__})
    model = KEPT.model(job.models[0])
    with KEPT.slide(job.slide, job.slide_mpp) as slide:
        yield from prediction(slide, model, job.out, settings)


def predict(
    slide: Slide | str | Path,
    model: MSUNet | str | Path,
    out: str | Path,
    region: Region | None = None,
    **settings: Any,
) -> LabelStore:
    """Predict a slide, or a region of it, into a label store.

    The result equals the network run over the whole slide in one piece (the slide padded with its background by the
    model's margin), whatever the tile size. Called again with the same slide, model and settings, a prediction that
    was stopped goes on where it stopped, and one that is complete returns at once. What a person has edited in `out`
    stays.

    Parameters
    ----------
    slide : Slide or path
    model : MSUNet or path of a model file
    out : path
        Label store (OME-Zarr), made when it is not there.
    region : Region, optional
        In level-0 pixels: the pixels whose centre lies inside are computed. None: the whole slide.
    **settings
        `outputs=("labels",)` (and "probabilities"), `margin="exact"` ("fast", or target pixels), `tile=None` (useful
        side in target pixels), `batch_size=1`, `device="auto"`, `probability_dtype="float16"` ("float32", "uint8").

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
    unknown = set(settings) - set(Settings.__dataclass_fields__)
    if unknown:
        raise MsunetError(
            f"predict has no setting {', '.join(sorted(unknown))}; it has {', '.join(Settings.__dataclass_fields__)}."
        )
    box = None if region is None else (region.y, region.x, region.height, region.width)
    opened = slide if isinstance(slide, Slide) else open_slide(slide)
    network = model if isinstance(model, MSUNet) else load_model(model)
    try:
        for _ in prediction(opened, network, Path(out), Settings(region=box, **settings)):
            pass
    finally:
        if opened is not slide:
            opened.close()
    return open_labels(out)


def prediction(slide: Slide, model: MSUNet, out: Path, settings: Settings) -> Iterator[Event]:
    """Fill the run of these settings in `out`, then merge it, saying what happens."""
    grid = check_fits(model, slide)
    window = wanted_window(slide, grid, settings.region)
    device = pick_device(settings.device)
    store = _store(out, slide, model, grid)
    run = _run(store, slide, model, window, device, settings)
    if run.complete:
        yield Message(text=f"The run {run.key} is complete already; nothing was computed again.")
    else:
        yield from _fill(run, model, slide, window, settings.outputs)
    yield from _merge(store, run)
    yield Result(values={"run": run.key, "pixels": window.height * window.width}, files={"labels": str(out)})


def wanted_window(slide: Slide, grid: Grid, region: tuple[float, float, float, float] | None) -> Window:
    """The target pixels asked for, clipped to the slide."""
    if region is None:
        return grid.whole
    window = grid.centres(Region(*region)).intersection(grid.whole)
    if window.empty:
        raise MsunetError(
            f"The region {region} (y, x, height, width in level-0 pixels) holds no pixel of the slide, which is "
            f"{slide.shape[0]} x {slide.shape[1]} level-0 pixels; give one that overlaps it."
        )
    return window


def _store(out: Path, slide: Slide, model: MSUNet, grid: Grid) -> LabelStore:
    """The label store at `out`, made if need be; another mpp or shape is refused."""
    if not out.exists():
        return LabelStore.create(out, mpp=model.config.mpp, classes=model.config.classes, slide=slide)
    store = open_labels(out)
    if store.kind != "labels":
        raise StoreError(f"{out} holds annotations, not labels; give another output.")
    if store.mpp is None or grid.mpp is None or not np.allclose(store.mpp, grid.mpp, rtol=1e-6):
        raise StoreError(f"{out} has {store.mpp} µm per pixel, the model works at {grid.mpp}; give another output.")
    if store.shape != grid.shape:
        raise StoreError(f"{out} has {store.shape} pixels, this slide needs {grid.shape}; give another output.")
    return store


def _run(
    store: LabelStore, slide: Slide, model: MSUNet, window: Window, device: torch.device, settings: Settings
) -> Run:
    """The run of these settings: found by its key, or made with a plan of its own."""
    asked = {
        "slide": slide.identity,
        "slide_mpp": slide.mpp,
        "model": model.fingerprint,
        "window": (window.y, window.x, window.height, window.width),
        "outputs": sorted(settings.outputs),
        "probability_dtype": settings.probability_dtype if "probabilities" in settings.outputs else None,
        "margin": settings.margin,
        "tile": settings.tile,
        "batch_size": settings.batch_size,
        "device": device.type,
    }
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    if key in {run.key for run in store.runs}:
        return store.run(key)
    plan = make_plan(
        model.config,
        model.branch_margins,
        window,
        settings.margin,
        settings.tile,
        settings.batch_size,
        str(device),
        torch.get_num_threads(),
    )
    outputs = {"labels": "uint8"}
    if "probabilities" in settings.outputs:
        outputs["probabilities"] = settings.probability_dtype
    description = {"settings": asked, "plan": plan.model_dump(mode="json"), "slide": str(slide.path or "")}
    return store.create_run(key, description, model.config.classes, outputs)


def _fill(run: Run, model: MSUNet, slide: Slide, window: Window, outputs: tuple[str, ...]) -> Iterator[Event]:
    """Compute the run's unfinished tiles."""
    plan = Plan(**run.description["plan"])
    network = model.to(plan.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    total, started, computed = plan.tiles, time.monotonic(), 0
    with run.writing():
        done = set(run.done)
        if done:
            yield Message(text=f"Going on with the run {run.key}: {len(done)} of {total} tiles are done.")
        yield Progress(done=len(done), total=total, unit="tiles")
        for results in run_plan(network, slide, plan, done):
            for result in results:
                yield _write(run, result, window, outputs)
            computed += len(results)
            done.update(result.tile.index for result in results)
            left = (time.monotonic() - started) / computed * (total - len(done))
            yield Progress(done=len(done), total=total, unit="tiles", seconds_left=left)
        run.complete_run()


def _write(run: Run, result: TileResult, window: Window, outputs: tuple[str, ...]) -> RegionDone:
    """Put a tile's wanted pixels on disk and into the ledger."""
    tile = result.tile.window
    part = tile.intersection(window)
    probabilities = result.probabilities.numpy()[(slice(None), *part.slices((tile.y, tile.x)))]
    labels: npt.NDArray[np.uint8] = probabilities.argmax(0).astype(np.uint8)
    run.write(part, {"labels": labels} | ({"probabilities": probabilities} if "probabilities" in outputs else {}))
    run.finish(result.tile.index, part)
    return RegionDone(run=run.key, y=part.y, x=part.x, height=part.height, width=part.width)


def _merge(store: LabelStore, run: Run) -> Iterator[Event]:
    """Bring the run into the labels, unless another process edits them: then that one merges it."""
    try:
        store.merge(run)
    except StoreLockedError as error:
        yield Message(level="warning", text=f"The run {run.key} is finished but not merged: {error}")
        return
    store.flush()
