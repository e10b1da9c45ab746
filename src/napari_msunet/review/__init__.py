"""Review of predictions and of annotations: the places most worth a look, ranked; no label changes by itself."""

from napari_msunet.review.label_issues import (
    ConfusionMatrix,
    TruthPlace,
    TruthReview,
    keep_truth,
    load_kept,
    place_mask,
    remove_kept,
    review_truth,
    take_answer,
    take_answers,
    transitions,
    write_confusion,
    write_label_issues,
)
from napari_msunet.review.truth_comparison import Pair

__all__ = [
    "ConfusionMatrix",
    "Pair",
    "TruthPlace",
    "TruthReview",
    "keep_truth",
    "load_kept",
    "place_mask",
    "remove_kept",
    "review_truth",
    "take_answer",
    "take_answers",
    "transitions",
    "write_confusion",
    "write_label_issues",
]
