"""Branch networks: parts and strips give the whole, folding changes nothing, every option changes something."""

import pytest
import torch
import torch.nn.functional as F
from branch_networks import NETWORKS, unet
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from napari_msunet.config import EncoderConfig, HRNetConfig, LinkNetConfig, ModelConfig, UNetConfig, branches
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window
from napari_msunet.inference.budget import bytes_per_pixel
from napari_msunet.models import build_model, strip_inference
from napari_msunet.models.blocks import PLAIN_STEPS, RELAXED_STEPS, BatchRenorm, SlideNorm, initialise, of_the_batch
from napari_msunet.models.networks import EncoderNetwork, build_network
from napari_msunet.models.receptive_field import measure_reach


def made(config, channels=3):
    """A network in evaluation mode whose statistics are those of some batches."""
    torch.manual_seed(0)
    network = build_network(config, channels).apply(initialise)
    with torch.no_grad():
        for _ in range(4):
            network(torch.randn(2, channels, 6 * config.stride, 4 * config.stride))
    return network.eval()


def enlarged(network):
    """A projection as a head has it: sub-pixels where the features are coarse."""
    return lambda features: (
        F.interpolate(features, scale_factor=float(network.grain)) if network.grain > 1 else features
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_part_in_strips_is_the_part_of_the_whole(name, monkeypatch):
    monkeypatch.setattr(strip_inference, "STRIP", 16)
    config, network = NETWORKS[name], made(NETWORKS[name])
    x = torch.randn(2, 3, 10 * config.stride, 8 * config.stride)
    keep = Window(config.stride + 3, 5, 4 * config.stride + 1, 6 * config.stride)
    with torch.no_grad():
        whole = enlarged(network)(network(x))
        part = strip_inference.run_within(network, x, keep, enlarged(network))
        everything = strip_inference.run_within(network, x, Window(0, 0, *x.shape[-2:]), enlarged(network))
    scale = float(whole.std())
    assert whole.shape == (2, network.features, *x.shape[-2:])
    assert float((part - whole[(..., *keep.slices())]).abs().max()) < 1e-4 * scale
    assert float((everything - whole).abs().max()) < 1e-4 * scale


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_changes_nothing(name):
    network = made(NETWORKS[name])
    x = torch.randn(1, 3, 6 * NETWORKS[name].stride, 4 * NETWORKS[name].stride)
    folded = strip_inference.folded(network)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), atol=1e-4, rtol=1e-4)
    left = sum(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert left == 0 or left < sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules()) / 4


def test_a_layer_that_does_more_than_normalise_is_not_folded():
    class NormAndCut(torch.nn.BatchNorm2d):
        def forward(self, x):
            return torch.relu(super().forward(x))

    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), NormAndCut(2)).eval()
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(strip_inference.folded(network)(x), network(x))


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("plain", "valid", "mirror", "renorm", "slide")])
def test_every_option_changes_the_network(name):
    def parameters(config):
        return sorted((n, tuple(p.shape)) for n, p in build_network(config, 3).named_parameters())

    assert parameters(NETWORKS[name]) != parameters(NETWORKS["plain"])


@pytest.mark.parametrize(
    ("options", "reach"),
    [
        ({}, 22),
        ({"down": "stride"}, 22),
        ({"up": "resize"}, 25),  # one pixel more at each level on the way up
        ({"residual": True, "separable": True, "gates": True, "attention": "light"}, 22),
        ({"stem": "space_to_depth"}, 44),
        ({"pyramid": True}, 23),
        ({"context": True}, 38),  # four pixels more at the bottleneck
        ({"attention": "self", "window": 8}, 22),
    ],
)
def test_measured_reach(options, reach):
    config = unet(**options)
    assert measure_reach(made(config), 3, config.stride).aligned == reach


def test_windows_of_self_attention_are_part_of_the_stride():
    assert [unet(attention="self", window=w).stride for w in (2, 4, 8)] == [4, 8, 16]
    assert unet(attention="self", window=8, stem="space_to_depth").stride == 32
    network = made(unet(attention="self", window=8))
    x = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        whole, aligned, moved = network(x), network(x[..., 16:, :]), network(x[..., 8:-8, :])
    assert (aligned[..., 48:-48, 48:-48] - whole[..., 64:-48, 48:-48]).abs().max() < 1e-4
    assert (moved[..., 48:-48, 48:-48] - whole[..., 56:-56, 48:-48]).abs().max() > 1e-2


def test_batch_renormalisation_follows_its_formula():
    torch.manual_seed(0)
    layer, plain = BatchRenorm(3), torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        for norm in (layer, plain):
            norm.weight.copy_(torch.tensor([1.0, 2.0, 0.5]))
            norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
            norm.running_mean.copy_(torch.tensor([0.3, -0.2, 0.1]))
            norm.running_var.copy_(torch.tensor([1.5, 0.7, 1.1]))
    x = torch.randn(4, 3, 8, 8) * 1.3 + 0.2
    torch.testing.assert_close(layer(x), plain(x))  # the first steps are plain
    torch.testing.assert_close(layer.running_var, plain.running_var)
    layer.num_batches_tracked.fill_(RELAXED_STEPS)
    layer.running_mean.copy_(torch.tensor([0.3, -0.2, 9.0]))
    var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    deviation = torch.sqrt(layer.running_var + layer.eps)
    r = (torch.sqrt(var + layer.eps) / deviation).clamp(1 / 3, 3).view(3, 1, 1)
    d = ((mean - layer.running_mean) / deviation).clamp(-5, 5).view(3, 1, 1)
    assert float(d[2]) == -5  # the limit holds
    normal = (x - mean.view(3, 1, 1)) / torch.sqrt(var + layer.eps).view(3, 1, 1)
    expected = (normal * r + d) * layer.weight.view(3, 1, 1) + layer.bias.view(3, 1, 1)
    torch.testing.assert_close(layer(x), expected)
    halfway = BatchRenorm(1)
    halfway.num_batches_tracked.fill_((PLAIN_STEPS + RELAXED_STEPS) // 2)
    assert halfway.limits() == (2.0, 2.5)


def test_relaxed_renormalisation_gives_in_training_what_it_gives_in_prediction():
    layer = BatchRenorm(2)
    layer.num_batches_tracked.fill_(RELAXED_STEPS)
    layer.running_mean.copy_(torch.tensor([0.5, -0.5]))
    x = torch.randn(1, 2, 8, 8)
    evaluated = layer.eval()(x)
    torch.testing.assert_close(layer.train()(x), evaluated)


def test_slide_normalisation_takes_the_batch_only_where_told():
    layer = SlideNorm(2)
    x = torch.randn(4, 2, 8, 8) * 3 + 5
    trained = layer(x)
    layer.eval()
    kept = layer.running_mean.clone()
    assert (layer(x) - trained).abs().max() > 0.1
    with of_the_batch(layer):
        torch.testing.assert_close(layer(x), trained)
    assert torch.equal(layer.running_mean, kept)
    assert (layer(x) - trained).abs().max() > 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_is_counted_for_every_network(name):
    config = ModelConfig(classes=("a",), mpp=1, scales=(1.0,), branch=NETWORKS[name])
    counted = bytes_per_pixel(config)
    bottom = 4 * (3 + 2)  # the input and the logits alone
    assert bottom < counted < 4000
    if NETWORKS[name].kind == "unet":
        wide = config.model_copy(update={"branch": NETWORKS[name].model_copy(update={"width": 16})})
        assert bytes_per_pixel(wide) > 1.3 * counted


def test_a_dense_network_needs_more_memory_than_one_in_parts():
    dense, plain = (
        bytes_per_pixel(ModelConfig(classes=("a",), mpp=1, scales=(1.0,), branch=unet(depth=3, dense=dense)))
        for dense in (True, False)
    )
    assert dense > 2 * plain


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6])
def test_every_depth_and_width(depth):
    for width in (8, 64) if depth < 4 else (8,):
        network = build_network(UNetConfig(depth=depth, width=width), 3)
        assert network(torch.rand(2, 3, 2**depth, 2**depth)).shape == (2, width, 2**depth, 2**depth)


def test_configs_are_told_apart_by_their_kind():
    text = ModelConfig(classes=("a",), mpp=1, branch=HRNetConfig(depth=2)).model_dump_json()
    assert ModelConfig.model_validate_json(text).branch == HRNetConfig(depth=2)
    old = {"classes": ["a"], "mpp": 1, "branch": [{"depth": 2}, {"kind": "linknet"}], "scales": [1, 0.5]}
    assert ModelConfig.model_validate(old).branch == (UNetConfig(depth=2), LinkNetConfig())
    with pytest.raises(ValidationError, match="linknet"):
        ModelConfig.model_validate(old | {"branch": {"kind": "vnet"}})


def test_options_that_are_not_used_leave_the_fingerprint_as_it_was():
    torch.manual_seed(0)
    model = build_model(ModelConfig(classes=("a",), mpp=0.5, scales=(1.0,), branch=UNetConfig(depth=1, width=2)))
    for number, parameter in enumerate(model.parameters()):
        torch.nn.init.constant_(parameter, number)
    # As the version before these options computed it.
    assert model.fingerprint == FIRST_FINGERPRINT
    model.config = model.config.model_copy(update={"branch": UNetConfig(depth=1, width=2, padding="valid")})
    assert model.fingerprint != FIRST_FINGERPRINT


FIRST_FINGERPRINT = "a17dc424386881709c10bc20d82474d96599a34093552e46989315a7d60ae80a"


def test_an_encoder_without_its_package_says_how_to_get_it():
    try:
        import segmentation_models_pytorch  # noqa: F401
    except (ImportError, RuntimeError):
        with pytest.raises(ModelError, match=r"napari-msunet\[encoders\]"):
            build_model(ModelConfig(classes=("a",), mpp=1, branch=EncoderConfig()))
    else:
        pytest.skip("the extra `encoders` is installed: tests/encoders has its tests")


@pytest.mark.parametrize("module", [None, "timm"])
def test_what_encoders_lack_is_a_sentence(monkeypatch, module):
    monkeypatch.setattr(branches, "find_spec", lambda name: None if name == module else object())
    assert branches.missing_for_encoders() == (
        ""
        if module is None
        else "Known encoders need timm, which is not installed here: pip install 'napari-msunet[encoders]', with a "
        "torchvision that fits the installed torch."
    )


def bare_encoder(weights, frozen=False):
    """An `EncoderNetwork` around a small network in place of one of timm, which need not be installed."""
    network = EncoderNetwork.__new__(EncoderNetwork)
    nn.Module.__init__(network)
    network.config = EncoderConfig(weights=weights, frozen=frozen)
    torch.manual_seed(0)
    network.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    network.register_buffer("mean", torch.zeros(3))
    return network


def test_encoder_weights_come_from_a_file(tmp_path):
    path = str(tmp_path / "w.safetensors")
    network = bare_encoder(path)
    given = {name: torch.rand(t.shape) for name, t in network.encoder.state_dict().items() if t.dim()}
    older = {f"module.encoder.{name}": t for name, t in given.items()}  # without the counters of newer files
    save_file({**older, "classifier.weight": torch.rand(5, 4)}, path)
    network.load_pretrained()
    for name, tensor in given.items():
        assert torch.equal(network.encoder.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"0.weight": torch.rand(4, 3, 5, 5)}, "not those of the encoder resnet34: 5 of 6 are missing"),
        ({}, "5 of 6 are missing or have another shape, such as 0.weight"),
        (b"no such file", "give a .safetensors file"),
        (None, "cannot be read"),
    ],
)
def test_an_encoder_file_that_does_not_fit_is_refused(tmp_path, weights, says):
    path = tmp_path / "w.safetensors"
    if isinstance(weights, bytes):
        path.write_bytes(weights)
    elif weights is not None:
        save_file(weights, path)
    with pytest.raises(ModelError, match=says):
        bare_encoder(str(path)).load_pretrained()


@pytest.mark.parametrize("weights", ["resnet50.pth", "ImageNet", "w.bin"])
def test_other_sources_of_weights_are_refused(weights):
    with pytest.raises(ModelError, match=r"no source of encoder weights; give none, imagenet, a .safetensors file"):
        bare_encoder(weights).load_pretrained()


def test_an_encoder_that_cannot_learn_is_refused():
    with pytest.raises(ValidationError, match="learns nothing"):
        EncoderConfig(frozen=True)


def test_a_narrow_linknet_learns_on_windows_of_128_pixels():
    """The backward pass of a strided 1x1 convolution of 8 channels ends the process with torch 2.13 on a CPU."""
    torch.manual_seed(0)
    config = ModelConfig(classes=("a",), mpp=1.0, scales=(1.0,), branch=LinkNetConfig(depth=3, width=8))
    model = build_model(config).train().to(memory_format=torch.channels_last)
    for _ in range(5):
        model.zero_grad()
        images = torch.rand(4, 3, 128, 128).contiguous(memory_format=torch.channels_last)
        model([images]).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
