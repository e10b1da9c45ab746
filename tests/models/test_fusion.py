"""Each fusion against its formula in plain numbers."""

import pytest
import torch
from pydantic import ValidationError

from napari_msunet.config import ModelConfig, UNetConfig
from napari_msunet.models import build_model
from napari_msunet.models.fusion import DIMENSIONS, FUSIONS, HEADS, HIDDEN, JOINS

SMALL = UNetConfig(depth=1, width=4)
DEEP = UNetConfig(depth=3, width=4)


def logits(k=3, outputs=3, extra=0, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(2, outputs + extra, 4, 5, dtype=torch.float64) * 3 for _ in range(k)]


def probabilities(zs, outputs=3):
    return torch.stack([torch.softmax(z[:, :outputs], dim=1) for z in zs])


def made(name, features=(4, 6, 5), outputs=3):
    torch.manual_seed(1)
    return FUSIONS[name](features, outputs).double()


def test_mean_of_probabilities():
    zs = logits()
    torch.testing.assert_close(made("mean")(zs).exp(), probabilities(zs).mean(dim=0))


def test_weighted_mean_of_probabilities():
    zs, fusion = logits(), made("weighted")
    with torch.no_grad():
        fusion.scores.copy_(torch.tensor([0.3, -1.0, 2.0]))
    shares = torch.softmax(fusion.scores, dim=0)
    expected = (probabilities(zs) * shares.view(3, 1, 1, 1, 1)).sum(dim=0)
    torch.testing.assert_close(fusion(zs).exp(), expected)
    weights = fusion.weights(zs)
    assert weights.shape == (2, 3, 4, 5)
    torch.testing.assert_close(weights[1, :, 2, 3], shares)


def test_maximum_of_probabilities():
    zs = logits()
    highest = probabilities(zs).amax(dim=0)
    torch.testing.assert_close(made("max")(zs).exp(), highest / highest.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("name", ["mean", "weighted", "max"])
def test_certain_branches_that_disagree_stay_finite(name):
    """Probabilities below what a float can hold: their logarithm still is a number, with a gradient."""
    sure, other = torch.tensor([500.0, -500.0, 0.0]), torch.tensor([-500.0, 500.0, 0.0])
    zs = [v.double().view(1, 3, 1, 1).requires_grad_() for v in (sure, other)]
    fused = made(name, features=(4, 4))(zs)
    assert fused.isfinite().all()
    torch.testing.assert_close(fused.exp().flatten(), torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    fused[0, 2].sum().backward()
    assert all(z.grad.isfinite().all() for z in zs)


def test_concat_is_a_convolution_over_all_features():
    """Projected before the upsampling, it gives what one 1x1 convolution over the upsampled features gives."""
    config = ModelConfig(classes=("a", "b"), mpp=0.5, scales=(1, 0.5, 0.25), fusion="concat", branch=SMALL)
    torch.manual_seed(0)
    model = build_model(config).eval()
    with torch.no_grad():
        model.fusion.bias.normal_()
        inputs = [torch.rand(1, 3, s, s) for s in (32, 16, 8)]
        features = [model.branches[i].network(model.normalise(x)) for i, x in enumerate(inputs)]
        together = torch.cat([model.to_target(i, f) for i, f in enumerate(features)], dim=1)
        weight = torch.cat([p.weight for p in model.fusion.projections], dim=1)
        expected = torch.nn.functional.conv2d(together, weight, model.fusion.bias)
        torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)


def test_attention_weighs_logits_at_each_pixel():
    zs, fusion = logits(extra=HIDDEN), made("attention")
    with torch.no_grad():
        fusion.bias.normal_()
        fusion.score.bias.normal_()
        hidden = torch.relu(sum(z[:, 3:] for z in zs) + fusion.bias.view(1, -1, 1, 1))
        scores = torch.einsum("kc,bchw->bkhw", fusion.score.weight[:, :, 0, 0], hidden)
        shares = torch.softmax(scores + fusion.score.bias.view(1, -1, 1, 1), dim=1)
        expected = sum(shares[:, i : i + 1] * z[:, :3] for i, z in enumerate(zs))
        torch.testing.assert_close(fusion(zs), expected)
        torch.testing.assert_close(fusion.weights(zs), shares)
    assert shares.std(dim=(2, 3)).min() > 0.01  # they differ from pixel to pixel


def test_feature_attention_weighs_features_then_decides():
    zs, fusion = logits(extra=2 * HIDDEN), made("feature_attention")
    with torch.no_grad():
        for parameter in (fusion.bias, fusion.shift, fusion.score.bias, fusion.decide.bias):
            parameter.normal_()
        fused, shares = fusion(zs), fusion.weights(zs)
        b, y, x = 1, 2, 3
        at = [z[b, :, y, x] for z in zs]
        hidden = torch.relu(sum(z[3 : 3 + HIDDEN] for z in at) + fusion.bias)
        a = torch.softmax(fusion.score.weight[:, :, 0, 0] @ hidden + fusion.score.bias, dim=0)
        total = sum(share * z[3 + HIDDEN :] for share, z in zip(a, at, strict=True)) + fusion.shift
        expected = fusion.decide.weight[:, :, 0, 0] @ torch.relu(total) + fusion.decide.bias
    torch.testing.assert_close(fused[b, :, y, x], expected)
    torch.testing.assert_close(shares[b, :, y, x], a)
    assert shares.std(dim=(2, 3)).min() > 0.01  # they differ from pixel to pixel


def test_the_mean_of_two_logits_is_the_mean_of_sigmoids():
    zs = logits(outputs=2)
    sigmoids = torch.stack([torch.sigmoid(z[:, 1] - z[:, 0]) for z in zs])
    torch.testing.assert_close(made("mean", outputs=2)(zs)[:, 1].exp(), sigmoids.mean(dim=0))


@pytest.mark.parametrize("given", [(1.0, 2.0, 5.0), (0.0, 1.0, 1.0)])
def test_weights_by_hand(given):
    zs = logits()
    config = ModelConfig(classes=("a", "b"), mpp=1, fusion="weighted", scale_weights=given, branch=SMALL)
    model = build_model(config)
    assert not list(model.fusion.parameters())
    shares = torch.tensor(given).double() / sum(given)
    expected = (probabilities(zs) * shares.view(3, 1, 1, 1, 1)).sum(dim=0)
    torch.testing.assert_close(model.fusion.double()(zs).exp(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.fusion.weights(zs)[0, :, 1, 2], shares, rtol=1e-6, atol=1e-6)
    zs = [z.requires_grad_() for z in zs]
    model.fusion(zs)[:, 1].sum().backward()
    assert all(z.grad.isfinite().all() for z in zs)
    assert [bool(z.grad.abs().sum() > 0) for z in zs] == [share > 0 for share in given]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scale_weights": (1, 1)}, "2 scale_weights for 3 scales: give one weight for each scale"),
        ({"scale_weights": (0, 0, 0)}, "all zero"),
        ({"scale_weights": (1, 1, 1), "fusion": "mean"}, 'are for fusion="weighted"'),
        ({"scale_weights": (1, -1, 1)}, "greater than or equal to 0"),
    ],
)
def test_weights_by_hand_that_do_not_fit(options, says):
    with pytest.raises(ValidationError, match=says):
        ModelConfig(**{"classes": ("a",), "mpp": 1, "fusion": "weighted", **options})


def test_a_finer_scale_by_bilinear_enlargement():
    """It is the image as PyTorch enlarges it, and nothing of it is learned; otherwise pixels are repeated."""
    config = ModelConfig(classes=("a",), mpp=1, scales=(2, 1, 0.5), fusion="mean", enlarge="bilinear", branch=SMALL)
    assert config.input_ratios == (1, 1, 0.5)
    torch.manual_seed(0)
    model = build_model(config).eval()
    x, coarse = torch.rand(1, 3, 16, 24), torch.rand(1, 3, 8, 12)
    larger = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    with torch.no_grad():
        plain = build_model(ModelConfig(**config.model_dump() | {"enlarge": "learned"})).eval()
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(model([x, x, coarse]), plain([larger, x, coarse]))
    assert not [name for name in model.state_dict() if "stem" in name]
    assert plain.fingerprint != model.fingerprint
    with pytest.raises(ValidationError, match="no whole multiple of finest_scale 1"):
        ModelConfig(classes=("a",), mpp=1, scales=(1.5, 1), enlarge="bilinear")


def test_heads_weigh_logits_each_by_its_own_softmax_over_scales():
    size = HEADS * DIMENSIONS
    zs, fusion = logits(extra=2 * size), made("multihead")
    with torch.no_grad():
        for parameter in (fusion.bias, fusion.places, fusion.mix):
            parameter.normal_()
        fused, shares = fusion(zs), fusion.weights(zs)
        b, y, x = 1, 2, 3
        at = [z[b, :, y, x] for z in zs]
        query = sum(z[3 : 3 + size] for z in at) + fusion.bias
        keys = torch.stack([z[3 + size :] + place for z, place in zip(at, fusion.places, strict=True)])
        expected, mean = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for m in range(HEADS):
            own = slice(m * DIMENSIONS, (m + 1) * DIMENSIONS)
            a = torch.softmax(keys[:, own] @ query[own] / DIMENSIONS**0.5, dim=0)
            expected += fusion.mix[m] @ sum(share * z[:3] for share, z in zip(a, at, strict=True))
            mean += a / HEADS
        torch.testing.assert_close(fused[b, :, y, x], expected)
        torch.testing.assert_close(shares[b, :, y, x], mean)


def test_multihead_is_torchs_multihead_attention():
    """With the scales of a pixel as tokens, the same projections, and the branches' logits as values."""
    size = HEADS * DIMENSIONS
    zs, fusion = logits(outputs=size, extra=2 * size), made("multihead", outputs=size)
    theirs = torch.nn.MultiheadAttention(size, HEADS, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.zero_()
        theirs.in_proj_weight.copy_(torch.eye(size, dtype=torch.float64).repeat(3, 1))
        theirs.out_proj.weight.normal_()
        for m in range(HEADS):  # a head of theirs sees its own part of the values only
            fusion.mix[m].zero_()
            own = slice(m * DIMENSIONS, (m + 1) * DIMENSIONS)
            fusion.mix[m][:, own] = theirs.out_proj.weight[:, own]
        tokens = torch.stack([z.permute(0, 2, 3, 1).flatten(0, 2) for z in zs], dim=1)
        query = tokens[..., size : 2 * size].sum(dim=1, keepdim=True) + fusion.bias
        keys = tokens[..., 2 * size :] + fusion.places
        expected, _ = theirs(query, keys, tokens[..., :size])
        found = fusion(zs).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(found, expected[:, 0])


def joint(fusion, **changes):
    torch.manual_seed(0)
    return build_model(
        ModelConfig(**{"classes": ("a",), "mpp": 0.5, "fusion": fusion, "branch": DEEP, **changes})
    ).eval()


def test_injected_features_are_those_under_each_pixel_of_the_bottleneck():
    """A bottleneck pixel is 8 x 8 pixels of scale 1, which is one of scale 1/8: there HookNet's grids are the same."""
    model = joint("inject", scales=(1, 1 / 8, 1 / 2))
    inputs = [torch.rand(1, 3, s, s) for s in (64, 8, 32)]
    with torch.no_grad():
        xs = [model.normalise(x) for x in inputs]
        networks = [branch.network for branch in model.branches]
        far, near = networks[1].decoded(xs[1]), networks[2].decoded(xs[2])
        a, b = model.fusion.entrances["1"].weight, model.fusion.entrances["2"].weight
        conv = torch.nn.functional.conv2d
        deepest = conv(far[0], a) + conv(near[2], b)
        assert far[0].shape[-2:] == near[2].shape[-2:] == (8, 8)
        together = conv(torch.cat([far[0], near[2]], dim=1), torch.cat([a, b], dim=1))
        torch.testing.assert_close(deepest, together)  # added projections are one convolution of all, concatenated
        expected = model.branches[0].head(networks[0].decoded(xs[0], deepest=deepest)[0])
        torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)
        plain = model.branches[0].head(networks[0](xs[0]))
    assert not torch.allclose(plain, expected, atol=1e-2)


def test_copies_enter_the_level_of_their_pixels():
    model = joint("pyramid", scales=(1, 1 / 2, 1 / 8))
    inputs = [torch.rand(1, 3, s, s) for s in (64, 32, 8)]
    with torch.no_grad():
        xs = [model.normalise(x) for x in inputs]
        entering = {level: model.fusion.entrances[i](x) for i, level, x in (("1", 1, xs[1]), ("2", 3, xs[2]))}
        expected = model.branches[0].head(model.branches[0].network.decoded(xs[0], entering=entering)[0])
        torch.testing.assert_close(model(inputs), expected)
        for i in (1, 2):
            changed = [x + 0.3 * (i == n) for n, x in enumerate(inputs)]
            assert not torch.allclose(model(changed), expected, atol=1e-3)


def test_an_upscaled_output_has_the_heads_sub_pixels():
    model = joint("mean", scales=(1,), upscale=2)
    x = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        fused = model([x])
        features = model.branches[0].network(model.normalise(x))
        head = model.branches[0].head
        for down in (0, 1):
            for across in (0, 1):
                rows = torch.arange(2) * 4 + 2 * down + across
                one = torch.nn.functional.conv2d(features, head.weight[rows], head.bias[rows])
                expected = torch.log_softmax(one, dim=1)
                torch.testing.assert_close(fused[..., down::2, across::2], expected, rtol=1e-4, atol=1e-5)


def test_a_stem_begins_near_repetition_and_learns_detail():
    model = joint("mean", scales=(2,), finest_scale=1)
    x = torch.rand(1, 3, 16, 16)
    up = model.stems["0"](model.normalise(x))
    repeated = model.normalise(x).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert up.shape == (1, 3, 32, 32)
    assert 0 < (up - repeated).abs().mean() < 0.2 * repeated.std()
    (up[..., ::2, ::2] - up[..., 1::2, 1::2]).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.stems.parameters())


@pytest.mark.parametrize("fusion", JOINS)
def test_what_cannot_be_joined_is_refused(fusion):
    with pytest.raises(ValidationError, match="kind"):
        joint(fusion, branch={"kind": "linknet", "depth": 2})
    with pytest.raises(ValidationError, match="whole multiple"):
        joint(fusion, scales=(1.5, 1), finest_scale=1)
    if fusion == "pyramid":
        with pytest.raises(ValidationError, match="one network"):
            joint(fusion, shared=True)


@pytest.mark.parametrize(
    ("name", "extra"),
    [("attention", HIDDEN), ("feature_attention", 2 * HIDDEN), ("multihead", 2 * HEADS * DIMENSIONS)],
)
def test_attention_never_looks_over_space(name, extra):
    zs, fusion = logits(extra=extra), made(name)
    changed = [z.clone() for z in zs]
    changed[1][:, :, 2, 2] += 1
    differs = (fusion(zs) != fusion(changed)).any(dim=1)
    assert differs[:, 2, 2].all()
    assert differs.sum() == 2  # that pixel, in both images


def test_weights_of_a_model_sum_to_one():
    for fusion in ("weighted", "attention", "feature_attention", "multihead"):
        for scales in ((1,), (1, 0.5)):
            model = build_model(ModelConfig(classes=("a",), mpp=0.5, scales=scales, fusion=fusion, branch=SMALL)).eval()
            inputs = [torch.rand(1, 3, int(16 * s), int(16 * s)) for s in scales]
            zs = [model.to_target(i, model.run_branch(i, x)) for i, x in enumerate(inputs)]
            weights = model.fusion_weights(zs)
            assert weights.shape == (1, len(scales), 16, 16)
            torch.testing.assert_close(weights.sum(dim=1), torch.ones(1, 16, 16))
    for fusion in ("mean", "max", "concat"):
        model = build_model(ModelConfig(classes=("a",), mpp=0.5, scales=(1,), fusion=fusion, branch=SMALL)).eval()
        assert model.fusion_weights([model.run_branch(0, torch.rand(1, 3, 16, 16))]) is None


def test_the_fusion_changes_the_output():
    results = []
    for fusion in (*FUSIONS, *JOINS):
        torch.manual_seed(0)
        model = build_model(ModelConfig(classes=("a",), mpp=0.5, scales=(1, 0.5), fusion=fusion, branch=SMALL)).eval()
        if fusion == "weighted":
            model.fusion.scores.data[0] = 1.0  # equal shares are the mean
        torch.manual_seed(0)
        fused = model([torch.rand(1, 3, 16, 16), torch.rand(1, 3, 8, 8)])
        results.append(torch.softmax(fused, dim=1))
    for i, a in enumerate(results):
        assert all(not torch.allclose(a, b, atol=1e-5) for b in results[:i])


def test_one_scale_is_that_branch_alone():
    for fusion in ("mean", "weighted", "max", "attention", "feature_attention", "multihead"):
        model = build_model(ModelConfig(classes=("a",), mpp=0.5, scales=(1,), fusion=fusion, branch=SMALL)).eval()
        x = [torch.rand(1, 3, 16, 16)]
        torch.testing.assert_close(torch.softmax(model(x), 1), torch.softmax(model.branch_logits(x)[0], 1))
