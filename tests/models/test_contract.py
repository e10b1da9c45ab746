"""What every architecture and fusion keeps: shapes, gradients, odd sizes, shared weights, files."""

import pytest
import torch
from branch_networks import NETWORKS

from napari_msunet.config import LossConfig, ModelConfig, UNetConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window, round_up
from napari_msunet.models import SegmentationLoss, build_model, load_model, save_model

FUSIONS = (
    *("mean", "weighted", "max", "concat", "attention", "feature_attention", "multihead"),
    *("inject", "pyramid"),
)
SMALL = UNetConfig(depth=2, width=4)
SHAPES = {
    "three scales": {},
    "one scale": {"scales": (1.0,)},
    "coarse only": {"scales": (0.5, 0.25)},
    "odd ratios": {"scales": (1.5, 1.0, 2 / 3)},
    "finer": {"scales": (2.0, 0.5)},
    "shared": {"shared": True},
    "wider coarse": {"branch": (UNetConfig(depth=1, width=3), SMALL, UNetConfig(depth=3, width=6, dropout=0.2))},
    "concentric": {"field": "concentric"},
    "five channels": {"channels": 5, "classes": ("a", "b", "c")},
    "upscaled": {"upscale": 2, "scales": (1.0, 0.5)},
    "with a stem": {"scales": (2.0, 1.0, 0.5), "finest_scale": 1.0},
    "enlarged": {"scales": (2.0, 0.5), "enlarge": "bilinear"},
    "concentric, both": {"scales": (2.0, 0.5), "finest_scale": 1.0, "upscale": 2, "field": "concentric"},
}
NEVER = {("pyramid", "shared"), ("pyramid", "wider coarse")}
"""One network for all scales has nothing to share, and one config."""


CASES = [(f, s) for f in FUSIONS for s in ("three scales", "one scale", "concentric")]
CASES += [(f, s) for f in ("attention", "inject", "pyramid") for s in SHAPES if (f, s) not in (*NEVER, *CASES)]
CASES += [("concat", n) for n in NETWORKS]


FULLY = ("attention", "inject")
"""Fusions that are tried with every shape every day; the others with some, and with all of them in CI."""

DAILY = ("three scales", "odd ratios", "concentric, both")


def cases():
    """All of them, those that only CI runs marked."""
    for fusion, shape in CASES:
        daily = fusion in FULLY or shape in DAILY or shape in NETWORKS
        yield pytest.param((fusion, shape), marks=[] if daily else pytest.mark.slow)


@pytest.fixture(params=cases(), ids=lambda p: f"{p[0]}-{p[1]}")
def config(request):
    fusion, shape = request.param
    changes = {"branch": NETWORKS[shape], "scales": (1.0, 0.5)} if shape in NETWORKS else SHAPES[shape]
    return ModelConfig(**{"classes": ("a",), "mpp": 0.5, "branch": SMALL, "fusion": fusion, **changes})


def own_scales(config):
    return [config.ratios[i] for i in config.own]


def test_learns_in_every_branch(config, images):
    torch.manual_seed(0)
    model = build_model(config)
    inputs = images(config, 48, 24, field=config.field)
    fused, own = model.outputs(inputs)
    outputs = len(config.classes) + 1
    assert fused.shape == (2, outputs, 48, 24)
    assert [o.shape for o in own] == [fused.shape] * len(config.own)
    assert len(config.outputs) == 1 + len(own)
    target = torch.randint(0, outputs, (2, 48, 24))
    loss, _ = SegmentationLoss(LossConfig(), own_scales(config))(fused, own, target)
    loss.backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        alone = config.fusion == "weighted" and len(config.scales) == 1  # one share is always 1
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().sum() > 0 or alone, name


def test_fused_output_alone_reaches_every_branch(config, images):
    torch.manual_seed(0)
    model = build_model(config)
    model(images(config, 24, 24, field=config.field))[:, 0].square().sum().backward()
    firsts = [next(branch.network.parameters()) for branch in model.branches]
    firsts += [m.weight for m in (*model.fusion.modules(), *model.stems.modules()) if hasattr(m, "kernel_size")]
    assert all(first.grad.abs().sum() > 0 for first in firsts)


def test_detached_branches_teach_their_heads_only(config, images):
    torch.manual_seed(0)
    model = build_model(config).eval()
    inputs = images(config, 24, 24)
    plain, own = model.outputs(inputs)
    fused, detached = model.outputs(inputs, detach=[True] * len(config.scales))
    torch.testing.assert_close(fused, plain)
    for a, b in zip(own, detached, strict=True):
        torch.testing.assert_close(a, b)
    if config.own:
        sum(d[:, 0].square().sum() for d in detached).backward()
        moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        heads = {f"branches.{0 if config.shared else i}.head." for i in config.own}
        assert moved == {name for name, _ in model.named_parameters() if name.startswith(tuple(heads))}
    fused[:, 0].square().sum().backward()
    assert all(next(b.network.parameters()).grad.abs().sum() > 0 for b in model.branches)


def test_odd_sizes_are_padded_and_cropped(config):
    torch.manual_seed(0)
    model = build_model(config).eval()
    size = (model.config.size_multiple + 7, 2 * model.config.size_multiple - 3)
    sides = [(-(-size[0] * r // 1), -(-size[1] * r // 1)) for r in config.input_ratios]
    inputs = [torch.rand(1, config.channels, int(h), int(w)) for h, w in sides]
    with torch.no_grad():
        logits = model(inputs, size=size)
        own = model.branch_logits(inputs, size=size)
    assert logits.shape == (1, len(config.classes) + 1, *size)
    assert all(o.shape == logits.shape for o in own)
    assert logits.isfinite().all()
    if 1.0 in config.input_ratios:
        with torch.no_grad():
            assert torch.equal(model(inputs), logits)


def test_same_after_saving_and_loading(config, images, tmp_path):
    torch.manual_seed(0)
    model = build_model(config)
    with torch.no_grad():
        model(images(config, 24, 24), field="same")
    save_model(model, tmp_path / "m.safetensors", {"iou": 0.5})
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.config == config
    assert loaded.summary == {"iou": 0.5}
    assert loaded.fingerprint == model.fingerprint
    assert not loaded.training
    inputs = images(config, 24, 48)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), model.eval()(inputs))


def test_steps_give_what_the_whole_gives(config, images):
    torch.manual_seed(0)
    model = build_model(config).eval()
    side = round_up(48, config.size_multiple)
    inputs = images(config, side, side)
    if config.joint:
        with torch.no_grad():
            keep = Window(4, 8, 20, 16)
            fused, own = model.joint_split(model.run_joint(inputs, keep))
            assert torch.equal(fused, model(inputs)[(..., *keep.slices())])
            for o, logits in zip(own, model.branch_logits(inputs), strict=True):
                assert torch.equal(o, logits[(..., *keep.slices())])
        with pytest.raises(ModelError, match="run_joint"):
            model.run_branch(0, inputs[0])
        return
    with torch.no_grad():
        zs = [model.to_target(i, model.run_branch(i, x)) for i, x in enumerate(inputs)]
        assert torch.equal(model.combine(zs), model(inputs))
        for z, logits in zip(zs, model.branch_logits(inputs), strict=True):
            assert torch.equal(model.class_logits(z), logits)


def test_seed_decides_the_weights(config):
    def made(seed):
        torch.manual_seed(seed)
        return build_model(config)

    assert made(3).fingerprint == made(3).fingerprint
    assert made(3).fingerprint != made(4).fingerprint


def test_shared_weights_are_one_network():
    config = ModelConfig(classes=("a",), mpp=0.5, branch=SMALL)
    alone = sum(p.numel() for p in build_model(config).branches.parameters())
    shared = build_model(config.model_copy(update={"shared": True}))
    assert sum(p.numel() for p in shared.branches.parameters()) * 3 == alone
    x = torch.rand(1, 3, 16, 16)
    logits = [shared.eval().class_logits(shared.run_branch(i, x)) for i in range(3)]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


def test_widths_depths_and_dropout_change_the_network():
    def count(**changes):
        config = ModelConfig(classes=("a",), mpp=0.5, branch=UNetConfig(**{"depth": 2, "width": 4, **changes}))
        return sum(p.numel() for p in build_model(config).parameters())

    assert count(width=8) > 3 * count()
    assert count(depth=3) > 3 * count()
    model = build_model(ModelConfig(classes=("a",), mpp=0.5, scales=(1,), branch=UNetConfig(depth=1, dropout=0.9)))
    x = [torch.rand(1, 3, 16, 16)]
    assert not torch.equal(model(x), model(x))


def test_normalisation_is_the_first_layer(images):
    config = ModelConfig(classes=("a",), mpp=0.5, branch=SMALL, scales=(1,))
    fitted = ModelConfig(
        **config.model_dump(exclude={"normalisation"}), normalisation={"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 0.5)}
    )
    torch.manual_seed(0)
    plain = build_model(config).eval()
    torch.manual_seed(0)
    other = build_model(fitted).eval()
    x = torch.rand(1, 3, 16, 16)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1)
    torch.testing.assert_close(other([x]), plain([(x - mean) / std * 0.25 + 0.5]))
    assert plain.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("shapes", "size", "says"),
    [
        ([(1, 3, 16, 16)], None, "one for each of the scales 1, 1/2, 1/4"),
        ([(1, 4, 16, 16), (1, 4, 8, 8), (1, 4, 4, 4)], None, r"\(1, 3, 16, 16\)"),
        ([(1, 3, 16, 16), (1, 3, 16, 16), (1, 3, 4, 4)], None, "scale 1/2"),
        ([(1, 3, 16, 16), (2, 3, 8, 8), (1, 3, 4, 4)], None, r"needs \(1, 3, 8, 8\)"),
        ([(1, 3, 16, 16), (1, 3, 8, 8), (1, 3, 4, 4)], (32, 32), "target of 32 x 32"),
        ([(3, 16, 16), (3, 8, 8), (3, 4, 4)], None, "batch, channels"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shapes, size, says):
    model = build_model(ModelConfig(classes=("a",), mpp=0.5, branch=SMALL)).eval()
    with pytest.raises(ModelError, match=says):
        model([torch.rand(s) for s in shapes], size=size)


def test_other_bad_inputs_are_refused():
    model = build_model(ModelConfig(classes=("a",), mpp=0.5, branch=SMALL)).eval()
    with pytest.raises(ModelError, match="single tensor"):
        model(torch.rand(3, 3, 16, 16))
    with pytest.raises(ModelError, match="multiples of 4"):
        model.run_branch(0, torch.rand(1, 3, 18, 16))
    with pytest.raises(ModelError, match="floating-point"):
        model.run_branch(0, torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
