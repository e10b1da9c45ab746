"""Training a model: from a job to a folder with the best model, its scores, its curves and its pictures."""

from __future__ import annotations

import gc
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from napari_msunet.config import TrainJob
from napari_msunet.config.training import Precision
from napari_msunet.data import Item
from napari_msunet.data.loader import as_unit
from napari_msunet.data.recipe import UNLIMITED_EPOCHS
from napari_msunet.data.sharing import SharedImages
from napari_msunet.errors import MsunetError
from napari_msunet.events import Cancelled, Event, Message, Result, Say, Stop, current, in_background
from napari_msunet.models import MSUNet, build_model, load_model
from napari_msunet.models.networks import Classical
from napari_msunet.models.start_weights import take_weights
from napari_msunet.slide.identity import short_hash
from napari_msunet.training.distributed import Rank, fewer_threads, leave_group, others, rank_of, tell_ready
from napari_msunet.training.held_out import save_held_out
from napari_msunet.training.model_comparison import compared
from napari_msunet.training.record import RunFolder, peak_memory_mb
from napari_msunet.training.scoring.metrics import class_scores, confusion
from napari_msunet.training.scoring.panels import Panel, best_median_worst, draw_panels, shown
from napari_msunet.training.setup import TrainingSetup, prepare
from napari_msunet.training.tracking import Tracker, tracked

if TYPE_CHECKING:
    from napari_msunet.training.callbacks import ProgressCallback
# ----------------------------------------------------------------------------------------------------------------------
# The pictures of a training run: its best, median and worst validation window.

WINDOWS = 64
"""Most validation windows from which the pictures are chosen."""


def draw_run_panels(session: TrainingSetup, folder: RunFolder) -> None:
    """Write panels.png of a finished run; without validation there is none."""
    if session.validation is None or not folder.with_pictures:
        return
    model = load_model(folder.model).to(session.device)
    panels = _panels(session, model)
    chosen = best_median_worst([score for score, _ in panels])
    if chosen:
        rows = [(f"{name}: {panels[n][1][0]}", *panels[n][1][1:]) for name, n in chosen]
        draw_panels(folder.panels, rows, model.config.classes)


def _panels(session: TrainingSetup, model: MSUNet) -> list[tuple[float, Panel]]:
    """The mean Dice over classes of each validation window, and its picture."""
    seen = copy(model)  # a shallow copy, which shares the weights
    seen.config = session.windows.config
    finest = int(np.argmax([float(r) for r in seen.config.ratios]))
    outputs = len(model.config.classes) + 1
    found: list[tuple[float, Panel]] = []
    assert session.validation is not None  # for the type checker
    for batch in session.validation:
        inputs = [x.to(session.device) for x in batch.normalised()]
        size = (int(batch.target.shape[1]), int(batch.target.shape[2]))
        with torch.inference_mode():
            predicted = seen.outputs(inputs, size, seen.config.field)[0].max(1).indices.cpu()
        images = interpolate(as_unit(batch.inputs[finest]), size, mode="nearest")
        for image, truth, labels in zip(images, batch.target, predicted, strict=True):
            scores = class_scores(confusion(labels, truth, outputs).numpy())["dice"][1:]
            known = scores[np.isfinite(scores)]
            if known.size:
                dice, picture = float(known.mean()), image.permute(1, 2, 0).numpy()
                grey = (picture * 255).astype(np.uint8)
                panel = f"Dice {dice:.3f}", shown(grey), truth.numpy(), labels.numpy().astype(np.uint8)
                found.append((dice, panel))
        if len(found) >= WINDOWS:
            break
    return found


# ----------------------------------------------------------------------------------------------------------------------
# The training loop, run by Lightning's trainer, and its result.

_TRIAL_FROM = 60.0
"""Seconds of a time limit from which a trial of the precision pays: it takes about six steps."""


def fit(session: TrainingSetup, folder: RunFolder, started: float, place: Rank, say: Say, stop: Stop) -> None:
    """Run Lightning's loop to its end; to be called in a thread.

    Where the device has too little memory, the run continues from its last whole epoch with half the batch.
    """
    with quiet(), fewer_threads(place), tracked(session.job if place.rank == 0 else None) as tracking:
        stop.check()
        resume = session.job.resume and folder.checkpoint.exists()
        said = _Said(started, say, stop, place, tracking.trackers)
        _settle(session, folder, said, resume)
        while True:
            try:
                watch = _attempt(session, folder, said, resume)
                break
            except torch.OutOfMemoryError as error:
                if session.batches.batch == 1 or place.world > 1:
                    raise MsunetError(
                        f"{session.device} has too little memory for {session.batches.batch} windows of "
                        f"{session.windows.size} pixels; give a smaller size or batch_size, narrower branches, or "
                        "device='cpu'."
                    ) from error
            resume = _halve(session, folder, say)
        if place.rank == 0:
            values = _result(session, watch, folder)
            values |= compared(session.aside, folder.model, session.device, say, stop)
            draw_run_panels(session, folder)
            folder.finish(values)
            tracking.end(values, folder.files)
            say(Result(values=values, files=folder.files))


class _Said(NamedTuple):
    """When the job began, the function that takes its messages, its `Stop`, and the rank of this process."""

    started: float
    say: Say
    stop: Stop
    place: Rank
    trackers: Sequence[Tracker]


def _settle(session: TrainingSetup, folder: RunFolder, said: _Said, resume: bool) -> None:
    """Set the batch and the learning rate, where they are to be found by trials or are those of the resumed run."""
    job = session.job
    if resume:
        from napari_msunet.training.callbacks import STATE_KEY

        before = _saved(folder)["callbacks"].get(STATE_KEY, {}).get("summary", {})
        if before.get("batch_size", session.batches.batch) != session.batches.batch and "accumulate" in before:
            session.accumulate, session.batches.steps = before["accumulate"], before["steps_per_epoch"]
            session.regroup(before["batch_size"])
        _set(session, precision=before.get("precision", "32") if job.optimiser.precision == "auto" else None)
        return  # the checkpoint has the learning rate
    # Only where time is what counts: a training without a limit gives the same weights on any machine.
    alone = session.device.type == "cpu" and said.place.world == 1
    trial = alone and job.optimiser.precision == "auto" and (job.time_limit or 0) >= _TRIAL_FROM
    if not job.find_batch_size and not job.find_learning_rate and not trial:
        _set(session, precision="32" if job.optimiser.precision == "auto" else None)
        return
    from napari_msunet.training.tuner import find_batch_size, find_learning_rate, find_precision

    with torch.random.fork_rng():
        build = partial(first_model, session)
        precision, times = find_precision(session, build, said.stop) if trial else ("32", 1.0)
        _set(session, precision=precision if job.optimiser.precision == "auto" else None)
        if precision == "bf16":
            said.say(
                Message(text=f"A step in bfloat16 is {times:.1f} times as fast here: training with precision bf16.")
            )
        if job.find_batch_size:
            session.set_batch(find_batch_size(session, build, said.stop))
            text = f"{session.batches.batch} windows at a time fit into the memory of {session.device}."
            said.say(Message(text=text))
        if job.find_learning_rate:
            rate = find_learning_rate(session, build, said.stop)
            _set(session, learning_rate=rate)
            said.say(Message(text=f"The loss falls fastest at a learning rate of {rate:g}: training begins with it."))


def _set(session: TrainingSetup, **found: Any) -> None:
    """Put what was found into the optimiser's options; None: nothing was."""
    update = {name: value for name, value in found.items() if value is not None}
    session.job = session.job.model_copy(update={"optimiser": session.job.optimiser.model_copy(update=update)})


def first_model(session: TrainingSetup) -> MSUNet:
    """The model at the beginning, the same at each call."""
    torch.manual_seed(session.job.seed)
    model = build_model(session.config)
    if session.config.classical:  # nothing of an earlier model is left in thresholds that are fitted anew
        network = model.branch(0).network
        assert isinstance(network, Classical)  # for the type checker
        batches = session.calibration()
        network.learn([as_unit(b.inputs[0]) for b in batches], [b.target for b in batches])
        return model
    if session.start:
        take_weights(model, session.start)
    return model


def _halve(session: TrainingSetup, folder: RunFolder, say: Say) -> bool:
    """Prepare to continue with half the batch, and return whether there is an epoch to continue from."""
    gc.collect()
    if session.device.type == "cuda":
        torch.cuda.empty_cache()
    before = session.batches.batch
    session.halve()
    resume = folder.checkpoint.exists() and bool(folder.rows)
    session.batches.epoch = 0
    say(
        Message(
            level="warning",
            text=f"{session.device} has too little memory for {before} windows of {session.windows.size} pixels: going "
            f"on {f'after epoch {_epochs_done(folder)}' if resume else 'from the beginning'} with "
            f"{session.batches.batch} at a time, adding up their gradients.",
        )
    )
    return resume


def _attempt(session: TrainingSetup, folder: RunFolder, said: _Said, resume: bool) -> ProgressCallback:
    """Train from the beginning, or from the last checkpoint, until it ends or the memory does."""
    import lightning.pytorch as pl

    from napari_msunet.training.callbacks import ProgressCallback, device_arguments
    from napari_msunet.training.module import Training

    job = session.job
    watch = ProgressCallback(job, folder, said.say, said.stop, said.started)
    watch.finishing_passes = len(session.calibration) if session.validation is None else 0
    watch.trackers = said.trackers
    callbacks: list[pl.Callback] = [watch]
    fraction, devices = watch.fraction, device_arguments(session.device)
    if said.place.world > 1:
        from napari_msunet.training.distributed import AgreeingOnStop, Following, SharedCounts, many_devices

        agreeing = AgreeingOnStop(watch.fraction)
        callbacks = [SharedCounts(), watch if said.place.rank == 0 else Following(folder), agreeing]
        fraction, devices = agreeing.fraction, many_devices(job, session.device, said.place)
    with torch.random.fork_rng():
        model = first_model(session)
        module = Training(model, job, session.windows, fraction)
        trainer = pl.Trainer(
            **devices,
            max_epochs=job.epochs,
            callbacks=callbacks,
            precision=_precision(job.optimiser.precision, session.device),
            accumulate_grad_batches=session.accumulate,
            gradient_clip_val=job.optimiser.clip,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder.path,
        )
        if resume:
            session.batches.epoch = _epochs_done(folder)
            said.say(Message(text=f"Going on after epoch {session.batches.epoch}."))
        watch.summary = _summary(session)
        try:
            checkpoint = folder.checkpoint if resume else None
            trainer.fit(module, session.batches, session.validation, ckpt_path=checkpoint, weights_only=True)
        except Cancelled:
            watch.cancelled(module)
            raise
        finally:
            leave_group()
            if folder.rows and said.stop.keep != "none":
                watch.draw(at_end=True)
    return watch


def _precision(wanted: Precision, device: torch.device) -> Any:
    """The precision in Lightning's words; on a CPU, bfloat16 is the only 16-bit type."""
    if wanted == "16" and device.type == "cpu":
        wanted = "bf16"
    return {"auto": "32-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[wanted]


def _saved(folder: RunFolder) -> dict[str, Any]:
    """The last checkpoint."""
    state: dict[str, Any] = torch.load(folder.checkpoint, map_location="cpu", weights_only=True)
    return state


def _epochs_done(folder: RunFolder) -> int:
    """The number of finished epochs in a checkpoint."""
    return int(_saved(folder)["epoch"]) + 1


@contextmanager
def quiet() -> Iterator[None]:
    """A context that hides Lightning's banners and hints about workers, and restores its settings at the end."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        import lightning.pytorch

        del lightning
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _summary(session: TrainingSetup) -> dict[str, Any]:
    """The summary of the training for the model file."""
    return {
        "images": len(session.sides.train),
        "size": session.windows.size,
        "batch_size": session.batches.batch,
        "accumulate": session.accumulate,
        "steps_per_epoch": session.batches.steps,
        "learning_rate": session.job.optimiser.learning_rate,
        "precision": session.job.optimiser.precision,
        "seed": session.job.seed,
        "split": {"train": _names(session.sides.train), "validate": _names(session.sides.validate)},
        "training_pixels": [short_hash(item.pixel_key) for item in session.sides.train],
        "choices": list(session.reasons),
    }


def _names(items: list[Item]) -> list[str]:
    return [i.name for i in items]


def _result(session: TrainingSetup, watch: ProgressCallback, folder: RunFolder) -> dict[str, Any]:
    """The values of the result of a finished run."""
    standing = watch.standing
    model: MSUNet = load_model(folder.model)
    return {
        "best_epoch": standing.best_epoch,
        "validation": watch.summary.get("validation", {}),
        "validation_groups": watch.summary.get("validation_groups", {}),
        "train": watch.summary.get("train", {}),
        "epochs": standing.epochs,
        "steps": standing.steps,
        "stopped": standing.reason,
        "seconds": round(watch.elapsed, 2),
        "seconds_per_step": round(standing.step_seconds / max(1, standing.steps), 5),
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_memory_mb": round(max(peak_memory_mb(session.device), standing.peak_memory_mb), 1),
        "device": str(session.device),
        "fingerprint": model.fingerprint,
        "size": session.windows.size,
        "batch_size": session.batches.batch,
        "learning_rate": session.job.optimiser.learning_rate,
        "choices": list(session.reasons),
        "split": {
            "train": _names(session.sides.train),
            "validate": _names(session.sides.validate),
            "test": _names(session.sides.test),
        },
    }


# ----------------------------------------------------------------------------------------------------------------------
# The training job.


def train_events(job: TrainJob, shared: SharedImages | None = None) -> Iterator[Event]:
    """Train a model.

    Closing the iterator stops the training within a batch and keeps the best model so far. `events.Stop` stops it from
    another thread, and can keep the last weights or nothing instead.

    Parameters
    ----------
    job : TrainJob
    shared : SharedImages, optional
        The images of earlier trainings of the same work, such as a search. No pictures are drawn then, which would take
        a good part of a short training.

    Yields
    ------
    Event
        `Message`, `Progress` (steps), `Metric` (each epoch), and at the end a `Result` with ``best_epoch``,
        ``validation`` and ``train`` (loss and IoU of each output at that epoch), ``seconds_per_step``, ``epochs``,
        ``stopped`` (the reason), ``parameters``, ``peak_memory_mb``, ``fingerprint``, ``split`` (names on each side).

    Raises
    ------
    SourceError, MissingMppError, SlideError
        If images and masks cannot be used.
    OutputError
        If `job.out` cannot be used.
    MsunetError
        If the loss becomes NaN or infinite, or the device has too little memory.
    """
    started = time.monotonic()
    place = rank_of(job)
    if place.rank:
        yield from _follow_events(job, place, started)
        return
    folder = RunFolder(job)
    done = folder.result
    if job.resume and done is not None and _finished(done, job, folder):
        yield Message(text=f"The run in {job.out} is finished after {done['epochs']} epochs ({done['stopped']}).")
        yield Result(values=done, files=folder.files)
        return
    folder.with_pictures = shared is None
    stop, under_way = current(), False
    session = prepare(job, folder, shared=shared)
    try:
        yield from session.messages
        folder.begin(session.job)
        if session.aside.frozen:
            save_held_out(session.aside.frozen, folder.path)
        under_way = True
        with others(job, place):
            yield from in_background(partial(fit, session, folder, started, place))
        under_way = False
    finally:
        session.close()
        if under_way and stop.asked and stop.keep == "none":
            folder.discard(job)


def _finished(done: dict[str, Any], job: TrainJob, folder: RunFolder) -> bool:
    """Whether a finished run is all that the job asks for; of a classical method there is nothing to go on with."""
    begun = folder.begun_job(job)
    if begun is not None and begun.classical:
        return True
    ended = done.get("stopped") in ("no better", "low loss")
    return ended or int(done.get("epochs", 0)) >= (job.epochs or UNLIMITED_EPOCHS)


def _follow_events(job: TrainJob, place: Rank, started: float) -> Iterator[Event]:
    """Train in a process that helps the first one, which alone reports events and writes files."""
    folder = RunFolder(job, follows=True)
    session = prepare(job, folder, place.rank)
    tell_ready()
    try:
        yield from in_background(partial(fit, session, folder, started, place))
    finally:
        session.close()
    yield Result(values={"rank": place.rank})
