"""Fixed filters: their values, how far they look, and a model of them that learns."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_msunet.config import FiltersConfig, ModelConfig
from napari_msunet.models import build_model, load_model, save_model
from napari_msunet.models.networks.filters import PER_CHANNEL, Filters, blurred
from napari_msunet.models.receptive_field import measure_reach


def test_smoothed_is_a_gaussian():
    image = np.random.default_rng(0).random((2, 40, 50))
    ours = blurred(torch.from_numpy(image)[None], 1.7)[0].numpy()
    theirs = np.stack([gaussian_filter(plane, 1.7, mode="nearest", radius=6) for plane in image])
    assert np.abs(ours - theirs).max() < 1e-12


def test_slope_and_curvatures_of_a_saddle():
    y, x = np.mgrid[-20:21, -20:21].astype(float)
    saddle = torch.from_numpy(3 * x + 0.5 * (2 * x**2 - y**2))[None, None]
    found = Filters(FiltersConfig(sigmas=(1.0,)), 1)(saddle)[0, :, 20, 20].tolist()
    assert found[1:] == pytest.approx([3.0, 2.0, -1.0], abs=1e-9)


@pytest.mark.parametrize("sigmas", [(1.0,), (0.5, 2.3)])
def test_it_looks_as_far_as_it_says(sigmas):
    config = FiltersConfig(sigmas=sigmas)
    network = Filters(config, 2)
    assert network.features == PER_CHANNEL * 2 * len(sigmas)
    assert measure_reach(network, 2, 1).aligned == config.radius


def test_knots_let_the_layer_bend():
    x = torch.rand(1, 2, 30, 30, generator=torch.Generator().manual_seed(0))
    network = Filters(FiltersConfig(knots=(-0.5, 0.5)), 2)
    network.follow(x)
    found = network(x)[0]
    plain, low, high = found.chunk(3)
    assert network.features == len(found) == 24
    assert plain.mean((1, 2)).abs().max() < 1e-4
    assert torch.allclose(plain.std((1, 2)), torch.ones(8), atol=1e-3)
    assert torch.equal(low, (plain + 0.5).clamp(min=0))
    assert torch.equal(high, (plain - 0.5).clamp(min=0))


def test_the_layer_behind_them_learns_and_the_file_holds_it(tmp_path):
    branches = (FiltersConfig(knots=(0.0,)), FiltersConfig(sigmas=(1.0, 2.0)))
    model = build_model(ModelConfig(classes=("a",), mpp=1.0, scales=(1.0, 0.5), fusion="concat", branch=branches))
    inputs = [torch.rand(2, 3, 32, 32), torch.rand(2, 3, 16, 16)]
    model(inputs)[:, 1].mean().backward()
    assert all(p.grad is not None for p in model.fusion.parameters())
    again = load_model(save_model(model, tmp_path / "filters.safetensors"))
    assert torch.equal(again(inputs), model.eval()(inputs))
