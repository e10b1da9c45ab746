"""The rule that makes coarser levels, against counting votes."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from labels.reference import any_of, vote

from napari_msunet.labels.levels import coarsen, coarsen_any, coarsen_mean

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(arrays(np.uint8, sizes, elements=st.sampled_from([0, 0, 1, 2, 3, 254, 255])))
@settings(max_examples=300)
def test_the_most_frequent_wins(values: np.ndarray) -> None:
    np.testing.assert_array_equal(coarsen(values), vote(values))


@given(arrays(np.uint32, sizes, elements=st.sampled_from([0, 1, 2, 2**31, 2**32 - 1])))
@settings(max_examples=100)
def test_the_same_for_objects(values: np.ndarray) -> None:
    result = coarsen(values)
    assert result.dtype == np.uint32
    np.testing.assert_array_equal(result, vote(values))


@pytest.mark.parametrize(
    ("block", "winner"),
    [
        ([[0, 0], [2, 2]], 2),  # a class before background
        ([[2, 2], [1, 1]], 1),  # then the lower number
        ([[0, 0], [0, 2]], 0),
        ([[0, 3], [2, 1]], 1),
        ([[0, 0], [255, 255]], 255),  # annotated as background before not annotated
        ([[255, 255], [7, 7]], 7),
        ([[0, 255], [0, 4]], 0),
        ([[5]], 5),
        ([[0, 0, 9]], None),
    ],
)
def test_ties(block: list[list[int]], winner: int | None) -> None:
    assert coarsen(np.array(block, np.uint8)).ravel().tolist() == ([0, 9] if winner is None else [winner])


@given(arrays(np.bool_, sizes))
@settings(max_examples=50)
def test_masks(values: np.ndarray) -> None:
    np.testing.assert_array_equal(coarsen_any(values), any_of(values))


def test_mean_of_the_pixels_that_exist() -> None:
    values = np.array([[0.0, 0.5, 1.0], [0.5, 1.0, 0.5], [0.25, 0.75, 0.125]], np.float16)
    np.testing.assert_array_equal(coarsen_mean(values), np.array([[0.5, 0.75], [0.5, 0.125]], np.float16))
    assert coarsen_mean(np.array([[255, 0], [0, 0]], np.uint8)).tolist() == [[64]]
