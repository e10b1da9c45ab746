"""Networks against the same networks written in plain PyTorch from their papers: outputs, parameters, gradients."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from napari_msunet.config import HRNetConfig, LinkNetConfig, ModelConfig, UNetConfig
from napari_msunet.geometry import Window
from napari_msunet.models import build_model
from napari_msunet.models.blocks import initialise, mirrored
from napari_msunet.models.networks import build_network
from napari_msunet.models.networks.unet import around_valid
from napari_msunet.models.strip_inference import run_within


class PlainUNet(nn.Module):
    """Ronneberger et al. 2015, figure 1; with or without batch normalisation, padding, dropout, residual blocks."""

    def __init__(self, depth, width, norm=True, valid=False, dropout=0.0, residual=False, strided=False):
        super().__init__()
        self.valid, self.residual = valid, residual
        widths = [width * 2**level for level in range(depth + 1)]

        def convolution(a, b, kernel=3):
            padding = 0 if valid or kernel == 1 else 1
            made = nn.Conv2d(a, b, kernel, padding=padding, bias=not norm)
            return nn.Sequential(made, nn.BatchNorm2d(b)) if norm else made

        def block(a, b):
            parts = {"first": convolution(a, b), "second": convolution(b, b)}
            if residual:
                parts["shortcut"] = convolution(a, b, 1)
            return nn.ModuleDict(parts)

        self.down = nn.ModuleList(block(a, b) for a, b in zip([3, *widths[:-1]], widths, strict=True))
        self.halve = nn.ModuleList(nn.Conv2d(w, w, 2, stride=2) if strided else nn.MaxPool2d(2) for w in widths[:-1])
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.rise = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(block(2 * b, b) for _, b in pairs)
        self.dropout = nn.Dropout(dropout)

    def convolve(self, block, x):
        found = torch.relu(block["first"](x))
        found = block["second"](self.dropout(found))
        if self.residual:
            seen = x[..., 2:-2, 2:-2] if self.valid else x
            found = found + block["shortcut"](seen)
        return torch.relu(found)

    def forward(self, x):
        skips = []
        for level, block in enumerate(self.down):
            x = self.halve[level - 1](x) if level else x
            x = self.convolve(block, x)
            skips.append(x)
        skips.pop()
        for double, block in zip(self.rise, self.up, strict=True):
            x, skip = double(x), skips.pop()
            edge = (skip.shape[-1] - x.shape[-1]) // 2
            edges = slice(edge, -edge or None)
            x = self.convolve(block, torch.cat((skip[..., edges, edges], x), 1))
        return x


class PlainLinkNet(nn.Module):
    """Chaurasia and Culurciello 2017, figures 1 and 2 and table 1, with the encoder of ResNet-18 (He et al. 2016)."""

    def __init__(self, width=64, classes=2):
        super().__init__()
        w = width

        def after(made, channels):
            return nn.Sequential(made, nn.BatchNorm2d(channels))

        def basic(a, b, stride):
            parts = {
                "first": after(nn.Conv2d(a, b, 3, stride, 1, bias=False), b),
                "second": after(nn.Conv2d(b, b, 3, 1, 1, bias=False), b),
            }
            if stride > 1 or a != b:
                parts["shortcut"] = after(nn.Conv2d(a, b, 1, stride, bias=False), b)
            return nn.ModuleDict(parts)

        def decoder(a, b, stride):
            middle = nn.ConvTranspose2d(a // 4, a // 4, 3, stride, 1, output_padding=stride - 1, bias=False)
            return nn.Sequential(
                *(after(nn.Conv2d(a, a // 4, 1, bias=False), a // 4), nn.ReLU()),
                *(after(middle, a // 4), nn.ReLU()),
                *(after(nn.Conv2d(a // 4, b, 1, bias=False), b), nn.ReLU()),
            )

        self.initial = after(nn.Conv2d(3, w, 7, 2, 3, bias=False), w)
        sizes = [(w, w, 1), (w, 2 * w, 2), (2 * w, 4 * w, 2), (4 * w, 8 * w, 2)]
        self.encoders = nn.ModuleList(nn.ModuleList([basic(a, b, s), basic(b, b, 1)]) for a, b, s in sizes)
        self.decoders = nn.ModuleList(decoder(b, a, s) for a, b, s in reversed(sizes))
        self.full = after(nn.ConvTranspose2d(w, w // 2, 3, 2, 1, output_padding=1, bias=False), w // 2)
        self.smooth = after(nn.Conv2d(w // 2, w // 2, 3, 1, 1, bias=False), w // 2)
        self.last = nn.ConvTranspose2d(w // 2, classes, 2, 2)

    def forward(self, x):
        x = start = F.max_pool2d(torch.relu(self.initial(x)), 3, 2, 1)
        skips = []
        for encoder in self.encoders:
            for block in encoder:
                found = block["second"](torch.relu(block["first"](x)))
                x = torch.relu(found + (block["shortcut"](x) if "shortcut" in block else x))
            skips.append(x)
        skips.pop()
        for number, decoder in enumerate(self.decoders):
            x = decoder(x) + (skips.pop() if number < 3 else start)
        return self.last(torch.relu(self.smooth(torch.relu(self.full(x)))))


def in_order(network, x):
    """The layers with weights of their own, in the order in which they are used."""
    found, hooks = [], []
    for module in network.modules():
        if list(module.parameters(recurse=False)):
            hooks.append(module.register_forward_pre_hook(lambda layer, _: found.append(layer)))
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return found


def same_weights(ours, plain, x, around=0):
    """Give the plain network our weights, layer by layer; the pairs of layers."""
    seen = F.pad(x, (around,) * 4, mode="reflect") if around else x
    pairs = list(zip(in_order(ours, x), in_order(plain, seen), strict=True))
    for own, other in pairs:
        assert type(own) is type(other)
        other.load_state_dict(own.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in plain.parameters())
    return pairs


def made(config):
    """One of our networks in float64, its batch normalisation with statistics of its own."""
    torch.manual_seed(0)
    network = build_network(config, 3).apply(initialise).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network


def compare(ours, plain, pairs, x, around=0):
    """Outputs and the gradients of all weights, of our network and the plain one."""
    seen = F.pad(x, (around,) * 4, mode="reflect") if around else x
    outputs = []
    for network, given in ((ours, x), (plain, seen)):
        torch.manual_seed(3)  # of dropout
        outputs.append(network(given))
    edge = (outputs[1].shape[-1] - outputs[0].shape[-1]) // 2
    outputs[1] = outputs[1][..., edge : -edge or None, edge : -edge or None]
    assert outputs[0].std() > 1e-3
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-9, atol=1e-9)
    weights = torch.randn(outputs[0].shape, dtype=torch.float64)
    for output in outputs:
        (output * weights).sum().backward()
    for own, other in pairs:
        for name, parameter in own.named_parameters(recurse=False):
            expected = getattr(other, name).grad
            assert expected.abs().sum() > 0, name
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-7, atol=1e-8)


UNETS = {
    "without normalisation": ({"norm": "none"}, {"norm": False}),
    "dropout in blocks": ({"block_dropout": 0.4}, {"dropout": 0.4}),
    "neither": ({"norm": "none", "block_dropout": 0.2}, {"norm": False, "dropout": 0.2}),
    "residual and strided": ({"residual": True, "down": "stride"}, {"residual": True, "strided": True}),
    "residual, dropout": ({"residual": True, "block_dropout": 0.3}, {"residual": True, "dropout": 0.3}),
    "valid": ({"padding": "mirror", "norm": "none"}, {"valid": True, "norm": False}),
    "valid with the rest": (
        {"padding": "mirror", "residual": True, "down": "stride", "block_dropout": 0.2, "norm": "none"},
        {"valid": True, "residual": True, "strided": True, "dropout": 0.2, "norm": False},
    ),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", UNETS)
def test_a_unet_is_the_plain_one(name, training):
    options, plain_options = UNETS[name]
    ours = made(UNetConfig(depth=2, width=4, **options)).train(training)
    plain = PlainUNet(2, 4, **plain_options).double().train(training)
    around = around_valid(2) if "valid" in name else 0
    x = torch.randn(2, 3, 40, 32, dtype=torch.float64)
    pairs = same_weights(ours, plain, x, around)
    compare(ours, plain, pairs, x, around)


def test_valid_convolutions_have_the_sizes_of_the_paper():
    """Figure 1: 572 pixels become 388; ours are the 384 in their middle, in whole strides."""
    config = UNetConfig(depth=4, width=2, padding="mirror", norm="none")
    ours, plain = made(config), PlainUNet(4, 2, norm=False, valid=True).double()
    x = torch.randn(1, 3, 384, 384, dtype=torch.float64)
    assert around_valid(4) == 94
    tile = F.pad(x, (94,) * 4, mode="reflect")
    assert tile.shape[-2:] == (572, 572)
    same_weights(ours, plain, x, 94)
    with torch.no_grad():
        expected = plain(tile)
        assert expected.shape[-2:] == (388, 388)
        torch.testing.assert_close(ours(x), expected[..., 2:-2, 2:-2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_valid_convolutions_of_every_depth_keep_the_size(depth):
    network = build_network(UNetConfig(depth=depth, width=1, padding="mirror", stem="space_to_depth"), 3).eval()
    side = 2 * 2**depth
    assert network(torch.rand(1, 3, 2 * side, side)).shape == (1, 1, side, side // 2)


@pytest.mark.parametrize("stem", ["plain", "space_to_depth"])
def test_nothing_is_mirrored_where_there_are_real_pixels(stem, monkeypatch):
    config = UNetConfig(depth=2, width=3, padding="mirror", stem=stem, norm="none")
    network = made(config).eval()
    x = torch.randn(1, 3, 20 * config.stride, 24 * config.stride, dtype=torch.float64)
    edge = -(-22 * config.grain // config.stride) * config.stride
    keep = Window(edge + 3, edge, 2 * config.stride, 5 * config.stride - 1)
    double = torch.nn.Upsample(scale_factor=float(config.grain))
    with torch.no_grad():
        expected = double(network(x))[(..., *keep.slices())]
        monkeypatch.setattr("napari_msunet.models.networks.unet.mirrored", None)
        found = run_within(network, x, keep, double)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_line_is_mirrored_again_and_again():
    x = torch.arange(4.0).view(1, 1, 1, 4)
    assert mirrored(x, 0, 0, 3, 2).flatten().tolist() == F.pad(x, (3, 2, 0, 0), mode="reflect").flatten().tolist()
    assert mirrored(x, 0, 0, 7, 0).flatten().tolist() == [1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3]
    assert mirrored(x, 2, 1, 0, 0).shape == (1, 1, 4, 4)


def test_a_published_linknet_is_the_plain_one():
    config = ModelConfig(
        classes=("a", "b"),
        mpp=1,
        scales=(1,),
        fusion="mean",
        branch=LinkNetConfig(depth=5, width=8, layout="published"),
    )
    torch.manual_seed(0)
    model = build_model(config).double()
    network, head = model.branches[0].network, model.branches[0].head
    plain = PlainLinkNet(8, 3).double()
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    normal = (x - 0.5) / 0.25
    mapped = list(zip(in_order(network, normal), in_order(plain, normal)[:-1], strict=True))
    for own, other in mapped:
        other.load_state_dict(own.state_dict())
    with torch.no_grad():
        plain.last.weight.copy_(head.weight.view(3, 2, 2, 4).permute(3, 0, 1, 2))
        head.offset.copy_(torch.tensor([0.1, -0.2, 0.3]))
        plain.last.bias.copy_(head.offset)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters())
    found, expected = model.branch_logits([x])[0], plain(normal)
    assert found.shape == (2, 3, 64, 96)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights = torch.randn(found.shape, dtype=torch.float64)
    for output in (found, expected):
        (output * weights).sum().backward()
    for own, other in mapped:
        for name, parameter in own.named_parameters(recurse=False):
            torch.testing.assert_close(parameter.grad, getattr(other, name).grad, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(head.offset.grad, plain.last.bias.grad)
    torch.testing.assert_close(head.weight.grad.view(3, 2, 2, 4).permute(3, 0, 1, 2), plain.last.weight.grad)


def test_the_linknet_of_the_paper_has_its_parameters():
    branch = LinkNetConfig(depth=5, width=64, layout="published")
    with torch.device("meta"):
        ours = build_model(ModelConfig(classes=("a",), mpp=1, scales=(1,), fusion="mean", branch=branch))
        plain = PlainLinkNet(64, 2)
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in plain.parameters())
    assert 11.4e6 < count < 11.7e6  # "11.5 million"
    assert branch.stride == 32


def test_dropout_in_blocks_keeps_the_names_of_weights():
    plain, dropped = (build_network(UNetConfig(depth=1, width=2, block_dropout=p), 3) for p in (0.0, 0.5))
    assert plain.state_dict().keys() == dropped.state_dict().keys()
    x = torch.rand(1, 3, 8, 8)
    assert not torch.equal(dropped(x), dropped(x))
    assert torch.equal(dropped.eval()(x), dropped(x))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: UNetConfig(padding="mirror", dense=True, context=True), "cannot be done with dense and context"),
        (lambda: UNetConfig(padding="mirror", up="resize"), 'with up="resize"'),
        (lambda: LinkNetConfig(padding="mirror"), "crops the skips of a U-Net"),
        (lambda: HRNetConfig(padding="mirror"), "crops the skips of a U-Net"),
        (lambda: LinkNetConfig(layout="published", depth=2), "depth of 3 or more"),
        (lambda: ModelConfig(classes=("a",), mpp=1, fusion="inject", branch=UNetConfig(padding="mirror")), "crops"),
    ],
)
def test_networks_that_cannot_be_made_are_refused(make, says):
    with pytest.raises(ValidationError, match=says):
        make()
