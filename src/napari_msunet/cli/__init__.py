"""The command `napari-msunet`. Each verb builds a job, runs it and shows its events; the work itself is done in other
packages."""

from napari_msunet.cli import general, labels, models, prediction, training
from napari_msunet.cli.running import app, execute, run_command

__all__ = [
    "app",
    "execute",
    "general",
    "labels",
    "models",
    "prediction",
    "run_command",
    "training",
]
