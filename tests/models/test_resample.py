"""To the target grid: against independent formulas, and the same from any window."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_msunet.errors import ModelError
from napari_msunet.geometry import footprints
from napari_msunet.models.resample import to_target

RATIOS = [Fraction(p, q) for p in range(1, 9) for q in range(1, 9)]
COARSE = sorted({r for r in RATIOS if r < 1})
FINE = sorted({r for r in RATIOS if r > 1})


def matrix(length: int, ratio: Fraction) -> np.ndarray:
    """Weights of a branch's pixels in each target pixel along one axis, by the definition."""
    count = int(length / ratio)
    weights = np.zeros((count, length))
    for i in range(count):
        if ratio < 1:
            position = (i + Fraction(1, 2)) * ratio - Fraction(1, 2)
            low = position.__floor__()
            for pixel, share in ((low, 1 - (position - low)), (low + 1, position - low)):
                weights[i, min(max(pixel, 0), length - 1)] += float(share)
        else:
            first, shares = footprints(i, 1, float(ratio))
            for tap, share in enumerate(shares[0]):
                if share > 0:
                    weights[i, first[0] + tap] += share
    return weights


@pytest.mark.parametrize("ratio", COARSE + FINE, ids=str)
def test_against_the_definition(ratio):
    p = ratio.numerator
    x = torch.rand(2, 3, 3 * p, 2 * p, dtype=torch.float64)
    rows, columns = matrix(3 * p, ratio), matrix(2 * p, ratio)
    expected = np.einsum("ih,bchw,jw->bcij", rows, x.numpy(), columns)
    got = to_target(x, ratio)
    assert got.shape == (2, 3, 3 * ratio.denominator, 2 * ratio.denominator)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


def test_scale_one_is_left_alone():
    x = torch.rand(1, 2, 5, 5)
    assert to_target(x, Fraction(1)) is x


def test_whole_numbers_agree_with_pytorch():
    x = torch.rand(1, 2, 6, 9, dtype=torch.float64)
    expected = F.interpolate(x, scale_factor=3, mode="bilinear", align_corners=False)
    torch.testing.assert_close(to_target(x, Fraction(1, 3)), expected)


@settings(max_examples=60, deadline=None)
@given(
    ratio=st.sampled_from(COARSE + FINE),
    start=st.integers(1, 40),
    count=st.integers(1, 6),
    channels_last=st.booleans(),
)
def test_the_same_from_any_window(ratio, start, count, channels_last):
    p, q = ratio.numerator, ratio.denominator
    torch.manual_seed(start)
    x = torch.randn(1, 2, (start + count + 2) * p, 3 * p)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    whole = to_target(x, ratio)[..., start * q : (start + count) * q, :]
    around = p if ratio < 1 else 0
    part = x[..., start * p - around : (start + count) * p + around, :]
    cut = q if ratio < 1 else 0
    got = to_target(part, ratio)[..., cut : cut + count * q, :]
    torch.testing.assert_close(got, whole, rtol=0, atol=1e-6)


def test_thirds_stay_exact_far_from_the_corner():
    """PyTorch's own float32 positions are off by more than 1e-4 here."""
    x = torch.randn(1, 1, 8 * 1500, 2)
    whole = to_target(x.double(), Fraction(2, 3)).float()
    torch.testing.assert_close(to_target(x, Fraction(2, 3)), whole, rtol=0, atol=1e-6)
    plain = F.interpolate(x, size=(12 * 1500, 3), mode="bilinear")
    assert (plain - whole).abs().max() > 1e-4


@pytest.mark.parametrize("ratio", [Fraction(3, 4), Fraction(2, 3), Fraction(3, 2)], ids=str)
def test_gradients(ratio):
    x = torch.rand(1, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: to_target(t, ratio), x)


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="multiples of 3"):
        to_target(torch.rand(1, 1, 4, 6), Fraction(3, 4))
