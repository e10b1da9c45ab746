"""The loop: Lightning's trainer, run to its end, and what is said of the result."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from napari_msunet.data import Item
from napari_msunet.errors import MsunetError
from napari_msunet.events import Message, Result
from napari_msunet.models import MSUNet, build_model, load_model
from napari_msunet.models.start import take_weights
from napari_msunet.stopping import Cancelled, Stop
from napari_msunet.train.background import Say
from napari_msunet.train.guard import guarded
from napari_msunet.train.record import RunFolder
from napari_msunet.train.session import Session

if TYPE_CHECKING:
    from napari_msunet.train.watch import Watch


def fit(session: Session, folder: RunFolder, started: float, say: Say, stop: Stop) -> None:
    """Run Lightning's loop to its end; in a thread of its own."""
    with quiet():
        import lightning.pytorch as pl

        from napari_msunet.train.module import Training
        from napari_msunet.train.watch import Watch, device_arguments

        job = session.job
        stop.check()
        watch = Watch(job, folder, say, stop, started)
        with torch.random.fork_rng():
            torch.manual_seed(job.seed)
            model = build_model(session.config)
            if session.start:
                take_weights(model, session.start)
            module = Training(model, job, session.size, watch.fraction)
            trainer = pl.Trainer(
                **device_arguments(session.device),
                max_epochs=job.epochs,
                callbacks=[watch],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                default_root_dir=folder.path,
            )
            checkpoint = folder.checkpoint if job.resume and folder.checkpoint.exists() else None
            if checkpoint:
                session.batches.epoch = _epochs_done(folder)
                say(Message(text=f"Going on after epoch {session.batches.epoch}."))
            watch.summary = _summary(session)
            try:
                trainer.fit(module, session.batches, session.validation, ckpt_path=checkpoint, weights_only=True)
            except torch.OutOfMemoryError as error:
                raise MsunetError(
                    f"{session.device} has too little memory for {job.batch_size} windows of {session.size} pixels; "
                    "give a smaller batch_size or size, or device='cpu'."
                ) from error
            except Cancelled:
                if stop.keep == "last" and watch.standing.steps:
                    watch.keep_last(model)
                raise
            finally:
                if folder.rows and stop.keep != "none":
                    watch.draw()
        values = _result(session, watch, folder) | guarded(session.aside, folder.model, session.device, say, stop)
        folder.finish(values)
        say(Result(values=values, files=folder.files))


def _epochs_done(folder: RunFolder) -> int:
    """How many epochs a checkpoint has behind it."""
    state = torch.load(folder.checkpoint, map_location="cpu", weights_only=True)
    return int(state["epoch"]) + 1


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
        "size": session.size,
        "batch_size": session.job.batch_size,
        "seed": session.job.seed,
        "split": {"train": _names(session.sides.train), "validate": _names(session.sides.validate)},
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
        "size": session.size,
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
