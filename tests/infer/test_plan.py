"""The plan covers every wanted pixel once, on the alignment, whatever is asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_msunet.config import ModelConfig, UNetConfig
from napari_msunet.geometry import Window, round_up
from napari_msunet.infer.engine import unfinished
from napari_msunet.infer.plan import Plan, make_plan, margin_of

SCALES = st.sampled_from([(1.0,), (1.0, 0.5, 0.25), (0.5, 0.25), (2.0, 1.0), (1.0, 2 / 3), (1.0, 1 / 3, 0.5)])


@settings(max_examples=60, deadline=None)
@given(
    scales=SCALES,
    y=st.integers(0, 300),
    x=st.integers(0, 300),
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    tile=st.integers(1, 400),
    batch=st.integers(1, 5),
)
def test_tiles_cover_the_wanted_window_once(scales, y, x, height, width, tile, batch):
    config = ModelConfig(classes=("a",), mpp=1, scales=scales, branch=UNetConfig(depth=2, width=4))
    plan = make_plan(config, (24,) * len(scales), Window(y, x, height, width), "exact", tile, batch, "cpu", 1)
    assert plan.tile == round_up(tile, config.size_multiple)
    count = np.zeros((1500, 1500), int)
    indices = []
    for block in plan.blocks():
        for tiles in block.batches:
            assert len(tiles) <= batch
            assert len({t.window.shape for t in tiles}) == 1
            for one in tiles:
                indices.append(one.index)
                count[one.window.slices()] += 1
                assert all(v % config.size_multiple == 0 for v in (one.window.y, one.window.x, *one.window.shape))
                for scale in config.ratios:
                    one.window.times(scale)
    assert sorted(indices) == list(range(plan.tiles))
    assert count.max() == 1
    assert count[Window(y, x, height, width).slices()].min() == 1


def test_a_plan_is_the_same_after_json():
    config = ModelConfig(classes=("a",), mpp=1)
    plan = make_plan(config, (96, 96, 96), Window(0, 0, 5000, 3000), "fast", None, 2, "cpu", 2)
    again = Plan.model_validate_json(plan.model_dump_json())
    assert list(again.blocks()) == list(plan.blocks())


def test_batches_stay_whole_when_some_tiles_are_done():
    config = ModelConfig(classes=("a",), mpp=1, scales=(1.0,), branch=UNetConfig(depth=2, width=4))
    plan = make_plan(config, (24,), Window(0, 0, 256, 256), "exact", 64, 4, "cpu", 1)
    block = next(iter(plan.blocks()))
    first = block.batches[0]
    assert unfinished(block, {first[0].index})[0] == first
    assert unfinished(block, {t.index for t in first}) == list(block.batches[1:])


@pytest.mark.parametrize(("margin", "expected"), [("exact", 96), ("fast", 48), (16, 16), (17, 16), (40, 32), (0, 16)])
def test_margins_are_rounded_up_to_the_stride_of_the_branch(margin, expected):
    config = ModelConfig(classes=("a",), mpp=1, scales=(0.5,))
    assert margin_of(margin, 96, config.ratios[0], 16) == expected
