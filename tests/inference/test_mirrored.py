"""Images mirrored at their edges: reading, training windows, and predictions, which are the network on the whole."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from data.making import array_item

from napari_msunet.config import ModelConfig, UNetConfig
from napari_msunet.data.loader import Crops
from napari_msunet.geometry import Window
from napari_msunet.inference.image import predict_image
from napari_msunet.models import build_model
from napari_msunet.slide import slide_from_array

PIXELS = np.random.default_rng(0).integers(0, 255, (96, 128, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def slide():
    return slide_from_array(PIXELS, mpp=1.0)


def mirrored(pixels, window):
    """NumPy's own mirror image, cropped."""
    edge = 500
    around = np.pad(pixels, ((edge, edge), (edge, edge), (0, 0)), mode="reflect")
    return around[window.padded(0).slices((-edge, -edge))]


@pytest.mark.parametrize(
    "window",
    [
        Window(-5, -7, 20, 30),
        Window(80, 100, 40, 60),
        Window(-300, 10, 700, 20),
        Window(200, 300, 8, 9),
        Window(10, 20, 30, 40),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", ["1", "1/4"])
def test_a_window_beyond_the_edge_shows_the_mirror_image(slide, window, scale):
    grid = slide.grid(1.0).scaled(Fraction(scale))
    whole = slide.read_window(grid, grid.whole)
    assert np.array_equal(slide.read_window(grid, window, mirror=True), mirrored(whole, window))


def test_an_image_of_one_pixel_is_repeated():
    one = slide_from_array(np.full((1, 1, 3), 7, np.uint8), mpp=1.0)
    assert (one.read_window(one.grid(), Window(-3, -3, 7, 7), mirror=True) == 7).all()


@pytest.mark.parametrize("limit", [0, 1 << 20], ids=["read", "held"])
def test_training_windows_are_mirrored(limit):
    item = array_item(PIXELS[..., 0])
    window = Window(-20, 100, 60, 60)
    ratios = (Fraction(1), Fraction(1, 2))
    crops = Crops(ratios, lambda w: [w.times(r) for r in ratios], limit, mirror=True)
    sample = crops.read(item, window)
    grids = [item.grid.scaled(r) for r in ratios]
    for found, grid, ratio in zip(sample.inputs, grids, ratios, strict=True):
        whole = item.slide.read_window(grid, grid.whole)
        assert np.array_equal(found, mirrored(whole, window.times(ratio)))
    assert (sample.truth[:20] == 255).all()
    assert (sample.truth[:, 28:] == 255).all()


def model(padding="mirror", **changes):
    torch.manual_seed(1)
    branch = UNetConfig(depth=2, width=4, padding=padding, norm="none")
    given = {"classes": ("a", "b"), "mpp": 1.0, "scales": (1.0,), "fusion": "mean", "branch": branch, **changes}
    made = build_model(ModelConfig(**given)).eval()
    with torch.no_grad():
        for branch in made.branches:
            branch.head.weight.mul_(8)
    return made


def directly(made, slide):
    grids = [slide.grid(1.0).scaled(r) for r in made.config.ratios]
    inputs = [torch.from_numpy(slide.read_window(g, g.whole)).permute(2, 0, 1)[None] / 255 for g in grids]
    with torch.no_grad():
        return torch.softmax(made(inputs), 1)[0].numpy()


def test_a_prediction_is_the_network_on_the_whole_image(slide):
    made = model()
    expected = directly(made, slide)
    assert expected.std(axis=(1, 2)).max() > 0.05
    for tile in (256, 24):
        assert np.abs(predict_image(made, slide, tile=tile)["fused"] - expected).max() < 1e-4
    background = model("valid")  # the same weights with background around the image
    difference = np.abs(predict_image(background, slide)["fused"] - expected)
    assert difference[:, 24:-24, 24:-24].max() < 1e-4
    assert difference.max() > 1e-2


def test_sides_that_are_no_multiple_of_the_stride_are_exact_in_tiles():
    odd = slide_from_array(PIXELS[:83, :101], mpp=1.0)
    made = model(scales=(1.0, 0.5))
    whole = predict_image(made, odd, tile=512)["fused"]
    assert np.abs(predict_image(made, odd, tile=16)["fused"] - whole).max() < 1e-4
    assert np.abs(directly(made, odd) - whole)[:, 2:40, 2:50].max() < 1e-4
