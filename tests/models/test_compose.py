"""Branches as models of their own, models put together from others, scales added and removed."""

import pytest
import torch

from napari_msunet.config import ModelConfig, Normalisation, UNetConfig
from napari_msunet.errors import ModelError, MsunetError
from napari_msunet.models import branch_model, build_model, combine_models, load_model, save_model, with_scales

NARROW, WIDE = UNetConfig(depth=1, width=4), UNetConfig(depth=2, width=3)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def one(mpp, branch=NARROW, mean=0.5, seed=0, **changes):
    torch.manual_seed(seed)
    fitted = Normalisation(mean=(mean,) * 3, std=(0.2,) * 3)
    config = ModelConfig(
        **{"classes": ("a",), "mpp": mpp, "scales": (1,), "branch": branch, "normalisation": fitted, **changes}
    )
    return build_model(config).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shared": True},
        {"fusion": "concat", "upscale": 2},
        {"scales": (2.0, 0.5), "finest_scale": 1.0},
        {"scales": (2.0, 0.5), "enlarge": "bilinear"},
    ],
    ids=str,
)
def test_a_branch_as_a_model_gives_what_it_gave(calibrated, images, changes):
    model = calibrated(**changes)
    inputs = images(model.config, 64, 64)
    with torch.no_grad():
        expected = model.branch_logits(inputs)
        for i, logits in enumerate(expected):
            alone = branch_model(model, i)
            got = alone([inputs[i]], size=(64, 64))
            torch.testing.assert_close(torch.softmax(got, 1), torch.softmax(logits, 1))
            assert alone.config.scales == (model.config.scales[i],)


def test_branches_without_an_output_are_no_models(calibrated):
    model = calibrated(fusion="inject")
    assert branch_model(model, 1).config.scales == (0.5,)
    with pytest.raises(ModelError, match=r"1 \(scale 1/2\), 2 \(scale 1/4\)"):
        branch_model(model, 0)
    with pytest.raises(ModelError, match="none"):
        branch_model(calibrated(fusion="pyramid"), 0)


@pytest.mark.parametrize("fusion", ["mean", "attention", "inject"])
def test_models_trained_alone_become_one(fusion, tmp_path):
    models = [one(0.5, mean=0.4), one(1.0, WIDE, mean=0.6, seed=1), one(2.0, seed=2)]
    together = combine_models(models, fusion)
    assert together.config.scales == (1.0, 0.5, 0.25)
    assert together.config.mpp == 0.5
    assert together.config.branches == (NARROW, WIDE, NARROW)
    inputs = [torch.rand(1, 3, s, s) for s in (32, 16, 8)]
    save_model(together, tmp_path / "m.safetensors")
    with torch.no_grad():
        own = load_model(tmp_path / "m.safetensors").branch_logits(inputs)
        for i, logits in zip(together.config.own, own, strict=True):
            torch.testing.assert_close(logits, together.to_target(i, models[i].branch_logits([inputs[i]])[0]))


def test_a_model_taken_apart_and_put_together_is_the_same(calibrated, images):
    model = calibrated(fusion="mean", normalisation=Normalisation(mean=(0.3,) * 3, std=(0.2,) * 3))
    again = combine_models([branch_model(model, i) for i in range(3)])
    assert again.config == model.config
    assert again.fingerprint == model.fingerprint
    inputs = images(model.config, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(inputs), model(inputs))


def test_models_that_do_not_go_together_are_refused():
    with pytest.raises(ModelError, match="differ in classes"):
        combine_models([one(0.5), one(1.0, classes=("b",))])
    with pytest.raises(ModelError, match="different scales"):
        combine_models([one(0.5), one(0.5)])
    with pytest.raises(ModelError, match="branch_model"):
        combine_models([one(0.5, scales=(1, 0.5))])
    with pytest.raises(MsunetError, match="ratio of whole numbers"):
        combine_models([one(0.5), one(0.83)])


@pytest.mark.parametrize("fusion", ["mean", "weighted", "concat", "attention", "multihead", "inject", "pyramid"])
def test_other_scales_keep_the_weights_of_those_that_stay(calibrated, fusion):
    old = calibrated(fusion=fusion, scales=(1.0, 0.5, 0.25))
    with torch.no_grad():
        for parameter in old.fusion.parameters():
            parameter.normal_()
    more, fewer = with_scales(old, (0.25, 2, 1, 0.5)), with_scales(old, (1, 0.25))
    assert more.config.scales == (0.25, 2.0, 1.0, 0.5)
    if fusion == "pyramid":
        assert same(fewer.branches, old.branches)
        assert same(fewer.fusion.entrances["1"], old.fusion.entrances["2"])
        assert more([torch.rand(1, 3, s, s) for s in (16, 128, 64, 32)]).shape == (1, 3, 64, 64)
        return
    assert same(fewer.branches[1], old.branches[2])
    assert same(more.branches[2], old.branches[0])
    assert not same(more.branches[1], old.branches[0])
    if fusion == "inject":
        assert same(fewer.fusion.entrances["1"], old.fusion.entrances["2"])
    elif fusion != "mean":
        name = next(iter(old.fusion.per_scale), "projections.0.weight")
        kept = dict(old.fusion.named_parameters())
        if name == "projections.0.weight":
            assert torch.equal(more.fusion.projections[0].weight, kept["projections.2.weight"])
        else:
            now = dict(more.fusion.named_parameters())[name]
            assert torch.equal(now[0], kept[name][2])
            assert not torch.equal(now[1], kept[name][0])
    assert with_scales(old, old.config.scales).fingerprint == old.fingerprint


def test_scales_that_are_none_are_refused(calibrated):
    with pytest.raises(MsunetError, match="no ratio"):
        with_scales(calibrated(), (1, 0.83))
    with pytest.raises(ModelError, match="different scales"):
        with_scales(calibrated(), (1, 1))


def test_weights_by_hand_follow_their_scales(calibrated):
    model = calibrated(fusion="weighted", scale_weights=(1, 2, 5))
    assert with_scales(model, (0.25, 1)).config.scale_weights == (5, 1)
    assert with_scales(model, (1, 0.5, 0.125)).config.scale_weights is None  # a new scale has no weight: they learn
    assert with_scales(model, (1, 0.5), "mean").config.scale_weights is None
    with pytest.raises(ModelError, match="all zero"):
        with_scales(calibrated(fusion="weighted", scale_weights=(0, 0, 5)), (1, 0.5))


def test_models_that_enlarge_in_different_ways_do_not_become_one():
    fine = [one(1.0, scales=(2,), finest_scale=1, enlarge=way, seed=n) for n, way in enumerate(("bilinear", "learned"))]
    both = combine_models([fine[0], one(2.0, seed=3)])
    assert (both.config.enlarge, both.config.enlarged) == ("bilinear", (2, 1))
    with pytest.raises(ModelError, match="Some of these models learn how to enlarge"):
        combine_models([fine[0], one(2.0, scales=(2,), finest_scale=1, seed=4)])
