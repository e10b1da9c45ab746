"""Truth under review: likely annotation errors one after the other, and the confusion matrix that leads to places."""

from napari_msunet.widgets.review.label_issues_panel import TruthPanel

__all__ = ["TruthPanel"]
