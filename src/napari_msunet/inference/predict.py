"""Predicting a slide into a run of a label store, resumably, and merging the run into the labels."""

from __future__ import annotations

import contextvars
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Full, Queue
from threading import Event as Flag
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from napari_msunet.config import PlanJob, PredictJob, PredictOptions, explain
from napari_msunet.constants import IGNORED
from napari_msunet.errors import ModelError, MsunetError, SlideError, StoreError, StoreLockedError, as_path
from napari_msunet.events import Event, FirstLook, Message, Progress, RegionDone, Result
from napari_msunet.geometry import Region, Window, as_region
from napari_msunet.inference.budget import planned_memory
from napari_msunet.inference.engine import Pass, TileResult
from napari_msunet.inference.foreign import foreign_events
from napari_msunet.inference.meters import precision_meter, seam_meter
from napari_msunet.inference.model_cache import MODEL_CACHE
from napari_msunet.inference.network import is_out_of_memory
from napari_msunet.inference.own_grid import ResizedPass
from napari_msunet.inference.plan import GENERATION, Plan, summary
from napari_msunet.inference.postprocess import decide, finish, needs_raw
from napari_msunet.inference.setup import Setup, estimate, on_own_pixels, plan_for, set_up
from napari_msunet.inference.viewport import CoarseLook, FirstLooks, Work
from napari_msunet.labels import LabelStore, Run, open_labels
from napari_msunet.labels.area import left_out
from napari_msunet.labels.checks import same_pixels, size_of
from napari_msunet.labels.corrupt_chunks import NAMED
from napari_msunet.models import MSUNet, load_model
from napari_msunet.models.foreign_network import ForeignNetwork, is_foreign, load_foreign
from napari_msunet.slide import Slide, open_slide

# ----------------------------------------------------------------------------------------------------------------------
# Computing and writing the tiles of a run; reading, network, fusion and writing overlap in time.

WAITING = 2
"""Most batches that wait to be written while the network continues."""

HOPELESS = 8
"""Consecutive failed tiles after which the slide counts as unreadable."""

MOST_HALVINGS = 8


def fill(run: Run, setup: Setup, units: Collection[int] | None = None) -> Iterator[Event]:
    """Compute the unfinished tiles of a run that is open for writing.

    Parameters
    ----------
    run : Run
        The run, whose description has the plan, and the statistics of the slide where a model needs them.
    setup : Setup
        The setup with the same key as the run.
    units : collection of int, optional
        The units of the plan to compute; None: all.

    Yields
    ------
    Event
        `RegionDone` for each tile that is on disk, and `Progress`.

    Raises
    ------
    SlideError
        If the slide cannot be read any more; finished tiles stay.
    """
    setup = replace(setup, kept=run.description.get("statistics"))
    while True:
        plan = Plan(**run.description["plan"])
        try:
            yield from _Filling(run, setup, plan, units).events()
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or units is not None or plan.generation >= MOST_HALVINGS:
                raise
            again = plan_for(setup, halvings=plan.generation + 1)
            run.note(plan=again.model_dump(mode="json"))
            text = f"There was too little memory for tiles of {plan.largest[0]} x {plan.largest[1]} pixels"
            yield Message(level="warning", text=f"{text}; going on with half of that at a time.")


def unfinished(run: Run, plan: Plan, units: Collection[int] | None = None) -> dict[int, Window]:
    """The tiles of a plan, or of some of its units, that are not in the ledger."""
    done = run.done
    older = [window for index, window in done.items() if index // GENERATION != plan.generation]
    found = {}
    for number, unit in enumerate(plan.units):
        if units is None or number in units:
            for n, box in enumerate(unit.tiles):
                window = Window(*box).intersection(plan.target)
                if unit.first + n not in done and not (older and _covered(window, older)):
                    found[unit.first + n] = window
    return found


def _covered(window: Window, others: Sequence[Window]) -> bool:
    """Whether all of a window lies in others, which do not overlap."""
    parts = (window.intersection(other) for other in others)
    return sum(p.height * p.width for p in parts if not p.empty) >= window.height * window.width


@dataclass
class _Filling:
    """One pass over the unfinished tiles of a plan."""

    run: Run
    setup: Setup
    plan: Plan
    units: Collection[int] | None

    def events(self) -> Iterator[Event]:
        """Compute and write the tiles, and give events."""
        left = unfinished(self.run, self.plan, self.units)
        total = sum(len(unit.tiles) for n, unit in enumerate(self.plan.units) if self.units is None or n in self.units)
        if len(left) < total:
            text = f"Going on with the run {self.run.key}: {total - len(left)} of {total} tiles are done."
            yield Message(text=text)
        yield Progress(done=total - len(left), total=total, unit="tiles")
        if not left:
            return
        self.run.expect(Window(*box).intersection(self.plan.target) for u in self.plan.units for box in u.tiles)
        clock = _Clock(total, left)
        failures = 0
        for found in self._written(left):
            if isinstance(found, CoarseLook):
                yield self._first_look(found)
                continue
            result, event = found
            failures = failures + 1 if result.failed else 0
            if failures == HOPELESS and self.setup.options.damaged == "refuse":
                raise SlideError(
                    f"The slide {self.setup.slide.path or ''} cannot be read any more ({result.failed}); its finished "
                    "tiles are kept, and the same prediction goes on from there."
                )
            if event is not None:
                yield event
            yield clock.tick(result.tile.index)

    def _written(self, left: dict[int, Window]) -> Iterator[tuple[TileResult, RegionDone | None] | CoarseLook]:
        """The results, once they are on disk; at most `WAITING` batches wait for it."""
        waiting: deque[tuple[list[TileResult], Future[list[RegionDone | None]]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
            for results in self._computed(left):
                if isinstance(results, CoarseLook):
                    yield results
                    continue
                waiting.append((results, writer.submit(self._write, results)))
                while waiting and (len(waiting) > WAITING or waiting[0][1].done()):
                    done, future = waiting.popleft()
                    yield from zip(done, future.result(), strict=True)
            for done, future in waiting:
                yield from zip(done, future.result(), strict=True)

    def _computed(self, left: dict[int, Window]) -> Iterator[list[TileResult] | CoarseLook]:
        """The results, from one device or from several at once."""
        done = {n for unit in self.plan.units for n in range(unit.first, unit.first + len(unit.tiles))} - left.keys()
        passes = [self.setup.passes(self.plan, device) for device in self.setup.devices]
        works = passes[0].works(self.units, done)
        if len(passes) == 1:
            yield from passes[0].run_with_looks(works, FirstLooks(self.plan))
        else:
            yield from _together(passes, works)

    def _first_look(self, look: CoarseLook) -> FirstLook:
        """The event with the labels of a piece in view, which the run does not keep."""
        labels = decide(look.probabilities, self.setup.thresholds)
        if self.setup.mask is not None:
            labels = np.where(self.setup.mask.on(self.setup.grid.scaled(look.scale), look.piece), labels, 0)
        return FirstLook.of(self.run.key, look.piece.times(1 / look.scale), labels.astype(np.uint8))

    def _write(self, results: list[TileResult]) -> list[RegionDone | None]:
        return [self._write_tile(result) for result in results]

    def _write_tile(self, result: TileResult) -> RegionDone | None:
        """Write a tile's wanted pixels to disk, and note it in the ledger."""
        tile = result.tile.window
        part = tile.intersection(self.plan.target)
        if result.maps is None:
            self.run.finish(result.tile.index, part, failed=result.failed or "unknown")
            return None
        inside = part.slices((tile.y, tile.x))
        probabilities = result.maps.probabilities[(slice(None), *inside)]
        labels = decide(probabilities, self.setup.thresholds)
        values: dict[str, npt.NDArray[Any]] = {"labels": labels, "raw": labels, "probabilities": probabilities}
        for name in ("disagreement", "entropy"):
            if (found := getattr(result.maps, name)) is not None:
                values[name] = found[inside]
        values = {name: array for name, array in values.items() if name in self.run.outputs}
        # torch rounds like NumPy, which is slow at this conversion
        if self.run.outputs.get("probabilities") == "float16":
            values["probabilities"] = torch.from_numpy(probabilities).half().numpy()
        if self.setup.mask is not None:
            outside = ~self.setup.mask.on(self.setup.grid, part)
            if outside.any():
                for name, array in values.items():
                    values[name] = np.where(outside, array.dtype.type(IGNORED if name == "raw" else 0), array)
        self.run.write(part, values)
        self.run.finish(result.tile.index, part)
        self.run.coarsen([part])
        return RegionDone(run=self.run.key, y=part.y, x=part.x, height=part.height, width=part.width)


class _Clock:
    """Progress, speed and time left, counted in pixels, since tiles differ in size."""

    def __init__(self, total: int, left: dict[int, Window]) -> None:
        self.total = total
        self.sizes = {n: window.height * window.width for n, window in left.items()}
        self.pixels = sum(self.sizes.values())
        self.computed = 0
        self.count = total - len(left)
        self.started = time.monotonic()

    def tick(self, tile: int) -> Progress:
        """Count one more finished tile."""
        size = self.sizes.get(tile, 0)
        self.computed += size
        self.count += tile in self.sizes
        rate = self.computed / max(1e-6, time.monotonic() - self.started)
        left = max(0.0, (self.pixels - self.computed) / rate) if rate else None
        return Progress(done=self.count, total=self.total, unit="tiles", seconds_left=left, rate=rate)


def _together(passes: Sequence[Pass | ResizedPass], works: list[Work]) -> Iterator[list[TileResult] | CoarseLook]:
    """Run several devices side by side, each with its own share of the units."""
    results: Queue[list[TileResult] | CoarseLook | BaseException | None] = Queue(maxsize=2 * len(passes))
    enough = Flag()

    def put(found: list[TileResult] | CoarseLook | BaseException | None) -> None:
        while not enough.is_set():
            with suppress(Full):
                results.put(found, timeout=0.1)
                return

    def serve(one: Pass | ResizedPass, share: list[Work]) -> None:
        try:
            for found in one.run_with_looks(share, FirstLooks(one.plan)):
                put(found)
                if enough.is_set():
                    return
            put(None)
        except BaseException as error:  # raised again in the thread that takes the results
            put(error)

    numbers = sorted({work.unit for work in works})
    if len(numbers) < len(passes):
        shares = [works[n :: len(passes)] for n in range(len(passes))]
    else:
        shares = [[w for w in works if numbers.index(w.unit) % len(passes) == n] for n in range(len(passes))]
    with ThreadPoolExecutor(len(passes), thread_name_prefix="device") as pool:
        for one, share in zip(passes, shares, strict=True):
            pool.submit(contextvars.copy_context().run, serve, one, share)
        running = len(passes)
        try:
            while running:
                found = results.get()
                if found is None:
                    running -= 1
                elif isinstance(found, BaseException):
                    raise found
                else:
                    yield found
        finally:
            enough.set()


# ----------------------------------------------------------------------------------------------------------------------
# The prediction job and `predict`.


Models = Sequence[MSUNet]


def options_of(job: PredictOptions) -> PredictOptions:
    """The options of a job that say how to predict."""
    return PredictOptions(**{name: getattr(job, name) for name in PredictOptions.model_fields})


def predict_events(job: PredictJob) -> Iterator[Event]:
    """Run a prediction job; see `napari_msunet.run`."""
    if (foreign := _foreign(job.models)) is not None:
        with MODEL_CACHE.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
            yield from foreign_events(slide, foreign, job.out, options_of(job))
        return
    models = [MODEL_CACHE.model(path) for path in job.models]
    with MODEL_CACHE.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
        yield from prediction(slide, models, job.out, options_of(job))


def _foreign(paths: Sequence[Path]) -> ForeignNetwork | None:
    """The model of another program in these files; `ModelError` where it is one of several."""
    if not any(is_foreign(path) for path in paths):
        return None
    if len(paths) > 1:
        raise ModelError("A model of another program cannot be part of an ensemble; give it alone.")
    return load_foreign(paths[0])


def predict(
    slide: Slide | str | Path,
    model: MSUNet | str | Path | Sequence[MSUNet | str | Path],
    out: str | Path,
    region: Region | tuple[float, float, float, float] | None = None,
    **options: Any,
) -> LabelStore:
    """Predict a slide, or a part of it, into a label store.

    The result equals the network run over the whole slide in one piece (the slide padded with its background by the
    model's margin), whatever the tile size. A second call with the same slide, model and options continues a prediction
    that was stopped, and returns at once where it is complete. Edits of a person in `out` stay.

    Parameters
    ----------
    slide : Slide or path
    model : MSUNet or path of a model file, or several
        Several are an ensemble: the mean of their probabilities. Also a model of another program: .onnx, or the ONNX
        weights of a bioimage.io package (.zip).
    out : path
        The label store (OME-Zarr), which is made where it does not exist.
    region : Region, or y, x, height, width; optional
        A region in level-0 pixels; pixels whose centre lies inside are computed. None: the whole slide.
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
    foreign = _foreign([as_path(m, "the model file") for m in given if not isinstance(m, MSUNet)])
    try:
        if foreign is not None:
            events = foreign_events(opened, foreign, path, how)
        else:
            networks = [m if isinstance(m, MSUNet) else load_model(m) for m in given]
            events = prediction(opened, networks, path, how)
        for _ in events:
            pass
    finally:
        if opened is not slide:
            opened.close()
    return open_labels(path)


def prediction(slide: Slide, models: Models, out: Path, options: PredictOptions) -> Iterator[Event]:
    """Fill the run of these options in `out`, then merge it, and give the events."""
    setup = on_own_pixels(set_up(slide, models, options))
    store, run = open_run(setup, out)
    yield from (Message(level="warning", text=text) for text in left_out(options.where, setup.mask))
    if run.complete and run.sound:
        yield Message(text=f"The run {run.key} is complete already; nothing was computed again.")
    else:
        yield from (Message(level="warning", text=text) for text in setup.doubts)
        if setup.speed_words:
            yield Message(text=setup.speed_words)
        with run.writing():
            yield from (Message(level="warning", text=text) for text in run.messages)
            yield from fill(run, setup)
            yield from close_run(run, setup)
    yield from merge(store, run)
    yield result_of(run, setup, out)


def result_of(run: Run, setup: Setup, out: Path) -> Result:
    """The last event of a prediction; an error where tiles are missing and the options do not allow that."""
    plan = Plan(**run.description["plan"])
    lost = {number: window for number, window in unfinished(run, plan).items() if number in run.failed}
    if lost and setup.options.damaged == "refuse":
        raise SlideError(
            f"{lost_text(lost, run)} of {setup.slide.path or 'the slide'}; all others are done and in {out}. The same "
            'prediction tries them again, and goes on without them if it is told to (damaged="skip").'
        )
    pixels = sum(window.height * window.width for window in run.done.values())
    values = {"run": run.key, "pixels": pixels, "tiles": plan.tiles, "failed": len(run.failed)}
    values |= {name: run.description[name] for name in ("seam", "precision", "measured") if name in run.description}
    if lost:
        values["damaged"] = [[w.y, w.x, w.height, w.width] for w in lost.values()]
    return Result(values=values, files={"labels": str(out)})


def lost_text(lost: Mapping[int, Window], run: Run) -> str:
    """Tiles that could not be computed, in words."""
    texts = [f"y {w.y} to {w.stop[0]}, x {w.x} to {w.stop[1]}" for w in list(lost.values())[:NAMED]]
    if len(lost) > NAMED:
        texts.append(f"and {len(lost) - NAMED} more")
    why = run.failed[next(iter(lost))].rstrip(".")
    many = f"{len(lost)} tiles" if len(lost) > 1 else "1 tile"
    return f"{many} could not be computed ({'; '.join(texts)} of the labels; {why})"


def close_run(run: Run, setup: Setup) -> Iterator[Event]:
    """Finish a run that is open for writing, after its last tile: post-processing, seam meter, pyramid."""
    plan = Plan(**run.description["plan"])
    yield from finish(run, setup.options.postprocess)
    blended = any(stream.blended for stream in plan.streams)
    tiled = plan.tiles > 1 and setup.inner is None
    if (setup.options.margin != "exact" or blended) and "seam" not in run.description and tiled:
        seam = seam_meter(run, setup, plan)
        run.note(seam=seam)
        yield Message(text=seam_text(seam, blended))
    if setup.options.precision != "float32" and "precision" not in run.description and plan.tiles and not setup.inner:
        precision = precision_meter(setup, plan)
        run.note(precision=precision)
        yield Message(text=precision_text(precision))
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


def precision_text(found: dict[str, float]) -> str:
    """The precision meter in a sentence."""
    return (
        f"On {found['pixels']:,.0f} pixels of this slide, {found['changed']:.3%} of the labels differ from those in "
        f"float32, and probabilities by at most {found['largest']:.3f}; precision='float32' is exact."
    )


def open_run(setup: Setup, out: Path, unit: int | None = None) -> tuple[LabelStore, Run]:
    """The label store at `out`, and its run of these options, which is found by its key or made with a new plan.

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
    models = [MODEL_CACHE.model(path) for path in job.models]
    with MODEL_CACHE.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
        setup = on_own_pixels(set_up(slide, models, options_of(job)))
        plan = plan_for(setup)
        found = summary(plan)
        if plan.tiles and not plan.memory:  # small predictions are planned without counting memory
            most = min(plan.limit, plan.through)
            needed = planned_memory([model.config for model in models], most, plan.variants)
            found["memory_gb"] = round(needed / 1e9, 2)
        return {**found, "seconds": estimate(setup, plan) if plan.tiles else 0.0}


def plan_events(job: PlanJob) -> Iterator[Event]:
    """The events of a `PlanJob`: its result alone."""
    yield Result(values=describe_plan(job.prediction))


def _store(out: Path, setup: Setup) -> LabelStore:
    """The label store at `out`, which is made where it does not exist; a store of another mpp or shape is refused."""
    config, grid = setup.models[0].config, setup.grid
    if not out.exists():
        return LabelStore.create(out, mpp=config.output, classes=config.classes, slide=setup.slide, check_names=False)
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
    """Merge the run into the labels, unless another process edits them, which then merges it."""
    try:
        store.merge(run)
    except StoreLockedError as error:
        yield Message(level="warning", text=f"The run {run.key} is finished but not merged: {error}")
        return
    store.flush()
    yield from ()
