"""The loop: Lightning's trainer, run to its end, and what is said of the result."""

from __future__ import annotations

import gc
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from napari_msunet.config.optimiser import Precision
from napari_msunet.data import Item
from napari_msunet.errors import MsunetError
from napari_msunet.events import Message, Result
from napari_msunet.models import MSUNet, build_model, load_model
from napari_msunet.models.start import take_weights
from napari_msunet.slide.identity import short_hash
from napari_msunet.stopping import Cancelled, Stop
from napari_msunet.train.background import Say
from napari_msunet.train.guard import guarded
from napari_msunet.train.pictures import draw_run_panels
from napari_msunet.train.ranks import Place, fewer_threads, leave_group
from napari_msunet.train.record import RunFolder
from napari_msunet.train.session import Session
from napari_msunet.train.tracking import Tracker, tracked

if TYPE_CHECKING:
    from napari_msunet.train.watch import Watch


def fit(session: Session, folder: RunFolder, started: float, place: Place, say: Say, stop: Stop) -> None:
    """Run Lightning's loop to its end; in a thread of its own.

    Where the device has too little memory, the run goes on from its last whole epoch with half the batch.
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
            values |= guarded(session.aside, folder.model, session.device, say, stop)
            draw_run_panels(session, folder)
            folder.finish(values)
            tracking.end(values, folder.files)
            say(Result(values=values, files=folder.files))


class _Said(NamedTuple):
    """When the job began, whom it tells, who may stop it, and which of several processes this is."""

    started: float
    say: Say
    stop: Stop
    place: Place
    trackers: Sequence[Tracker]


def _settle(session: Session, folder: RunFolder, said: _Said, resume: bool) -> None:
    """The batch and the learning rate, where trials are to find them or where the run that goes on has others."""
    job = session.job
    if resume:
        before = _saved(folder)["callbacks"].get("Watch", {}).get("summary", {})
        if before.get("batch_size", session.batches.batch) != session.batches.batch and "accumulate" in before:
            session.accumulate, session.batches.steps = before["accumulate"], before["steps_per_epoch"]
            session.regroup(before["batch_size"])
        return  # the learning rate is in the checkpoint
    if not job.find_batch_size and not job.find_learning_rate:
        return
    from napari_msunet.train.finding import find_batch_size, find_learning_rate

    with torch.random.fork_rng():
        if job.find_batch_size:
            session.set_batch(find_batch_size(session, partial(_model, session), said.stop))
            text = f"{session.batches.batch} windows at a time fit into the memory of {session.device}."
            said.say(Message(text=text))
        if job.find_learning_rate:
            rate = find_learning_rate(session, partial(_model, session), said.stop)
            session.job = job.model_copy(update={"optimiser": job.optimiser.model_copy(update={"learning_rate": rate})})
            said.say(Message(text=f"The loss falls fastest at a learning rate of {rate:g}: training begins with it."))


def _model(session: Session) -> MSUNet:
    """The model at the beginning; the same each time."""
    torch.manual_seed(session.job.seed)
    model = build_model(session.config)
    if session.start:
        take_weights(model, session.start)
    return model


def _halve(session: Session, folder: RunFolder, say: Say) -> bool:
    """Prepare going on with half the batch; whether there is an epoch to go on from."""
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


def _attempt(session: Session, folder: RunFolder, said: _Said, resume: bool) -> Watch:
    """Train from the beginning, or from the last checkpoint, until it ends or the memory does."""
    import lightning.pytorch as pl

    from napari_msunet.train.module import Training
    from napari_msunet.train.watch import Watch, device_arguments

    job = session.job
    watch = Watch(job, folder, said.say, said.stop, said.started)
    watch.finishing_passes = len(session.calibration) if session.validation is None else 0
    watch.trackers = said.trackers
    callbacks: list[pl.Callback] = [watch]
    fraction, devices = watch.fraction, device_arguments(session.device)
    if said.place.world > 1:
        from napari_msunet.train.together import Agreeing, Counting, Following, many_devices

        agreeing = Agreeing(watch.fraction)
        callbacks = [Counting(), watch if said.place.rank == 0 else Following(folder), agreeing]
        fraction, devices = agreeing.fraction, many_devices(job, session.device, said.place)
    with torch.random.fork_rng():
        model = _model(session)
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
                watch.draw()
    return watch


def _precision(wanted: Precision, device: torch.device) -> Any:
    """As Lightning names it; a CPU has no 16-bit floats but bfloat16."""
    if wanted == "16" and device.type == "cpu":
        wanted = "bf16"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[wanted]


def _saved(folder: RunFolder) -> dict[str, Any]:
    """The last checkpoint."""
    state: dict[str, Any] = torch.load(folder.checkpoint, map_location="cpu", weights_only=True)
    return state


def _epochs_done(folder: RunFolder) -> int:
    """How many epochs a checkpoint has behind it."""
    return int(_saved(folder)["epoch"]) + 1


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's banners and hints about workers from users; its settings are put back."""
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


def _summary(session: Session) -> dict[str, Any]:
    """What a model file says about its training."""
    return {
        "images": len(session.sides.train),
        "size": session.windows.size,
        "batch_size": session.batches.batch,
        "accumulate": session.accumulate,
        "steps_per_epoch": session.batches.steps,
        "learning_rate": session.job.optimiser.learning_rate,
        "seed": session.job.seed,
        "split": {"train": _names(session.sides.train), "validate": _names(session.sides.validate)},
        "training_pixels": [short_hash(item.pixel_key) for item in session.sides.train],
        "choices": list(session.reasons),
    }


def _names(items: list[Item]) -> list[str]:
    return [i.name for i in items]


def _result(session: Session, watch: Watch, folder: RunFolder) -> dict[str, Any]:
    """The numbers of a finished run."""
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
        "peak_memory_mb": round(peak_memory_mb(session.device), 1),
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


def peak_memory_mb(device: torch.device) -> float:
    """The most memory used so far: the device's for CUDA, else this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
