"""Sampling and loading: where windows lie, what is in them, and that memory and order are as promised."""

import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from data.making import array_item
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_msunet.config import ModelConfig, UNetConfig
from napari_msunet.constants import IGNORED
from napari_msunet.data.loader import (
    Batch,
    Crops,
    TrainBatches,
    ValidationBatches,
    WindowSample,
    as_tensor,
    as_unit,
    collate,
    read_ahead,
)
from napari_msunet.data.sampling import Sampler, known_cells, validation_spots
from napari_msunet.geometry import Window
from napari_msunet.models import input_windows

CONFIG = ModelConfig(classes=("a",), mpp=1.0, scales=(1.0, 0.5, 0.25), branch=UNetConfig(depth=1, width=2))


def crops(config: ModelConfig = CONFIG, limit: int | None = None) -> Crops:
    return Crops(config.ratios, partial(input_windows, config), limit)


def image(height: int = 60, width: int = 90, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (height, width), dtype=np.uint8)


@pytest.mark.parametrize("field", ["same", "concentric"])
@pytest.mark.parametrize("mpp", [1.0, 1.7])
@settings(max_examples=15, deadline=None)
@given(y=st.integers(-8, 16), x=st.integers(-8, 20))
def test_cached_and_windowed_reading_are_the_same(field, mpp, y, x):
    config = CONFIG.model_copy(update={"field": field})
    item = array_item(image(), mpp=mpp)
    window = Window(y * 4, x * 4, 32, 32)
    small, large = (crops(config, limit).read(item, window, (5, 3, 2), 5) for limit in (1 << 30, 0))
    for a, b in zip([*small.inputs, small.truth], [*large.inputs, large.truth], strict=True):
        np.testing.assert_array_equal(a, b)
    sides = [32, 16, 8] if field == "same" else [32, 32, 32]
    assert [i.shape[:2] for i in small.inputs] == [(s + 2 * p,) * 2 for s, p in zip(sides, (5, 3, 2), strict=True)]
    assert small.truth.shape == (42, 42)


def test_scales_are_averages_of_one_place():
    item = array_item(np.kron(image(20, 24), np.ones((4, 4), np.uint8)))
    sample = crops().read(item, Window(16, 24, 32, 32))
    np.testing.assert_array_equal(sample.inputs[0][::4, ::4], sample.inputs[2])
    np.testing.assert_array_equal(sample.inputs[0][..., 0], sample.truth)


def test_the_cache_keeps_to_its_limit():
    items = [array_item(image(64, 64, n), f"i{n}") for n in range(6)]
    reader = crops(limit=50_000)
    for item in items:
        reader.read(item, Window(0, 0, 16, 16))
    assert 0 < reader._cache.nbytes <= 50_000
    # Closed once they are held whole, so that any number of files can be trained on.
    assert not any(item._kept for item in items)


def test_dense_images_are_seen_everywhere():
    item = array_item(np.zeros((100, 140), np.uint8))
    sampler = Sampler([item], 32, 4, 0)
    assert len(sampler._looks) == round(100 * 140 / 32**2)
    seen = np.zeros((100, 140), int)
    for spot in sampler.epoch(0, 400):
        assert spot.window.y % 4 == 0
        assert spot.window.x % 4 == 0
        inside = spot.window.intersection(Window(0, 0, 100, 140))
        seen[inside.slices()] += 1
    assert seen.min() > 0


def test_small_images_lie_inside_their_window():
    item = array_item(np.zeros((20, 24), np.uint8))
    for spot in Sampler([item], 32, 4, 0).epoch(0, 50):
        assert spot.window.intersection(Window(0, 0, 20, 24)).shape == (20, 24)


def test_sparse_annotations_are_found_and_balanced():
    truth = np.full((2000, 3000), IGNORED, np.uint8)
    truth[100:400, 100:900] = 0
    truth[1500:1510, 2500:2510] = 1
    item = array_item(truth)
    sampler = Sampler([item], 64, 4, 0)
    spots = list(sampler.epoch(0, 100))
    found = [item.truth_on_target(s.window) for s in spots]
    assert all((t != IGNORED).any() for t in found)
    assert 25 < sum((t == 1).any() for t in found) < 75
    assert {s.window for s in sampler.epoch(0, 100)} == {s.window for s in spots}
    assert {s.window for s in sampler.epoch(1, 100)} != {s.window for s in spots}


@settings(max_examples=30, deadline=None)
@given(height=st.integers(5, 120), width=st.integers(5, 120), size=st.sampled_from([16, 32]), seed=st.integers(0, 99))
def test_validation_windows_cover_all_truth_once(height, width, size, seed):
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random((height, width)) < 0.02, 1, IGNORED).astype(np.uint8)
    item = array_item(truth)
    spots = validation_spots([item], size, 4, 1000)
    assert {s.core for s in spots} == set(known_cells(item, size, 4))
    counts = np.zeros(truth.shape, int)
    for spot in spots:
        assert (spot.window.y % 4, spot.window.x % 4, *spot.window.shape) == (0, 0, size, size)
        assert spot.core.intersection(spot.window) == spot.core
        counts[spot.core.slices()] += 1
        assert (truth[spot.core.slices()] != IGNORED).any()
        # What sticks out of the image is less than a step, unless the image is smaller.
        inside = spot.window.intersection(Window(0, 0, height, width))
        assert inside.height > min(height, size) - 4
        assert inside.width > min(width, size) - 4
    assert counts.max(initial=0) <= 1
    assert (counts[truth != IGNORED] == 1).all()
    counted = sum(int((b.target == 1).sum()) for b in ValidationBatches(crops(), spots, 3))
    assert counted == (truth == 1).sum()


def test_validation_windows_are_limited_and_spread():
    items = [array_item(np.zeros((128, 128), np.uint8), f"i{n}") for n in range(10)]
    spots = validation_spots(items, 32, 4, 64)
    assert len(spots) == 64
    assert {s.item.name for s in spots} == {f"i{n}" for n in range(10)}


def test_half_of_the_validation_windows_hold_a_class():
    truth = np.zeros((320, 640), np.uint8)
    truth[:96, :96] = 1
    spots = validation_spots([array_item(truth)], 32, 4, 12)
    assert len(spots) == 12
    assert sum(truth[s.window.slices()].any() for s in spots) == 6
    assert len(validation_spots([array_item(truth)], 32, 4, 500)) == 200


def test_batches_are_the_same_for_the_same_epoch():
    items = [array_item(image(80, 80, n), f"i{n}") for n in range(3)]
    a, b = (TrainBatches(crops(), Sampler(items, 32, 4, 7), 4, 3, (0, 0, 0), 0) for _ in range(2))
    first, second, again = list(a), list(a), list(b)
    assert [x.target.shape for x in first] == [(4, 32, 32)] * 3
    assert [i.shape for i in first[0].inputs] == [(4, 3, 32, 32), (4, 3, 16, 16), (4, 3, 8, 8)]
    assert first[0].inputs[0].dtype == torch.uint8
    assert all(torch.equal(x.target, y.target) and x.seed == y.seed for x, y in zip(first, again, strict=True))
    assert not all(torch.equal(x.target, y.target) for x, y in zip(first, second, strict=True))
    assert first[0].seed != second[0].seed


def test_validation_batches_are_read_once():
    item = array_item(image(80, 80))
    reads = []
    reader = crops()
    read = reader.read
    reader.read = lambda *a: (reads.append(1), read(*a))[1]  # type: ignore[method-assign]
    batches = ValidationBatches(reader, validation_spots([item], 32, 4, 64), 4)
    once, twice = list(batches), list(batches)
    assert len(reads) == 9
    assert len(batches) == len(once) == 3
    assert all(torch.equal(a.target, b.target) for a, b in zip(once, twice, strict=True))


def test_validation_batches_are_kept_and_threads_end_when_nobody_asks_for_more_than_the_last():
    batches = ValidationBatches(crops(), validation_spots([array_item(image(80, 80))], 32, 4, 64), 4)
    iterator = iter(batches)
    for _ in range(len(batches)):
        next(iterator)
    assert batches._kept is not None
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


def test_closing_in_the_middle_of_an_epoch_ends_the_threads():
    batches = TrainBatches(crops(), Sampler([array_item(image(80, 80))], 32, 4, 0), 2, 50, (0, 0, 0), 0)
    iterator = iter(batches)
    next(iterator)
    assert threads()
    batches.close()
    assert not threads()


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("msunet-loader")]


def test_sixteen_bits_and_mixed_types():
    assert float(as_tensor(np.full((1, 1, 1), 65535, np.uint16))) == 1
    eight, sixteen = (np.full((4, 4, 1), v, t) for v, t in ((255, np.uint8), (65535, np.uint16)))
    batch = collate([WindowSample([p], np.zeros((4, 4), np.uint8)) for p in (eight, sixteen)], 0)
    assert batch.inputs[0].dtype == torch.float32
    assert torch.equal(as_unit(batch.inputs[0]), torch.ones(2, 1, 4, 4))


def test_reading_ahead_keeps_order_and_ends_when_closed():
    before = threading.active_count()
    made = []

    def job(n):
        def make():
            time.sleep(0.01 * (n % 3))
            made.append(n)
            return Batch([], torch.tensor(n), n)

        return make

    assert [b.seed for b in read_ahead([job(n) for n in range(9)])] == list(range(9))
    made.clear()
    batches = read_ahead([job(n) for n in range(100)])
    next(batches)
    batches.close()
    assert len(made) < 12
    assert threading.active_count() == before


def test_an_error_while_reading_travels():
    def broken():
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        list(read_ahead([broken]))
