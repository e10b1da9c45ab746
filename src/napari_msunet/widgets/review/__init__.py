"""Reviewing predictions and annotations: a queue of places, likely annotation errors, and the confusion matrix."""

from napari_msunet.widgets.review.label_issues_panel import TruthPanel

__all__ = ["TruthPanel"]
