"""The first layer's constants: what they do to the pixels they were fitted to."""

import numpy as np
import pytest

from napari_msunet.config import OwnStatistics
from napari_msunet.data import normalising
from napari_msunet.data.normalising import fit_normalisation, own_normalisation
from napari_msunet.errors import SourceError
from napari_msunet.slide import slide_from_array
from napari_msunet.slide.numbers import Scale
from napari_msunet.slide.tissue import found_tissue


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


UNIT = Scale(0.0, 255.0)


def tissue_slide():
    """A violet square on white, with some noise."""
    rng = np.random.default_rng(2)
    pixels = np.full((600, 700, 3), 240.0)
    pixels[200:400, 250:500] = (140, 60, 150)
    return slide_from_array((pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8), mpp=2.0)


def of(slide, by, within="whole", channels=None):
    found = own_normalisation([slide], [UNIT], OwnStatistics(by=by, within=within), channels)
    return np.array(found.mean), np.array(found.std)


def test_an_image_by_its_own_statistics():
    slide = tissue_slide()
    values = slide.read_window(slide.grid(), slide.grid().whole).reshape(-1, 3) / 255
    mean, std = of(slide, "z-score")
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, values.std(0), rtol=1e-5)
    low, span = of(slide, "min-max")
    np.testing.assert_allclose(low, values.min(0), rtol=1e-6)
    np.testing.assert_allclose(low + span, values.max(0), rtol=1e-6)
    np.testing.assert_allclose(of(slide, "z-score", channels=[2, 0])[0], mean[[2, 0]])


def test_the_statistics_of_tissue_are_those_of_tissue():
    slide = tissue_slide()
    inside = found_tissue(slide).on(slide.grid(), slide.grid().whole)
    assert 0.05 < inside.mean() < 0.5
    values = slide.read_window(slide.grid(), slide.grid().whole)[inside] / 255
    mean, std = of(slide, "z-score", "tissue")
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, values.std(0), rtol=1e-5)
    assert (np.abs(mean - of(slide, "z-score")[0]) > 0.1).all()


def test_a_large_image_is_averaged_first(monkeypatch):
    slide = tissue_slide()
    whole = of(slide, "z-score")
    monkeypatch.setattr(normalising, "LOOKED", 10_000)
    monkeypatch.setattr(normalising, "_ROWS", 7)
    coarse = of(slide, "z-score")
    np.testing.assert_allclose(coarse[0], whole[0], rtol=0.01)
    assert (coarse[1] < whole[1]).all()


@pytest.mark.parametrize(
    ("value", "within", "says"),
    [(255, "whole", "have one value"), (0, "whole", "have one value"), (255, "tissue", "No tissue was found")],
)
def test_an_empty_image_has_no_statistics(value, within, says):
    empty = slide_from_array(np.full((300, 300, 3), value, np.uint8), mpp=2.0)
    with pytest.raises(SourceError, match=says):
        of(empty, "z-score", within)


def test_one_empty_channel_of_several_is_no_matter():
    pixels = np.random.default_rng(0).integers(0, 255, (50, 60, 2)).astype(np.uint8)
    pixels[..., 1] = 9
    for by in ("z-score", "min-max"):
        mean, std = of(slide_from_array(pixels, mpp=1.0), by)
        assert mean[1] == pytest.approx(9 / 255)
        assert std[1] == pytest.approx(1e-3)
