"""Classical methods as models: scikit-image's thresholds, the classes of the masks, exact tiles."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from skimage.color import rgb2hed
from skimage.filters import threshold_minimum, threshold_multiotsu, threshold_otsu

from napari_msunet.config import AutoModel, ClassicalConfig, ModelConfig
from napari_msunet.constants import EOSIN, HAEMATOXYLIN
from napari_msunet.errors import ModelError
from napari_msunet.models import build_model, load_model, save_model
from napari_msunet.models.compose import untrained_model
from napari_msunet.models.networks.classical import Classical, fit_parts, majority


def config(classes=("a",), channels=3, **method) -> ModelConfig:
    branch = ClassicalConfig(**method)
    return ModelConfig(classes=classes, mpp=1.0, scales=(1.0,), fusion="mean", channels=channels, branch=branch)


def scene(seed: int = 0, side: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """Two kinds of discs on a bright ground, `(1, 3, side, side)` in 0..1, and their truth."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    truth = np.zeros((side, side), np.int64)
    for number in range(12):
        cy, cx, r = *rng.uniform(8, side - 8, 2), rng.uniform(4, 9)
        truth[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = 1 + number % 2
    colours = np.array([(235, 215, 225), (210, 120, 160), (90, 50, 130)])
    image = colours[truth] + rng.normal(0, 6, (side, side, 3))
    image = image.clip(0, 255).astype(np.uint8).astype(np.float32) / 255
    return torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(truth)[None]


def learnt(model, *pairs) -> Classical:
    network = model.branch(0).network
    network.learn([x for x, _ in pairs], [t for _, t in pairs])
    return network


def density(x: torch.Tensor) -> np.ndarray:
    return -np.log10(x.numpy().clip(1 / 255)).mean(1)[0]


@pytest.mark.parametrize("method", ["otsu", "valley", "multiotsu", "threshold"])
def test_thresholds_are_those_of_scikit_image(method):
    x, truth = scene()
    model = build_model(config(method=method, threshold=0.3)).eval()
    network = learnt(model, (x, (truth > 0).long()))
    seen = density(x)
    expected = {
        "otsu": lambda: [threshold_otsu(seen.astype(np.float64))],
        "valley": lambda: [threshold_minimum(seen.astype(np.float64))],
        "multiotsu": lambda: threshold_multiotsu(seen.astype(np.float64)),
        "threshold": lambda: [0.3],
    }[method]()
    assert network.values[:, 0].tolist() == pytest.approx(list(expected), rel=1e-5)
    part = np.digitize(seen, network.values[:, 0].numpy())
    labels = network.group.numpy()[part]
    assert (model([x])[0].argmax(0).numpy() == labels).mean() > 0.9999  # a pixel on the threshold itself may differ
    assert 0.03 < labels.mean() < 0.5


def test_haematoxylin_is_found_as_scikit_image_finds_it():
    x, truth = scene()
    model = build_model(config(look="haematoxylin"))
    ours = model.branch(0).network.measured(x)[0, 0].numpy()
    theirs = rgb2hed(x[0].permute(1, 2, 0).numpy())[..., 0]
    dark = truth[0].numpy() == 2
    assert ours[dark].mean() > 3 * abs(ours[~dark].mean())
    assert np.corrcoef(ours[theirs > 0], theirs[theirs > 0])[0, 1] > 0.98  # whose third stain is another one
    amounts = np.array([(0.7, 0.1), (0.05, 0.4), (0.3, 0.3)])
    stains = np.array([HAEMATOXYLIN, EOSIN]) / np.linalg.norm([HAEMATOXYLIN, EOSIN], axis=1, keepdims=True)
    light = torch.from_numpy(10 ** -(amounts @ stains)).float().T[None, :, None]
    for number, look in enumerate(("haematoxylin", "eosin")):
        found = build_model(config(look=look)).branch(0).network.measured(light)
        assert found.flatten().tolist() == pytest.approx(amounts[:, number], abs=1e-5)


def test_k_means_has_no_centre_that_is_not_a_mean_and_the_least_spread():
    x, _ = scene()
    values = x[0].flatten(1).T.numpy().astype(np.float64)
    centres, spread = fit_parts(values, ClassicalConfig(method="kmeans", look="colour", parts=3))
    nearest = ((values[:, None] - centres) ** 2).sum(2).argmin(1)
    means = np.stack([values[nearest == n].mean(0) for n in range(3)])
    assert np.allclose(centres, means, atol=1e-3)
    assert (np.diff(centres.sum(1)) > 0).all()
    assert spread == pytest.approx(np.sqrt(((values - centres[nearest]) ** 2).mean()), rel=1e-3)
    assert spread < 0.04  # about the noise of 6 in 255: no start that is caught elsewhere was kept


@pytest.mark.parametrize("look", ["colour", "density"])
def test_k_means_gives_each_part_the_class_that_its_pixels_have(look):
    x, truth = scene()
    swapped = torch.tensor([2, 0, 1])[truth]  # which no order of darkness would give
    model = build_model(config(("a", "b"), method="kmeans", look=look, parts=4)).eval()
    learnt(model, (x, swapped))
    assert (model([x]).argmax(1) == swapped).float().mean() > 0.98
    other, its_truth = scene(seed=5)
    assert (model([other]).argmax(1) == torch.tensor([2, 0, 1])[its_truth]).float().mean() > 0.97


def test_pixels_of_unknown_truth_have_no_vote():
    x, truth = scene()
    known = torch.where(torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) < 0.05, truth, 255)
    model = build_model(config(("a", "b"), method="kmeans", look="colour")).eval()
    learnt(model, (x, known))
    assert (model([x]).argmax(1) == truth).float().mean() > 0.98


@pytest.mark.parametrize(
    ("votes", "classes"),
    [
        ([[9, 1], [2, 8]], [0, 1]),
        ([[90, 1, 0], [40, 8, 1], [30, 1, 7]], [0, 1, 2]),  # by majority alone, all would be background
        ([[0, 5, 9], [0, 9, 2], [0, 1, 1]], [2, 1, 1]),  # background was not annotated
        ([[9, 0, 2], [3, 0, 8], [5, 0, 4]], [0, 2, 0]),
    ],
)
def test_the_class_of_each_part(votes, classes):
    assert majority(np.array(votes)).tolist() == classes


def test_probabilities_rise_across_a_threshold():
    model = untrained_model(config(channels=1, method="threshold", look="colour", threshold=0.5))
    x = torch.linspace(0, 1, 101)[None, None, None]
    shares = torch.softmax(model([x]), 1)[0, 1, 0]
    assert (shares.diff() <= 0).all()  # the darker part is the class
    assert shares[:45].min() > 0.5 > shares[55:].max()
    assert 0.6 < float(shares[47]) < 0.7


@pytest.mark.parametrize(
    ("method", "look", "first", "classes"),
    [
        ("otsu", "colour", "darkest", [1, 0]),
        ("otsu", "colour", "brightest", [0, 1]),
        ("otsu", "density", "darkest", [0, 1]),
        ("multiotsu", "channel1", "darkest", [1, 2, 0]),
        ("kmeans", "density", "darkest", [0, 2, 1]),
    ],
)
def test_the_order_of_parts_without_training(method, look, first, classes):
    made = build_model(config(("a", "b")[: len(classes) - 1], method=method, look=look, first=first))
    assert made.branch(0).network.group.tolist() == classes


def test_more_parts_than_classes_leave_background():
    made = build_model(config(method="kmeans", look="colour", parts=4))
    assert made.branch(0).network.group.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("smooth", [0.0, 0.7, 3.0])
def test_the_margin_is_that_of_the_smoothing_and_parts_are_the_whole(smooth):
    x, truth = scene(side=128)
    model = build_model(config(("a", "b"), method="kmeans", look="colour", smooth=smooth)).eval()
    learnt(model, (x, truth))
    assert model.exact
    assert model.margin == model.config.branches[0].radius == int(np.ceil(3 * smooth))
    whole, margin = model([x]), model.margin
    part = model([x[..., 40 - margin : 81 + margin, 30 - margin : 77 + margin]])
    inner = part[..., margin : margin + 41, margin : margin + 47]
    assert (torch.softmax(inner, 1) - torch.softmax(whole, 1)[..., 40:81, 30:77]).abs().max() < 1e-4
    if smooth > 1:
        less = model([x[..., 40 - 2 : 81 + 2, 30 - 2 : 77 + 2]])[..., 2:43, 2:49]
        assert (torch.softmax(less, 1) - torch.softmax(whole, 1)[..., 40:81, 30:77]).abs().max() > 1e-2


def test_it_is_saved_like_any_model(tmp_path):
    x, truth = scene()
    model = build_model(config(("a", "b"), method="kmeans", smooth=1.0)).eval()
    learnt(model, (x, truth))
    again = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert again.config == model.config
    assert again.fingerprint == model.fingerprint
    assert torch.equal(again([x]), model([x]))


def test_every_option_changes_the_result():
    x, truth = scene()
    usual = {"method": "kmeans", "look": "density", "parts": 3}
    changed = [{"method": "multiotsu"}, {"look": "colour"}, {"look": "eosin"}, {"parts": 5}, {"smooth": 2.0}]
    found = []
    for options in ({}, *changed):
        model = build_model(config(**{**usual, **options})).eval()
        learnt(model, (x, (truth == 2).long()))
        found.append(model.branch_logits([x])[0])
    assert all(not torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize(
    ("values", "method", "words"),
    [
        (np.zeros((0, 1)), "otsu", "given 0 pixels"),
        (np.full((9, 1), np.nan), "otsu", "no numbers"),
        (np.ones((9, 1)), "otsu", "cannot make 2 parts of pixels with 1 different value of density"),
        (np.ones((9, 3)), "kmeans", "cannot make 3 parts of pixels with 1 different value"),
        (np.arange(2.0)[:, None], "multiotsu", "cannot make 3 parts"),
        (np.linspace(0, 1, 5000)[:, None], "valley", "no valley"),
    ],
)
def test_what_cannot_be_parted_is_one_sentence(values, method, words):
    with pytest.raises(ModelError, match=words):
        fit_parts(values, ClassicalConfig(method=method))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ("a", "b"), "branch": ClassicalConfig()}, "otsu makes 2 parts, too few for background and 2 cl"),
        ({"classes": tuple("abcd"), "branch": ClassicalConfig(method="kmeans")}, "kmeans makes 3 parts, too few"),
        ({"scales": (1.0, 0.5)}, "one scale"),
        ({"upscale": 2}, "one scale"),
        ({"channels": 1, "branch": ClassicalConfig(look="eosin")}, "red, green and blue, and the images have 1"),
        ({"channels": 2, "branch": ClassicalConfig(look="channel3")}, "no channel 3"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    given = {"classes": ("a",), "mpp": 1.0, "scales": (1.0,), "fusion": "mean", "branch": ClassicalConfig()}
    with pytest.raises(ValidationError, match=words):
        ModelConfig(**{**given, **changes})


def test_what_is_left_open_is_one_scale():
    made = AutoModel(classes=("a",), branch=ClassicalConfig(look="channel4"))
    assert made.given["branch"].look == "channel4"
    with pytest.raises(ValidationError, match="too few"):
        AutoModel(classes=("a", "b"), branch=ClassicalConfig())
    with pytest.raises(ValidationError, match="at most 5"):
        ClassicalConfig(method="multiotsu", parts=6)


def test_one_kind_of_truth_says_nothing():
    x, truth = scene()
    for only in (torch.zeros_like(truth), torch.ones_like(truth), torch.full_like(truth, 255)):
        with pytest.raises(ModelError, match="annotate background and each class"):
            learnt(build_model(config()), (x, only))


def test_only_what_needs_no_training_is_made_without():
    with pytest.raises(ModelError, match="train it"):
        untrained_model(config(fit="training"))
    with pytest.raises(ModelError, match="Only a classical method"):
        untrained_model(ModelConfig(classes=("a",), mpp=1.0))
