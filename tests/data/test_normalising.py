"""The first layer's constants: what they do to the pixels they were fitted to."""

import numpy as np
import pytest

from napari_msunet.data.normalising import fit_normalisation


def windows(dtype=np.uint8, top=255):
    rng = np.random.default_rng(0)
    for _ in range(4):
        yield (rng.random((40, 50, 2)) ** [1.0, 0.5] * top * 0.8).astype(dtype)


def normalised(by, **options):
    pixels = np.concatenate([w.reshape(-1, 2) for w in windows(**options)]).astype(float)
    pixels /= 65535 if options.get("dtype") == np.uint16 else 255
    found = fit_normalisation(windows(**options), by)
    return found, (pixels - found.mean) / found.std


@pytest.mark.parametrize("options", [{}, {"dtype": np.uint16, "top": 4095}])
def test_z_score(options):
    _, values = normalised("z-score", **options)
    assert values.mean(0) == pytest.approx([0, 0], abs=1e-3)
    assert values.std(0) == pytest.approx([1, 1], abs=1e-3)


def test_ranges():
    assert fit_normalisation(windows(), "0-1").model_dump() == {"mean": (0.0, 0.0), "std": (1.0, 1.0)}
    assert fit_normalisation(windows(), "-1-1").model_dump() == {"mean": (0.5, 0.5), "std": (0.5, 0.5)}


@pytest.mark.parametrize("options", [{}, {"dtype": np.uint16, "top": 4095}])
def test_percentile(options):
    _, values = normalised("percentile", **options)
    assert (values < 0).mean(0) == pytest.approx([0.01, 0.01], abs=0.008)
    assert (values > 1).mean(0) == pytest.approx([0.01, 0.01], abs=0.008)


def test_a_channel_that_is_the_same_everywhere():
    for by in ("z-score", "percentile"):
        found = fit_normalisation([np.full((5, 5, 1), 7, np.uint8)], by)
        assert found.std[0] == pytest.approx(1e-3)
        assert found.mean[0] == pytest.approx(7 / 255, abs=1e-4)
