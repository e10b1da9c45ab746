"""The plan covers every wanted pixel once, on the alignment, whatever is asked for; cheap rectangles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_msunet.config import ModelConfig, UNetConfig
from napari_msunet.constants import CHUNK
from napari_msunet.geometry import Grid, Window, round_up
from napari_msunet.inference.plan import Cost, Plan, Request, cover, make_plan, margin_of
from napari_msunet.inference.setup import readable_margins

SCALES = st.sampled_from([(1.0,), (1.0, 0.5, 0.25), (0.5, 0.25), (2.0, 1.0), (1.0, 2 / 3), (1.0, 1 / 3, 0.5)])
GRID = Grid((1500.0, 1500.0), (1.0, 1.0), None)


class Spots:
    """A mask of some squares."""

    def __init__(self, places):
        self.places = places
        self.key = {"spots": places}

    def on(self, grid, window):
        found = np.zeros((1600, 1600), bool)
        for y, x, side in self.places:
            found[y : y + side, x : x + side] = True
        return found[window.slices()]

    def cells(self, grid, window, cell):
        values = self.on(grid, window)
        rows, columns = -(-window.height // cell), -(-window.width // cell)
        out = np.zeros((rows, columns), bool)
        for y in range(rows):
            for x in range(columns):
                out[y, x] = values[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell].any()
        return out


def request(config, window, **more):
    margins = [(24,) * len(config.scales)]
    return Request(configs=[config], exact_margins=margins, grid=GRID, window=window, **more)


@settings(max_examples=60, deadline=None)
@given(
    scales=SCALES,
    y=st.integers(0, 300),
    x=st.integers(0, 300),
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    tile=st.one_of(st.none(), st.integers(16, 400)),
    batch=st.integers(1, 5),
    limit=st.integers(40_000, 500_000),
    spots=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900), st.integers(1, 300)), max_size=4),
    unit=st.integers(100, 1500),
)
def test_tiles_cover_the_wanted_window_once(scales, y, x, height, width, tile, batch, limit, spots, unit):
    config = ModelConfig(classes=("a",), mpp=1, scales=scales, branch=UNetConfig(depth=2, width=4))
    window, mask = Window(y, x, height, width), Spots(spots) if spots else None
    plan = make_plan(request(config, window, mask=mask, tile=tile, batch=batch, limit=limit, unit=unit))
    count = np.zeros((2200, 2200), int)
    indices = []
    for unit_plan in plan.units:
        # processes that compute different units never write the same chunk
        assert Window(*unit_plan.window).aligned(CHUNK).intersection(window.aligned(plan.alignment)) == Window(
            *unit_plan.window
        )
        for tiles in plan.batches(unit_plan):
            assert len(tiles) <= batch
            assert len({t.window.shape for t in tiles}) == 1
            for one in tiles:
                indices.append(one.index)
                count[one.window.slices()] += 1
                assert all(v % config.size_multiple == 0 for v in (one.window.y, one.window.x, *one.window.shape))
                if tile is not None:
                    assert max(one.window.shape) <= round_up(tile, config.size_multiple)
                for s, stream in enumerate(plan.streams):
                    own = one.window.times(stream.ratio)
                    pieces = [Window(*box).intersection(own) for box in unit_plan.pieces[s]]
                    if stream.in_pieces:
                        assert sum(p.height * p.width for p in pieces if not p.empty) == own.height * own.width
    assert sorted(indices) == list(range(plan.tiles))
    assert count.max(initial=0) <= 1
    wanted = np.zeros_like(count, bool)
    wanted[window.slices()] = True if mask is None else mask.on(GRID, window)
    assert count[wanted].min(initial=1) == 1


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 24), st.integers(0, 100), st.integers(100, 2_000_000)
)
def test_rectangles_cover_the_true_cells_once_within_the_limit(seed, rows, columns, margin, limit):
    cells = np.random.default_rng(seed).random((rows, columns)) < 0.4
    cost = Cost(64, margin, limit)
    count = np.zeros(cells.shape, int)
    for box in cover(cells, cost):
        count[box.slices()] += 1
        assert cost.fits(box.height, box.width)
    assert count.max(initial=0) <= 1
    assert (count[cells] == 1).all()


def test_rectangles_cost_less_than_the_bounding_box_and_than_single_cells():
    yy, xx = np.mgrid[:48, :48]
    ring = abs(np.hypot(yy - 24, xx - 24) - 18) < 4
    cost = Cost(128, 96, 3_000_000)
    paid = sum(cost.one(box.height, box.width) for box in cover(ring, cost))
    assert paid < 0.8 * cost.bounding(ring)
    assert paid < 0.5 * ring.sum() * cost.one(1, 1)


def test_a_plan_is_the_same_after_json():
    config = ModelConfig(classes=("a",), mpp=1)
    plan = make_plan(request(config, Window(0, 0, 5000, 3000), margin="fast", batch=2, threads=2))
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert again.through == plan.through
    assert again.batches(again.units[0]) == plan.batches(plan.units[0])


def test_three_scales_do_at_most_a_third_more_than_their_pixels_with_room():
    config = ModelConfig(classes=("a",), mpp=1)
    whole = Window(0, 0, 8192, 8192)
    plan = make_plan(Request([config], [(96, 96, 96)], GRID, whole, limit=5_300_000))
    assert plan.margin_free == 8192**2 * (1 + 1 / 4 + 1 / 16)
    assert plan.through < 1.3 * plan.margin_free
    one = make_plan(Request([ModelConfig(classes=("a",), mpp=1, scales=(1.0,))], [(96,)], GRID, whole, limit=5_300_000))
    assert plan.through < 1.36 * one.through


@pytest.mark.parametrize(("margin", "expected"), [("exact", 96), ("fast", 48), (16, 16), (17, 16), (40, 32), (0, 16)])
def test_margins_are_rounded_up_to_the_stride_of_the_branch(margin, expected):
    config = ModelConfig(classes=("a",), mpp=1, scales=(0.5,))
    assert margin_of(margin, 96, config.ratios[0], 16) == expected


@pytest.mark.parametrize(
    ("strides", "limit", "kept"),
    [(40, 10**5, True), (41, 10**5, False), (41, 10**7, True), (None, 10**7, False)],
)
def test_a_margin_that_is_very_far_is_read_only_where_it_fits(strides, limit, kept):
    config = ModelConfig(classes=("a",), mpp=1, scales=(1.0,), branch=UNetConfig(depth=3))
    margin = None if strides is None else strides * 8
    assert readable_margins(config, (margin,), limit) == ((margin if kept else None),)
    joint = config.model_copy(update={"upscale": 2})
    assert readable_margins(joint, (41 * joint.size_multiple,), 10**4) == (None,)
