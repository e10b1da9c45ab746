"""The command `napari-msunet`. Each verb builds a job, runs it and shows its events; nothing more happens here."""

from napari_msunet.__main__ import main
from napari_msunet.cli import composing, general, labels, prediction, training
from napari_msunet.cli.running import app, execute, run_command

__all__ = [
    "app",
    "composing",
    "execute",
    "general",
    "labels",
    "main",
    "prediction",
    "run_command",
    "training",
]
