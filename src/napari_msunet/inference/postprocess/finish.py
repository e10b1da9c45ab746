"""Post-processing a run, after its last tile, or later from the probabilities that it kept."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.config import Damaged, Postprocess, PostprocessJob
from napari_msunet.constants import CHUNK, IGNORED
from napari_msunet.errors import MsunetError, StoreError, StoreLockedError
from napari_msunet.events import Event, Message, Result, progress
from napari_msunet.geometry import Window
from napari_msunet.inference.postprocess.cleaning import Cleaning, pixels_under
from napari_msunet.inference.postprocess.instances import Instances
from napari_msunet.inference.postprocess.split_touching import SplitTouching
from napari_msunet.inference.postprocess.threshold import Labels, decide, deviations, radius, smooth, threshold_array
from napari_msunet.labels import LabelStore, Run, open_labels
from napari_msunet.labels.corrupt_chunks import places
from napari_msunet.labels.levels import tiles
from napari_msunet.labels.store import check_run, check_store, sound_runs
from napari_msunet.objects.components import SIDE, Plane, Walk


@dataclass(frozen=True)
class Output:
    """An output of a run as a plane."""

    run: Run
    name: str

    def read(self, window: Window) -> npt.NDArray[Any]:
        """Values of a window, 0 outside."""
        return self.run.read(window, output=self.name)

    def write(self, window: Window, values: npt.NDArray[Any]) -> None:
        """Write values into a window inside."""
        self.run.write(window, {self.name: values})


@dataclass(frozen=True)
class Decided:
    """Labels that are decided from a run's probabilities when read, with smoothing and thresholds; 255 where
    unknown."""

    run: Run
    thresholds: npt.NDArray[np.float32]
    sigma: tuple[float, float]

    def read(self, window: Window) -> Labels:
        """Labels of a window inside."""
        halo = max(map(radius, self.sigma))
        probabilities = self.run.read(window.padded(halo), output="probabilities")
        inner = Window(halo, halo, *window.shape).slices()
        known = probabilities[(slice(None), *inner)].any(0)
        lost = self.run.lost(window, ("probabilities",))
        if lost is not None:
            known &= ~lost
        labels = decide(smooth(probabilities, self.sigma)[(slice(None), *inner)], self.thresholds)
        return np.where(known, labels, IGNORED).astype(np.uint8)

    def write(self, window: Window, values: npt.NDArray[Any]) -> None:
        """Raises, because this is only read."""
        raise StoreError("Probabilities are not written by post-processing.")


def finish(run: Run, settings: Postprocess, source: Run | None = None, side: int = SIDE) -> Iterator[Event]:
    """Do the post-processing of a run that needs more than single pixels: smoothing, cleaning, and splitting objects.

    Small objects are removed first, then holes are filled, then touching objects are split. The work always begins from
    the output of the tiles ("raw" labels or probabilities), so it can be repeated after a kill with the same result.

    Parameters
    ----------
    run : Run
        Open for writing, with all tiles done; its coarser levels are not made yet. Writes "labels", and "instances"
        where the run has them.
    settings : Postprocess
        Its lengths and areas are in µm, or in pixels of the slide where the run has no size in µm. Thresholds count
        where it decides itself (with smoothing, or from a `source`); else the tiles' labels were decided with them.
    source : Run, optional
        The run with the probabilities; None: the run itself.
    side : int
        Side of the windows in pixels, which has no influence on the result.

    Raises
    ------
    MsunetError
        If the settings name a class that does not exist.
    """
    walk = Walk(run.info.shape, (source or run).done.values(), side)
    cleaning, instances = _work(run, settings, walk)
    labels = Output(run, "labels")
    begin = _begin(run, settings, source)
    total = (cleaning.passes if begin else 0) + (instances.passes if instances else 0)
    started = time.monotonic()

    def steps() -> Iterator[Window]:
        if begin is not None:
            yield from cleaning.steps(begin, labels)
        if instances is not None:
            yield from instances.steps(labels, Output(run, "instances"))

    for done, _ in enumerate(steps(), 1):
        yield progress(done, total * len(walk), "windows", started)
    if instances is not None:
        run.note(instances=instances.count)


def _work(run: Run, settings: Postprocess, walk: Walk) -> tuple[Cleaning, Instances | None]:
    pixel = run.info.spacing
    boundary = 0
    if settings.instances == "boundary":
        if settings.boundary not in run.classes:
            raise MsunetError(
                f"The boundary class {settings.boundary!r} is none of the classes {', '.join(run.classes)}; name one."
            )
        boundary = run.classes.index(settings.boundary) + 1
    area = pixel[0] * pixel[1]
    smallest, holes = pixels_under(settings.smallest, area), pixels_under(settings.holes, area)
    cleaning = Cleaning(walk, smallest, holes, len(run.classes), keep=boundary)
    if "instances" not in run.outputs:
        return cleaning, None
    shorter = min(pixel)
    parting = SplitTouching(settings.spacing / shorter, (pixel[0] / shorter, pixel[1] / shorter))
    return cleaning, Instances(walk, parting, boundary)


def _begin(run: Run, settings: Postprocess, source: Run | None) -> Plane | None:
    """The plane from which the labels are made; None: they are final already."""
    if source is not None or settings.smoothing:
        thresholds = threshold_array(settings.thresholds, run.classes)
        unit = "px" if run.info.mpp is None else "µm"
        return Decided(source or run, thresholds, deviations(settings.smoothing, run.info.spacing, unit))
    return None if settings.pointwise else Output(run, "raw")


def postprocess_events(job: PostprocessJob) -> Iterator[Event]:
    """Make other labels from the probabilities of a run, as a new run, and merge it; edits stay.

    A second job with the same settings computes nothing. Progress counts windows.

    Raises
    ------
    StoreError
        If no run kept probabilities, or the store cannot be read.
    MsunetError
        If the settings do not fit the classes.
    """
    store = open_labels(job.labels)
    source = probability_run(store, job.run, job.damaged)
    left_out = [check_run(source, job.damaged, ("probabilities",)), check_store(store, job.damaged, ("edited",))]
    yield from (Message(level="warning", text=text) for text in left_out if text)
    threshold_array(job.postprocess.thresholds, source.classes)
    asked = {
        "postprocess": job.postprocess.model_dump(mode="json"),
        "from": source.key,
        "instances": job.instances,
        "done": len(source.done),
    }
    lost = places(source.find_corrupt_chunks(("probabilities",)), source.info.shape) if left_out[0] else []
    if lost:
        asked["lost"] = [[w.y, w.x, w.height, w.width] for w in lost]
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    outputs = {"labels": "uint8"} | ({"instances": "uint32"} if job.instances else {})
    run = store.create_run(key, {"settings": asked, "derived": True}, source.classes, outputs)
    if run.complete:
        yield Message(text=f"The run {run.key} is complete already; nothing was computed again.")
    else:
        with run.writing():
            yield from finish(run, job.postprocess, source)
            for number, window in _kept(source, lost).items():
                run.finish(number, window)
            run.complete_run()
    try:
        store.merge(run)
        store.flush()
    except StoreLockedError as error:
        yield Message(level="warning", text=f"The run {run.key} is finished but not merged: {error}")
    values: dict[str, Any] = {"run": run.key, "from": source.key}
    if lost:
        values["damaged"] = asked["lost"]
    if job.instances:
        values["instances"] = run.description.get("instances")
    yield Result(values=values, files={"labels": str(job.labels)})


def _kept(source: Run, lost: Sequence[Window]) -> dict[int, Window]:
    """The finished tiles without damaged parts, in which nothing is merged."""
    if not lost:
        return source.done
    found: list[Window] = []
    for window in source.done.values():
        if all(window.intersection(part).empty for part in lost):
            found.append(window)
        else:
            found += [t for t in tiles(window, CHUNK) if all(t.intersection(part).empty for part in lost)]
    return dict(enumerate(found))


def probability_run(store: LabelStore, key: str | None = None, damaged: Damaged = "refuse") -> Run:
    """The run with probabilities of this key, or the newest one.

    Raises
    ------
    StoreError
        If there is none.
    """
    runs: Sequence[Run] = sound_runs(store, damaged) if key is None else [store.run(key)]
    kept = [run for run in runs if "probabilities" in run.outputs and run.done]
    if not kept:
        where = store.path if key is None else f"The run {key} of {store.path}"
        raise StoreError(
            f'{where} kept no probabilities; predict with outputs=("labels", "probabilities"), then thresholds can be '
            "changed without the network."
        )
    return max(kept, key=lambda run: (run.path / "run.json").stat().st_mtime_ns)
