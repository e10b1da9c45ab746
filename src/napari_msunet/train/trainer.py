"""Train a model: from a job to a folder with the best model, its numbers and its curves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from napari_msunet.config import TrainJob
from napari_msunet.data.recipe import UNLIMITED_EPOCHS
from napari_msunet.events import Event, Message, Result
from napari_msunet.stopping import current
from napari_msunet.train.background import in_background
from napari_msunet.train.fitting import fit
from napari_msunet.train.frozen import save_frozen
from napari_msunet.train.ranks import Place, others, place_of, tell_ready
from napari_msunet.train.record import RunFolder
from napari_msunet.train.session import prepare


def train_events(job: TrainJob) -> Iterator[Event]:
    """Train a model.

    Closing the iterator stops within a batch and keeps the best model so far; `stopping.Stop` stops it from another
    thread, and can keep the last weights or nothing instead.

    Parameters
    ----------
    job : TrainJob

    Yields
    ------
    Event
        `Message`, `Progress` (steps), `Metric` (each epoch), and at the end a `Result` with ``best_epoch``,
        ``validation`` and ``train`` (loss and IoU of each output at that epoch), ``seconds_per_step``, ``epochs``,
        ``stopped`` (why), ``parameters``, ``peak_memory_mb``, ``fingerprint``, ``split`` (names on each side).

    Raises
    ------
    SourceError, MissingMppError, SlideError
        If images and masks cannot be used.
    OutputError
        If `job.out` cannot be used.
    MsunetError
        If the loss stops being a number, or the device has too little memory.
    """
    started = time.monotonic()
    place = place_of(job)
    if place.rank:
        yield from _follow_events(job, place, started)
        return
    folder = RunFolder(job)
    done = folder.result
    if job.resume and done is not None and _finished(done, job):
        yield Message(text=f"The run in {job.out} is finished after {done['epochs']} epochs ({done['stopped']}).")
        yield Result(values=done, files=folder.files)
        return
    stop, under_way = current(), False
    session = prepare(job, folder)
    try:
        yield from session.messages
        folder.begin(session.job)
        if session.aside.frozen:
            save_frozen(session.aside.frozen, folder.path)
        under_way = True
        with others(job, place):
            yield from in_background(partial(fit, session, folder, started, place))
        under_way = False
    finally:
        session.close()
        if under_way and stop.asked and stop.keep == "none":
            folder.discard(job)


def _finished(done: dict[str, Any], job: TrainJob) -> bool:
    """Whether a result is all that the job asks for."""
    return done.get("stopped") == "no better" or int(done.get("epochs", 0)) >= (job.epochs or UNLIMITED_EPOCHS)


def _follow_events(job: TrainJob, place: Place, started: float) -> Iterator[Event]:
    """Help the first process to train; it alone tells what happens and writes."""
    folder = RunFolder(job, follows=True)
    session = prepare(job, folder, place.rank)
    tell_ready()
    try:
        yield from in_background(partial(fit, session, folder, started, place))
    finally:
        session.close()
    yield Result(values={"rank": place.rank})
