"""Promise 1: a tiled prediction is the network run over the whole slide in one piece."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import napari_msunet
from napari_msunet.config import HRNetConfig, LinkNetConfig, ModelConfig, Normalisation, PredictOptions, UNetConfig
from napari_msunet.geometry import Region, Window
from napari_msunet.inference.engine import as_input
from napari_msunet.inference.image import predict_image
from napari_msunet.inference.predict import predict
from napari_msunet.inference.setup import plan_for, set_up
from napari_msunet.models import MSUNet, build_model
from napari_msunet.slide import Slide, open_slide

SLIDE = Path(napari_msunet.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"
FUSIONS = (
    *("mean", "weighted", "max", "concat", "attention", "feature_attention", "multihead"),
    *("inject", "pyramid"),
)


@pytest.fixture(scope="module")
def slide():
    with open_slide(SLIDE) as opened:
        yield opened


def calibrated(config: ModelConfig, slide: Slide) -> MSUNet:
    """A network whose output varies: batch statistics from the slide, logits spread, a threshold that splits it."""
    torch.manual_seed(1)
    model = build_model(config)
    grid = slide.grid(config.target_mpp)
    window = Window(96, 144, 320, 320)
    inputs = whole_inputs(config, slide, grid, window)
    model.train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        model(inputs, field="same")
        model.eval()
        for n in range(len(config.own)):
            spread(heads(model)[0 if config.shared else n], model.branch_logits(inputs)[n])
        if config.joint and config.fusion in ("inject", "pyramid"):
            spread(heads(model)[-1 if config.fusion == "pyramid" else config.finest], model(inputs))
    return model


def spread(head: torch.nn.Conv2d, logits: torch.Tensor) -> None:
    """Give a head's logits a mean of 0 and a deviation of 2."""
    times = head.weight.shape[0] // logits.shape[1]  # of a sub-pixel head
    head.weight.mul_(2.0 / logits.std())
    head.bias.sub_((2.0 * logits.mean((0, 2, 3)) / logits.std()).repeat_interleave(times))


def heads(model: MSUNet) -> list[torch.nn.Conv2d]:
    """The 1x1 convolutions that give class logits."""
    return [m for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d) and "head" in name]


def whole_inputs(config: ModelConfig, slide: Slide, grid, window: Window) -> list[torch.Tensor]:
    """What `model(inputs)` takes for a window of the target grid, read straight from the slide."""
    inputs = []
    for scale in config.input_ratios:
        scaled = [Fraction(v) * scale for v in (window.y, window.x)]
        assert all(v.denominator == 1 for v in scaled)
        shape = [-(-v * scale.numerator // scale.denominator) for v in window.shape]
        part = Window(int(scaled[0]), int(scaled[1]), *shape)
        inputs.append(torch.from_numpy(as_input(slide.read_window(grid.scaled(scale), part)))[None])
    return inputs


def reference(model: MSUNet, slide: Slide) -> np.ndarray:
    """Probabilities of the slide padded by the margin, run in one piece, cropped."""
    grid, margin = slide.grid(model.config.target_mpp), model.margin
    height, width = grid.shape
    inputs = whole_inputs(model.config, slide, grid, grid.whole.padded(margin))
    with torch.inference_mode():
        logits = model.eval()(inputs, size=(height + 2 * margin, width + 2 * margin))
    return torch.softmax(logits, 1)[0, :, margin : margin + height, margin : margin + width].numpy()


def config_of(fusion: str = "attention", **changes) -> ModelConfig:
    given = {"classes": ("a", "b"), "mpp": 2.6, "branch": UNetConfig(depth=3, width=4), "fusion": fusion}
    return ModelConfig(**{**given, **changes})


@pytest.mark.parametrize("fusion", FUSIONS)
def test_tiled_equals_whole_for_every_fusion(fusion, slide):
    model = calibrated(config_of(fusion), slide)
    whole = reference(model, slide)
    shares = np.bincount(whole.argmax(0).ravel(), minlength=3) / whole[0].size
    assert (shares > 0.02).sum() >= 2, f"the network's output does not vary: {shares}"
    tiled = predict_image(model, slide, tile=333)["fused"]
    assert np.abs(tiled - whole).max() < 1e-4
    short = predict_image(model, slide, tile=333, margin=16)["fused"]
    assert np.abs(short - whole).max() > 1e-3, "a margin of 16 must show"


@pytest.mark.parametrize(
    "changes",
    [
        {"scales": (0.5, 0.25)},
        {"scales": (2.0, 1.0)},
        {"scales": (1.0, 2 / 3)},
        {"scales": (1.5, 0.75)},
        {"scales": (1.0,)},
        {"branch": (UNetConfig(depth=1, width=4), UNetConfig(depth=2, width=8), UNetConfig(depth=3, width=8))},
        {"shared": True},
        {"branch": UNetConfig(depth=2, width=8, stem="space_to_depth", residual=True)},
        {"branch": UNetConfig(depth=2, width=8, attention="self", window=4, up="resize"), "scales": (1.0, 0.5)},
        {"branch": (HRNetConfig(depth=2, width=4), LinkNetConfig(depth=3, width=8)), "scales": (1.0, 0.5)},
        {"upscale": 2, "mpp": 3.9},
        {"upscale": 2, "mpp": 3.9, "fusion": "inject", "scales": (1.0, 0.5)},
        {"scales": (2.0, 1.0), "finest_scale": 1.0},
        {"scales": (2.0, 1.0), "enlarge": "bilinear", "fusion": "mean"},
        {"normalisation": Normalisation(mean=(0.8, 0.6, 0.7), std=(0.1, 0.2, 0.2))},
    ],
    ids=str,
)
def test_tiled_equals_whole_for_every_build(changes, slide):
    model = calibrated(config_of(**changes), slide)
    whole = reference(model, slide)
    tiled = predict_image(model, slide, tile=229)["fused"]
    assert np.abs(tiled - whole).max() < 1e-4


def test_each_scale_alone_is_exact_too(slide):
    model = calibrated(config_of(), slide)
    grid, margin = slide.grid(model.config.target_mpp), model.margin
    inputs = whole_inputs(model.config, slide, grid, grid.whole.padded(margin))
    height, width = grid.shape
    with torch.inference_mode():
        logits = model.branch_logits(inputs, size=(height + 2 * margin, width + 2 * margin))
    tiled = predict_image(model, slide, tile=256)
    for name, one in zip(model.config.outputs[1:], logits, strict=True):
        whole = torch.softmax(one, 1)[0, :, margin : margin + height, margin : margin + width].numpy()
        assert np.abs(tiled[name] - whole).max() < 1e-4


@pytest.mark.parametrize("region", [Region(333.3, 511.7, 777.7, 555.1), Region(-50, 1500, 400, 4000)])
@pytest.mark.parametrize("tile", [97, 512])
def test_a_region_is_the_crop_of_the_whole(region, tile, slide, tmp_path):
    model = calibrated(config_of("concat"), slide)
    whole = reference(model, slide)
    labels = predict(
        slide,
        model,
        tmp_path / "labels.ome.zarr",
        region=region,
        outputs=("labels", "probabilities"),
        tile=tile,
        probability_dtype="float32",
    )
    window = labels.grid.centres(region).intersection(labels.grid.whole)
    stored = np.moveaxis(labels.probabilities[window.slices()].compute(), -1, 0)
    crop = whole[(slice(None), *window.slices())]
    assert np.abs(stored - crop).max() < 1e-4
    values = labels.levels[0].compute()
    best = np.sort(crop, 0)
    sure = best[-1] - best[-2] > 2e-4
    assert (values[window.slices()] == crop.argmax(0))[sure].all()
    outside = np.ones(values.shape, bool)
    outside[window.slices()] = False
    assert not values[outside].any()
    labels.close()


def test_batches_change_nothing(slide):
    model = calibrated(config_of("mean"), slide)
    one = predict_image(model, slide, tile=192)["fused"]
    setup = set_up(slide, [model], PredictOptions(tile=192, batch_size=3))
    work = setup.passes(plan_for(setup), setup.devices[0])
    grid = setup.grid
    for results in work.run(work.works(None, ())):
        for result in results:
            part = result.tile.window.intersection(grid.whole)
            inside = result.maps.probabilities[
                (slice(None), *part.slices((result.tile.window.y, result.tile.window.x)))
            ]
            assert np.abs(inside - one[(slice(None), *part.slices())]).max() < 1e-4
