"""A network whose output depends on the extent of its tile: blended on squares fixed to the slide, its seams told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import napari_msunet
from napari_msunet.config import ModelConfig, PredictOptions, UNetConfig
from napari_msunet.events import Message, Result
from napari_msunet.geometry import Region, Window
from napari_msunet.inference.image import predict_image
from napari_msunet.inference.plan import Stream
from napari_msunet.inference.predict import prediction
from napari_msunet.inference.setup import margins_of, plan_for, set_up
from napari_msunet.labels import open_labels
from napari_msunet.models import MSUNet, build_model
from napari_msunet.slide import open_slide

SLIDE = Path(napari_msunet.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"


class SeesAll(nn.Module):
    """Features beside how far they are from their mean over the whole tile."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.features, self.grain = network, network.features, network.grain

    def forward(self, x: Tensor) -> Tensor:
        features = self.network(x)
        return features - features.mean((2, 3), keepdim=True)


@pytest.fixture(scope="module")
def slide():
    with open_slide(SLIDE) as opened:
        yield opened


@pytest.fixture(scope="module")
def model() -> MSUNet:
    torch.manual_seed(2)
    branch = UNetConfig(depth=2, width=4)
    model = build_model(ModelConfig(classes=("a",), mpp=2.0, scales=(1.0, 0.5), branch=branch, fusion="mean"))
    for part in model.branches:
        part.network = SeesAll(part.network)
    for name, parameter in model.named_parameters():
        if "head" in name:
            parameter.data.mul_(4)
    return model.eval()


def test_it_is_found_out(model):
    assert not model.exact
    assert margins_of(model) == (None, None)


@pytest.mark.parametrize("side", [16, 64])
def test_weights_of_the_squares_sum_to_one_everywhere(side):
    from napari_msunet.inference.engine import _blended

    stream = Stream(model=0, branch=0, scale="1/2", margin=0, side=side, overlap=side // 4, origin=(8, -4))
    wanted = Window(-7, 33, 150, 90)
    squares = stream.squares([wanted])
    ones = [(square, torch.ones(1, 2, side, side)) for square in squares]
    assert torch.allclose(_blended(stream, wanted.padded(1), ones), torch.ones(1))
    assert not torch.allclose(_blended(stream, wanted.padded(1), ones[1:]), torch.ones(1))


def test_a_region_is_the_crop_of_the_whole(model, slide):
    whole = predict_image(model, slide, tile=256)["fused"]
    assert whole.std() > 0.05
    window = Window(101, 203, 170, 333)
    part = predict_image(model, slide, window, tile=256)["fused"]
    assert np.abs(part - whole[(slice(None), *window.slices())]).max() < 1e-5
    other = predict_image(model, slide, window, tile=128)["fused"]
    assert np.abs(other - part).max() > 1e-3, "smaller squares see less"


def test_its_seams_are_measured_and_said(model, slide, tmp_path):
    options = PredictOptions(region=(0.0, 0.0, 2200.0, 2200.0), tile=128, device="cpu")
    plan = plan_for(set_up(slide, [model], options))
    assert plan.through / plan.margin_free > 1.5
    events = list(prediction(slide, [model], tmp_path / "out.ome.zarr", options))
    result = next(e for e in events if isinstance(e, Result))
    assert 0 < result.values["seam"]["near"] < 1
    assert any(isinstance(e, Message) and "blended" in e.text for e in events)
    with open_labels(tmp_path / "out.ome.zarr") as labels:
        found = labels.read(Region(0, 0, 500, 500))
    expected = predict_image(model, slide, Window(0, 0, 500, 500), tile=128)["fused"].argmax(0)
    assert (found == expected).mean() > 0.999
