"""What a prediction can be asked beside the plain one: each option changes what it should, and stays exact."""

import numpy as np
import pytest
import torch

from napari_msunet.config import Drawn, ModelConfig, PredictOptions, UNetConfig
from napari_msunet.errors import ModelError, SlideError
from napari_msunet.events import Message, Progress, Result
from napari_msunet.geometry import Window
from napari_msunet.inference.image import predict_image
from napari_msunet.inference.predict import fill, open_run, predict, prediction
from napari_msunet.inference.setup import matched_channels, set_up
from napari_msunet.models import build_model
from napari_msunet.slide import slide_from_array


def image(height=700, width=900, channels=3, seed=0):
    """Smooth coloured noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 20 + 1, width // 20 + 1, channels))
    values = coarse.repeat(20, 0).repeat(20, 1)[:height, :width] * 200 + rng.random((height, width, channels)) * 55
    return values.astype(np.uint8)


def network(seed=0, **changes):
    """A small network whose output varies."""
    torch.manual_seed(seed)
    given = {"classes": ("a",), "mpp": 1.0, "scales": (1.0, 0.5), "branch": UNetConfig(depth=2, width=4)}
    model = build_model(ModelConfig(**{**given, **changes}))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture(scope="module")
def slide():
    return slide_from_array(image(), mpp=1.0)


@pytest.fixture(scope="module")
def model():
    return network()


def probabilities(slide, model, out, **options):
    options.setdefault("probability_dtype", "float32")
    store = predict(slide, model, out, outputs=("labels", "probabilities"), **options)
    found = np.asarray(store.probabilities)
    store.close()
    return found


@pytest.mark.parametrize("tta", ["flips", pytest.param("dihedral", marks=pytest.mark.slow)])
def test_mirrored_copies_change_the_output_and_stay_exact(tta, slide, model, tmp_path):
    plain = probabilities(slide, model, tmp_path / "plain.ome.zarr")
    one = probabilities(slide, model, tmp_path / "one.ome.zarr", tta=tta)
    tiles = probabilities(slide, model, tmp_path / "tiles.ome.zarr", tta=tta, tile=150)
    assert np.abs(one - tiles).max() < 1e-4
    assert np.abs(one - plain).max() > 1e-3
    # mirroring the slide mirrors the average, but for the phase of the stride at its far side
    if tta == "dihedral":
        turned = slide_from_array(np.ascontiguousarray(image()[:640, :640].swapaxes(0, 1)), mpp=1.0)
        straight = slide_from_array(image()[:640, :640], mpp=1.0)
        a = probabilities(straight, model, tmp_path / "a.ome.zarr", tta=tta)
        b = probabilities(turned, model, tmp_path / "b.ome.zarr", tta=tta)
        assert np.abs(a - b.swapaxes(0, 1)).max() < 1e-4


def test_an_ensemble_is_the_mean_of_its_models_also_of_other_scales(slide, model, tmp_path):
    other = network(seed=5, scales=(1.0, 0.25))
    both = probabilities(slide, [model, other], tmp_path / "both.ome.zarr", tile=200)
    each = [predict_image(m, slide)["fused"] for m in (model, other)]
    assert np.abs(np.moveaxis(both, -1, 0) - (each[0] + each[1]) / 2).max() < 1e-4
    assert np.abs(each[0] - each[1]).max() > 1e-2


def test_an_ensemble_must_agree(slide, model, tmp_path):
    with pytest.raises(ModelError, match="differ in classes"):
        predict(slide, [model, network(classes=("b",))], tmp_path / "x.ome.zarr")


def test_only_what_is_drawn_is_computed_and_the_rest_is_zero(slide, model, tmp_path):
    where = Drawn(polygons=(((100, 100), (100, 400), (350, 250)),))
    whole = probabilities(slide, model, tmp_path / "whole.ome.zarr")
    drawn = probabilities(slide, model, tmp_path / "drawn.ome.zarr", where=where)
    tiled = probabilities(slide, model, tmp_path / "tiled.ome.zarr", where=where, tile=100)
    inside = drawn.any(-1)
    assert 30_000 < inside.sum() < 45_000  # half of 250 x 300
    assert np.array_equal(inside, tiled.any(-1))
    assert np.abs((drawn - whole)[inside]).max() < 1e-4
    setup = set_up(slide, [model], PredictOptions(where=where))
    _, run = open_run(setup, tmp_path / "plan.ome.zarr")
    box = [w for unit in run.description["plan"]["units"] for w in unit["tiles"]]
    assert sum(h * w for _, _, h, w in box) < 700 * 900 / 3, "the rest is not even computed"


def test_nothing_to_compute_is_said(model, tmp_path):
    white = slide_from_array(np.full((700, 900, 3), 255, np.uint8), mpp=1.0)
    events = list(prediction(white, [model], tmp_path / "x.ome.zarr", PredictOptions(where="tissue")))
    assert events[-1].values["tiles"] == 0
    assert any("Nothing was computed" in e.text for e in events if isinstance(e, Message))


def test_disagreement_and_entropy(slide, model, tmp_path):
    store = predict(slide, model, tmp_path / "x.ome.zarr", outputs=("labels", "disagreement", "entropy"), tile=256)
    run = store.runs[-1]
    whole = Window(0, 0, 700, 900)
    maps = predict_image(model, slide)
    scales = [maps[name].astype(np.float64) for name in model.config.outputs[1:]]
    p = maps["fused"].astype(np.float64)

    def entropy(values):
        return -(values * np.log(np.maximum(values, 1e-30))).sum(0)

    expected = (entropy(sum(scales) / 2) - sum(map(entropy, scales)) / 2) / np.log(2)
    assert np.abs(run.read(whole, output="disagreement") - expected).max() < 1 / 255
    assert np.abs(run.read(whole, output="entropy") - entropy(p) / np.log(2)).max() < 1 / 255
    assert run.read(Window(0, 0, 350, 450), level=0, output="entropy").std() > 0.01
    store.close()


def test_one_scale_cannot_disagree(slide, tmp_path):
    with pytest.raises(ModelError, match="one scale"):
        predict(slide, network(scales=(1.0,)), tmp_path / "x.ome.zarr", outputs=("labels", "disagreement"))


def test_a_short_margin_is_told_by_the_seam_meter(slide, model, tmp_path):
    setup = set_up(slide, [model], PredictOptions(margin=4, tile=160))
    events = list(prediction(slide, [model], tmp_path / "x.ome.zarr", setup.options))
    seam = next(e for e in events if isinstance(e, Result)).values["seam"]
    assert seam["near"] > 3 * seam["elsewhere"]
    assert seam["near"] > 0.001
    assert any("near tile borders" in e.text for e in events if isinstance(e, Message))


def test_channels_are_matched_by_name_and_can_be_mapped(tmp_path):
    four = image(300, 300, channels=4)
    slide = slide_from_array(four, mpp=1.0, channels=("dapi", "cd3", "cd8", "red"))
    model = network(channels=2, channel_names=("cd8", "dapi"))
    assert matched_channels(model, slide) == (2, 0)
    assert matched_channels(model, slide, ("red", 1)) == (3, 1)
    picked = slide_from_array(np.ascontiguousarray(four[..., [2, 0]]), mpp=1.0)
    expected = predict_image(model, picked)["fused"]
    found = probabilities(slide, model, tmp_path / "x.ome.zarr")
    assert np.abs(np.moveaxis(found, -1, 0) - expected).max() < 1e-6
    with pytest.raises(ModelError, match="channels=") as error:
        matched_channels(network(channels=2), slide)
    assert "dapi, cd3, cd8, red" in str(error.value)
    with pytest.raises(ModelError, match="no channel 'blue'"):
        matched_channels(model, slide, ("blue", 0))


def test_two_devices_share_the_tiles(slide, model, tmp_path):
    one = probabilities(slide, model, tmp_path / "one.ome.zarr", tile=128)
    two = probabilities(slide, model, tmp_path / "two.ome.zarr", tile=128, device="cpu,cpu")
    assert np.abs(one - two).max() < 1e-4


def test_lower_precision_changes_little_but_something(slide, model, tmp_path):
    plain = probabilities(slide, model, tmp_path / "one.ome.zarr")
    half = probabilities(slide, model, tmp_path / "two.ome.zarr", precision="bfloat16")
    assert 1e-5 < np.abs(plain - half).max() < 0.2


class Failing:
    """Reads of a slide that fail in some windows, as a file with a broken tile does."""

    def __init__(self, slide, broken):
        self.slide, self.broken, self.read = slide, broken, slide.read_window

    def __enter__(self):
        def read(grid, window, **options):
            scaled = tuple(v * p for v, p in zip((window.y, window.x), grid.pixel, strict=True))
            stop = tuple(v * p for v, p in zip(window.stop, grid.pixel, strict=True))
            y, x = self.broken
            if scaled[0] <= y < stop[0] and scaled[1] <= x < stop[1]:
                raise SlideError("The tile at that place cannot be decoded.")
            return self.read(grid, window, **options)

        self.slide.read_window = read
        return self

    def __exit__(self, *_):
        self.slide.read_window = self.read


def test_a_tile_that_cannot_be_decoded_is_listed_and_the_rest_is_done(model, tmp_path):
    slide = slide_from_array(image(), mpp=1.0)
    options = PredictOptions(tile=256, outputs=("labels", "probabilities"), probability_dtype="float32")
    with Failing(slide, (600, 800)):
        with pytest.raises(SlideError, match=r"tiles? could not be computed \(y \d+ to \d+, x .*all others are done"):
            list(prediction(slide, [model], tmp_path / "x.ome.zarr", options))
        told = options.model_copy(update={"damaged": "skip"})
        events = list(prediction(slide, [model], tmp_path / "x.ome.zarr", told))
    result = next(e for e in events if isinstance(e, Result))
    assert 0 < result.values["failed"] < result.values["tiles"]
    assert len(result.values["damaged"]) == result.values["failed"]
    assert any(
        "could not be computed" in e.text and "cannot be decoded" in e.text for e in events if hasattr(e, "text")
    )
    again = list(prediction(slide, [model], tmp_path / "x.ome.zarr", options))
    assert sum(isinstance(e, Progress) for e in again) < result.values["tiles"]
    store = predict(slide, model, tmp_path / "x.ome.zarr", **options.model_dump(exclude={"region", "postprocess"}))
    expected = predict_image(model, slide)["fused"]
    assert np.abs(np.moveaxis(np.asarray(store.probabilities), -1, 0) - expected).max() < 1e-4
    store.close()


def test_too_little_memory_plans_again_with_half(slide, model, tmp_path, monkeypatch):
    from napari_msunet.inference.network import TorchNetwork

    run_branch = TorchNetwork.run
    sizes = []

    def scarce(self, branch, x, keep):
        sizes.append(x.shape[-2] * x.shape[-1])
        if x.shape[-2] * x.shape[-1] > 300 * 300:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate some bytes.")
        return run_branch(self, branch, x, keep)

    monkeypatch.setattr(TorchNetwork, "run", scarce)
    setup = set_up(slide, [model], PredictOptions(outputs=("labels", "probabilities"), probability_dtype="float32"))
    store, run = open_run(setup, tmp_path / "x.ome.zarr")
    with run.writing():
        events = list(fill(run, setup))
    assert sum("too little memory" in e.text for e in events if isinstance(e, Message)) >= 1
    assert run.description["plan"]["generation"] >= 1
    assert max(sizes) > 300 * 300 >= sizes[-1]
    expected = predict_image(network(), slide, tile=200)["fused"]
    assert np.abs(run.read(Window(0, 0, 700, 900), output="probabilities") - expected).max() < 1e-4
    store.close()
