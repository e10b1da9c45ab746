"""The command `napari-msunet`. Each verb builds a job, runs it and shows its events; nothing more happens here."""

from napari_msunet.__main__ import main
from napari_msunet.cli import (
    comparing,
    composing,
    general,
    importing,
    labels,
    prediction,
    retraining,
    review,
    training,
    truth,
)
from napari_msunet.cli.running import app, execute, run_command

__all__ = [
    "app",
    "comparing",
    "composing",
    "execute",
    "general",
    "importing",
    "labels",
    "main",
    "prediction",
    "retraining",
    "review",
    "run_command",
    "training",
    "truth",
]
