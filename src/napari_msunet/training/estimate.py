"""How long a training will take on this machine, measured by a few of its steps before it begins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch

from napari_msunet.config import TimeTrainingJob
from napari_msunet.events import Event, Message, Result, Say, Stop, in_background
from napari_msunet.training.fit import first_model, quiet
from napari_msunet.training.prepare import check_time, step_work
from napari_msunet.training.record import RunFolder
from napari_msunet.training.setup import TrainingSetup, prepare
from napari_msunet.training.tuner import step_seconds


def time_training_events(job: TimeTrainingJob) -> Iterator[Event]:
    """Run a `TimeTrainingJob`; see `napari_msunet.run`.

    Yields
    ------
    Event
        A `Message` with the estimate in words, and a `Result` with ``preparing`` (seconds before the first step),
        ``seconds_per_step``, ``steps_per_epoch``, and ``rate`` (seconds for 1e9 multiplications). A classical method,
        which is fitted in one pass, has no steps: its result has ``preparing`` only.

    Raises
    ------
    SourceError, MissingMppError, SlideError, ModelError
        If the training cannot begin.
    """
    began = time.monotonic()
    training = job.training.model_copy(update={"resume": False})
    session = prepare(training, RunFolder(training, follows=True))
    try:
        yield from in_background(partial(_measure, session, job.steps, began))
    finally:
        session.close()


def _measure(session: TrainingSetup, steps: int, began: float, say: Say, stop: Stop) -> None:
    preparing = round(time.monotonic() - began, 2)
    if session.config.classical:
        say(Result(values={"preparing": preparing}))
        return
    with quiet(), torch.random.fork_rng():
        seconds = step_seconds(session, partial(first_model, session), stop, steps)
    rate = seconds / step_work(session.job)
    say(Message(text=check_time(session.job, session.batches.steps, rate).text))
    values = {"seconds_per_step": round(seconds, 5), "steps_per_epoch": session.batches.steps, "rate": rate}
    say(Result(values={"preparing": preparing, **values}))
