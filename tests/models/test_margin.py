"""Promise 1: the margin is measured, it is enough, and one step less is not."""

from math import ceil, floor, inf

import pytest
import torch
from torch import nn

from napari_msunet.config import ModelConfig, UNetConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window, round_up
from napari_msunet.models import build_model
from napari_msunet.models.networks import UNet
from napari_msunet.models.receptive_field import measure_reach


def theory(depth):
    """Reach of two 3x3 convolutions at each resolution, down and up again, from a stride-aligned edge."""
    reach = 2
    for _ in range(depth):
        reach = -(-reach // 2) + 2
    for _ in range(depth):
        reach = 2 * reach + 2
    return reach


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_reach_of_a_unet(depth):
    assert measure_reach(UNet(UNetConfig(depth=depth, width=2), 3), 3, 2**depth).aligned == theory(depth)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_reach_at_every_phase(depth):
    """Against every phase one by one, which measuring leaves out where two phases agree."""
    stride = 2**depth
    network = UNet(UNetConfig(depth=depth, width=2), 1).eval().double()
    reaches = []
    for phase in range(stride):
        x = torch.rand(1, 1, 24 * stride, stride, dtype=torch.float64)
        x[:, :, : stride + phase] = torch.nan
        with torch.no_grad():
            finite = network(x).isfinite().all(dim=1).all(dim=2)[0]
        reaches.append(int(torch.nonzero(~finite).max()) + 1 - stride - phase)
    assert measure_reach(network, 1, stride) == (reaches[0], max(reaches))


def test_margins_of_the_usual_model():
    model = build_model(ModelConfig(classes=("a",), mpp=0.5, branch=UNetConfig(depth=4, width=2)))
    assert model.exact
    assert model.reaches == ((94, 107),) * 3
    assert model.branch_margins == (96, 96, 96)
    assert model.margin == 448  # 107 + 1 pixels at scale 1/4, on a multiple of 64


def test_a_coarse_branch_needs_one_more_pixel():
    model = build_model(ModelConfig(classes=("a",), mpp=0.5, scales=(1, 0.5), branch=UNetConfig(depth=1, width=2)))
    assert model.reaches == ((8, 9), (8, 9))
    assert model.branch_margins == (8, 10)
    assert model.margin == 20


@pytest.mark.parametrize(("scales", "depth"), [((1, 0.5), 1), ((1,), 2), ((2, 2 / 3), 1), ((0.75,), 2)])
def test_a_window_with_the_margin_may_begin_and_end_anywhere(scales, depth):
    branch = UNetConfig(depth=depth, width=2)
    model = (
        build_model(ModelConfig(classes=("a",), mpp=0.5, scales=scales, fusion="mean", branch=branch)).eval().double()
    )
    step, margin = model.config.size_multiple, model.margin
    side = round_up(2 * margin + 6 * step, step)

    def reached(first, margin):
        """Whether NaN around a target window that begins at `first` and ends at a phase of its own gets through."""
        window = Window(first, first, side - 3 * step - first, side - 3 * step + 1)
        inputs = []
        for ratio in model.config.ratios:
            x = torch.full((1, 3, int(side * ratio), int(side * ratio)), torch.nan, dtype=torch.float64)
            rows, columns = (
                slice(floor(a * ratio), ceil(b * ratio)) for a, b in zip((first,) * 2, window.stop, strict=True)
            )
            x[..., rows, columns] = 0.5
            inputs.append(x)
        with torch.no_grad():
            logits = model(inputs)
        return not bool(logits[(..., *window.padded(-margin).slices())].isfinite().all())

    assert not any(reached(first, margin) for first in range(step))
    assert any(reached(first, margin - step) for first in range(step))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_nan_outside_the_margin_reaches_nothing_and_one_stride_nearer_it_does(depth, scale):
    config = ModelConfig(
        classes=("a",), mpp=0.5, scales=(scale,), fusion="concat", branch=UNetConfig(depth=depth, width=2)
    )
    model = build_model(config).eval().double()
    stride, margin = 2**depth, model.branch_margins[0]
    more = 1 if scale < 1 else 0  # the bilinear filter looks one coarse pixel further
    side = 2 * margin + 6 * stride
    useful = Window(margin + 2 * stride, margin + 2 * stride, 2 * stride, 2 * stride)

    def reached(nan_pixels):
        x = torch.rand(1, 3, side, side, dtype=torch.float64)
        x[nan_pixels.expand_as(x)] = torch.nan
        with torch.no_grad():
            z = model.run_branch(0, x)
        return not bool(z[(..., *useful.padded(more).slices())].isfinite().all())

    def outside(window, sides="tblr"):
        mask = torch.zeros(side, side, dtype=torch.bool)
        for name, slices in {
            "t": (slice(0, window.y), slice(None)),
            "b": (slice(window.stop[0], None), slice(None)),
            "l": (slice(None), slice(0, window.x)),
            "r": (slice(None), slice(window.stop[1], None)),
        }.items():
            if name in sides:
                mask[slices] = True
        return mask

    assert not reached(outside(useful.padded(margin)))
    for name in "tblr":
        assert reached(outside(useful.padded(margin - stride), name)), name
    for phase in range(stride):  # a single broken line at every phase of the stride
        line = torch.zeros(side, side, dtype=torch.bool)
        line[useful.y - margin - 1 - phase] = True
        line[:, useful.stop[1] + margin + phase] = True
        assert not reached(line), phase


def test_the_networks_own_weights_do_not_matter():
    network = UNet(UNetConfig(depth=2, width=2), 3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert measure_reach(network, 3, 4).aligned == theory(2)
    with torch.no_grad():
        network.up[0].block[0].weight.fill_(torch.nan)
    assert measure_reach(network, 3, 4).aligned == theory(2)
    assert network.training
    assert next(network.parameters()).dtype == torch.float32


class Gated(nn.Module):
    """Global pooling beside a convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return x * torch.sigmoid(x.mean(dim=(2, 3), keepdim=True))


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.InstanceNorm2d(2)),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4)),
        nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.BatchNorm2d(2, track_running_stats=False)),
        Gated(),
    ],
    ids=["instance norm", "group norm", "batch statistics", "global pooling"],
)
def test_a_network_that_sees_the_whole_tile_is_found_out(network):
    assert measure_reach(network, 3, 4) == (inf, inf)


def test_a_model_with_such_a_layer_says_so():
    model = build_model(ModelConfig(classes=("a",), mpp=0.5, branch=UNetConfig(depth=1, width=2)))
    model.branches[0].network.down[0][1] = nn.InstanceNorm2d(2)
    assert not model.exact
    with pytest.raises(ModelError, match="no margin"):
        _ = model.margin


@pytest.mark.parametrize(("kernel", "reach"), [(1, 0), (3, 1), (9, 4)])
def test_plain_convolutions(kernel, reach):
    assert measure_reach(nn.Conv2d(1, 1, kernel, padding=kernel // 2), 1, 1) == (reach, reach)


def test_one_sided_reach_counts():
    class Shift(nn.Module):
        def forward(self, x):
            return nn.functional.pad(x, (5, 0, 0, 0))[..., :-5]

    assert measure_reach(Shift(), 1, 2) == (5, 5)


class HRNetSkeleton(nn.Module):
    """The 3x3 convolutions of HRNet-W32 (Wang et al. 2021; stages of 1, 4 and 3 modules), a channel each."""

    def __init__(self, modules=(1, 4, 3), blocks=4):
        super().__init__()

        def convolution(stride=1):
            return nn.Conv2d(1, 1, 3, stride, 1)

        self.stem = nn.Sequential(convolution(2), convolution(2), *(convolution() for _ in range(4)))
        self.begin = nn.ModuleList(convolution(2) for _ in modules)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleDict(
                    {
                        "blocks": nn.ModuleList(
                            nn.Sequential(*(convolution() for _ in range(2 * blocks))) for _ in range(streams)
                        ),
                        "down": nn.ModuleList(
                            nn.ModuleList(
                                nn.Sequential(*(convolution(2) for _ in range(max(0, target - source))))
                                for source in range(streams)
                            )
                            for target in range(streams)
                        ),
                    }
                )
                for _ in range(count)
            )
            for streams, count in enumerate(modules, start=2)
        )

    def forward(self, x):
        streams = [self.stem(x.mean(1, keepdim=True))]
        for begin, stage in zip(self.begin, self.stages, strict=True):
            streams = [*streams, begin(streams[-1])]
            for module in stage:
                found = [block(s) for block, s in zip(module["blocks"], streams, strict=True)]
                streams = [
                    sum(up(paths[source](s), max(0, source - target)) for source, s in enumerate(found))
                    for target, paths in enumerate(module["down"])
                ]
        return up(sum(up(s, level) for level, s in enumerate(streams)), 2)


def up(x, levels):
    return nn.functional.interpolate(x, scale_factor=float(2**levels)) if levels else x


def test_a_network_that_sees_as_far_as_hrnet_w32_is_measured():
    """Its 80 convolutions at 1/16 and 1/32 reach further than 40 strides of 32 pixels."""
    torch.manual_seed(0)
    reach = measure_reach(HRNetSkeleton(), 3, 32)
    assert 40 * 32 < reach.aligned < 80 * 32
    assert reach.anywhere >= reach.aligned
    small = measure_reach(HRNetSkeleton((1, 1, 1), 1), 3, 32)
    assert small.aligned < 8 * 32
