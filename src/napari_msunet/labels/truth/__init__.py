"""Truth under review: what of an annotation a model contradicts, ranked; nothing of it changes by itself."""

from napari_msunet.labels.truth.answer import keep_truth, place_mask, take_answer
from napari_msunet.labels.truth.compare import Pair
from napari_msunet.labels.truth.kept import load_kept, remove_kept
from napari_msunet.labels.truth.suspects import ConfusionMatrix, TruthPlace, TruthReview, review_truth
from napari_msunet.labels.truth.tables import write_confusion, write_suspects

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
    "write_confusion",
    "write_suspects",
]
