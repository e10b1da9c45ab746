"""Each fusion against its formula in plain numbers."""

import pytest
import torch

from napari_msunet.config import ModelConfig, UNetConfig
from napari_msunet.models import build_model
from napari_msunet.models.fusion import FUSIONS, HIDDEN

SMALL = UNetConfig(depth=1, width=4)


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


def test_attention_never_looks_over_space():
    zs, fusion = logits(extra=HIDDEN), made("attention")
    changed = [z.clone() for z in zs]
    changed[1][:, :, 2, 2] += 1
    differs = (fusion(zs) != fusion(changed)).any(dim=1)
    assert differs[:, 2, 2].all()
    assert differs.sum() == 2  # that pixel, in both images


def test_weights_of_a_model_sum_to_one():
    for fusion in ("weighted", "attention"):
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
    for fusion in FUSIONS:
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
    for fusion in ("mean", "weighted", "max", "attention"):
        model = build_model(ModelConfig(classes=("a",), mpp=0.5, scales=(1,), fusion=fusion, branch=SMALL)).eval()
        x = [torch.rand(1, 3, 16, 16)]
        torch.testing.assert_close(torch.softmax(model(x), 1), torch.softmax(model.branch_logits(x)[0], 1))
