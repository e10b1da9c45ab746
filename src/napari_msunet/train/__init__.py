"""Training, its metrics and its records, and evaluation. No Qt."""

from napari_msunet.train.trainer import train_events

__all__ = ["train_events"]
