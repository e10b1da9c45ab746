"""Tiles with the model's margin give what the whole image gives; with a quarter of it they do not."""

import pytest
import torch
from branch_networks import NETWORKS
from torch import Tensor

from napari_msunet.config import UNetConfig
from napari_msunet.geometry import Window
from napari_msunet.models import MSUNet

SHAPES = {
    "three scales": {},
    "one scale": {"scales": (1.0,)},
    "odd ratios": {"scales": (1.5, 1.0, 2 / 3)},
    "finer": {"scales": (2.0, 0.5)},
    "eighths": {"scales": (1.0, 3 / 8)},
    "shared": {"shared": True},
    "wider coarse": {
        "branch": (UNetConfig(depth=1, width=4), UNetConfig(depth=2, width=4), UNetConfig(depth=3, width=4))
    },
}
UNITS = (3, 4)
"""Height and width of the image, in alignments."""

QUICK = ("plain", "space to depth", "hrnet")
"""Networks whose tiles are tried every day; the others in CI."""


def whole(model: MSUNet, inputs: list[Tensor], margin: int) -> Tensor:
    with torch.no_grad():
        return torch.softmax(model(inputs), dim=1)[..., margin:-margin, margin:-margin]


def tile(model: MSUNet, inputs: list[Tensor], origin: int, useful: Window, margins: tuple[int, ...]) -> Tensor:
    """Probabilities of one target window, from the parts around it of `inputs`, which begin at target pixel -origin."""
    zs = []
    for i, (ratio, margin) in enumerate(zip(model.config.ratios, margins, strict=True)):
        p, q = ratio.numerator, ratio.denominator
        mine = useful.times(ratio)
        corner = (int(-origin * ratio), int(-origin * ratio))
        window = mine.padded(margin)
        with torch.no_grad():
            z = model.run_branch(i, inputs[i][(..., *window.slices(corner))])
        around = p if ratio < 1 else 0
        z = model.to_target(i, z[(..., *mine.padded(around).slices((window.y, window.x)))])
        cut = q if ratio < 1 else 0
        zs.append(z[..., cut : cut + useful.height, cut : cut + useful.width])
    with torch.no_grad():
        return torch.softmax(model.combine(zs), dim=1)


def worst(model: MSUNet, images, margins: tuple[int, ...]) -> float:
    """Largest difference of a probability between all tiles and the whole image, which must vary."""
    step, margin = model.config.size_multiple, model.margin
    size = (UNITS[0] * step, UNITS[1] * step)
    torch.manual_seed(5)
    inputs = images(model.config, size[0] + 2 * margin, size[1] + 2 * margin, batch=1)
    expected = whole(model, inputs, margin)
    assert expected.std(dim=(2, 3)).max() > 0.05
    assert len(expected.argmax(dim=1).unique()) > 1
    difference = 0.0
    for y in range(0, size[0], step):
        for x, width in ((0, step), (step, 2 * step), (3 * step, step)):
            useful = Window(y, x, step, width)
            got = tile(model, inputs, margin, useful, margins)
            difference = max(difference, float((got - expected[(..., *useful.slices())]).abs().max()))
    return difference


def quarter(model: MSUNet) -> tuple[int, ...]:
    """A quarter of each margin, rounded up to whole strides (and one stride less where that is all of it)."""
    strides = [b.stride for b in model.config.branches]
    pairs = zip(model.branch_margins, strides, strict=True)
    return tuple(min(-(-m // (4 * n)) * n, m - n) for m, n in pairs)


RULES = ("mean", "weighted", "max", "concat", "attention", "feature_attention", "multihead")


@pytest.mark.parametrize(
    ("fusion", "shape"), [*((f, "odd ratios") for f in RULES), *(("attention", s) for s in SHAPES if s != "odd ratios")]
)
def test_tiles_are_exact(calibrated, images, fusion, shape):
    model = calibrated(fusion=fusion, **SHAPES[shape])
    assert worst(model, images, model.branch_margins) < 1e-4
    assert worst(model, images, quarter(model)) > 1e-3


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_tiles_of_every_network_are_exact(calibrated, images, name):
    model = calibrated(fusion="mean", branch=NETWORKS[name], scales=(1.0, 0.5))
    assert worst(model, images, model.branch_margins) < 1e-4
    assert worst(model, images, quarter(model)) > 1e-3


@pytest.mark.slow
def test_tiles_of_the_usual_model_are_exact(calibrated, images):
    model = calibrated(fusion="attention", branch=UNetConfig(depth=4, width=8))
    assert worst(model, images, model.branch_margins) < 1e-4
    assert worst(model, images, quarter(model)) > 1e-3


JOINT = {
    "injected": {"fusion": "inject"},
    "injected, odd ratios": {"fusion": "inject", "scales": (1.5, 1.0, 2 / 3)},
    "injected from far": {"fusion": "inject", "scales": (1.0, 0.125), "branch": UNetConfig(depth=1, width=4)},
    "pyramid": {"fusion": "pyramid"},
    "pyramid, odd ratios": {"fusion": "pyramid", "scales": (1.5, 1.0, 2 / 3)},
    "upscaled": {"upscale": 2, "scales": (1.0, 0.5)},
    "with a stem": {"scales": (2.0, 1.0, 0.5), "finest_scale": 1.0},
    "enlarged": {"scales": (2.0, 1.0, 0.5), "enlarge": "bilinear"},
    "injected into a stem's half": {
        "fusion": "inject",
        "scales": (1.0, 0.5),
        "branch": UNetConfig(depth=2, width=4, stem="space_to_depth", residual=True, gates=True),
    },
    "pyramid into nested levels": {
        "fusion": "pyramid",
        "scales": (1.0, 0.25),
        "branch": UNetConfig(depth=2, width=4, dense=True, up="resize"),
    },
    "all at once": {"fusion": "inject", "upscale": 2, "scales": (2.0, 0.5), "finest_scale": 1.0},
}


def worst_jointly(model: MSUNet, images, margin: int) -> float:
    """Likewise, all scales in one step: the largest difference between tiles and the whole."""
    step, around = model.config.size_multiple, model.margin
    size = (2 * step, 3 * step)
    torch.manual_seed(5)
    inputs = images(model.config, size[0] + 2 * around, size[1] + 2 * around, batch=1)
    with torch.no_grad():
        fused, own = model.joint_split(model.run_joint(inputs, Window(around, around, *size)))
        expected = torch.stack([torch.softmax(z, dim=1) for z in (fused, *own)])
        assert expected[0].std(dim=(2, 3)).max() > 0.05
        difference = 0.0
        for y in range(0, size[0], step):
            for x in range(0, size[1], step):
                useful = Window(y, x, step, step)
                seen = useful.padded(margin)
                parts = []
                for given, ratio in zip(inputs, model.config.input_ratios, strict=True):
                    corner = int(-around * ratio)
                    parts.append(given[(..., *seen.times(ratio).slices((corner, corner)))])
                fused, own = model.joint_split(model.run_joint(parts, Window(margin, margin, step, step)))
                got = torch.stack([torch.softmax(z, dim=1) for z in (fused, *own)])
                difference = max(difference, float((got - expected[(..., *useful.slices())]).abs().max()))
    return difference


@pytest.mark.parametrize("shape", JOINT)
def test_tiles_of_joint_models_are_exact(calibrated, images, shape):
    model = calibrated(**JOINT[shape])
    margin, step = model.joint_margin, model.config.size_multiple
    assert worst_jointly(model, images, margin) < 1e-4
    assert worst_jointly(model, images, min(-(-margin // (4 * step)) * step, margin - step)) > 1e-3
