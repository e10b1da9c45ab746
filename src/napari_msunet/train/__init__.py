"""Training, its metrics and its records, and evaluation. No Qt."""

from napari_msunet.train.evaluate import evaluate_events
from napari_msunet.train.trainer import train_events

__all__ = ["evaluate_events", "train_events"]
