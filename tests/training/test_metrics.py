"""Scores from a streaming confusion matrix, against torchmetrics and by hand."""

import json
from math import isnan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_msunet.training.scoring.metrics import SCORES, Confusion, class_scores, mean_iou, report


def pair(seed: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randint(outputs, (3, 9, 11), generator=generator)
    target = torch.randint(outputs, (3, 9, 11), generator=generator)
    target[torch.rand(3, 9, 11, generator=generator) < 0.2] = 255
    return predicted, target


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), outputs=st.integers(2, 5))
def test_the_matrix_is_torchmetrics(seed, outputs):
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    predicted, target = pair(seed, outputs)
    streaming, other = Confusion(outputs), Confusion(outputs)
    streaming.add(predicted[:1], target[:1].to(torch.uint8))
    other.add(predicted[1:], target[1:])
    streaming.merge(other)
    expected = multiclass_confusion_matrix(predicted, target, outputs, ignore_index=255)
    np.testing.assert_array_equal(streaming.matrix, expected.numpy())


def test_scores_are_torchmetrics():
    from torchmetrics.functional import classification as tm

    outputs = 4
    predicted, target = pair(1, outputs)
    confusion = Confusion(outputs)
    confusion.add(predicted, target)
    scores = class_scores(confusion.matrix)
    options = {"num_classes": outputs, "average": "none", "ignore_index": 255}
    np.testing.assert_allclose(scores["iou"], tm.multiclass_jaccard_index(predicted, target, **options), rtol=1e-6)
    np.testing.assert_allclose(scores["precision"], tm.multiclass_precision(predicted, target, **options), rtol=1e-6)
    np.testing.assert_allclose(scores["recall"], tm.multiclass_recall(predicted, target, **options), rtol=1e-6)
    np.testing.assert_allclose(scores["f1"], tm.multiclass_f1_score(predicted, target, **options), rtol=1e-6)
    np.testing.assert_allclose(scores["dice"], scores["f1"])
    known = target != 255
    for c in range(outputs):
        one = tm.binary_accuracy(predicted[known] == c, (target[known] == c).int())
        assert scores["accuracy"][c] == pytest.approx(float(one))


def test_by_hand():
    # Truth 10 background and 5 of the class; 2 false positives, 1 false negative.
    matrix = np.array([[8, 2], [1, 4]])
    values = report(matrix, ("gland",))
    assert values["dice"] == pytest.approx(8 / 11)
    assert values["iou"] == pytest.approx(4 / 7)
    assert values["precision"] == pytest.approx(4 / 6)
    assert values["recall"] == pytest.approx(4 / 5)
    assert values["accuracy"] == pytest.approx(12 / 15)
    assert values["pixels"] == 15
    assert values["classes"]["gland"] == {name: values[name] for name in SCORES}


def test_the_mean_is_over_classes_that_are_there_and_without_background():
    matrix = np.array([[50, 0, 0], [5, 5, 0], [0, 0, 0]])
    assert mean_iou(matrix) == pytest.approx(0.5)
    values = report(matrix, ("a", "b"))
    assert values["classes"]["b"]["iou"] is None
    assert values["iou"] == pytest.approx(0.5)


def test_nothing_counted_is_not_defined():
    assert isnan(mean_iou(Confusion(3).matrix))
    values = report(Confusion(3).matrix, ("a", "b"))
    assert values["dice"] is None
    assert json.loads(json.dumps(values, allow_nan=False)) == values
