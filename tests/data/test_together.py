"""Batches of one slide: for slide normalisation, in training and in validation."""

from dataclasses import replace

import numpy as np
import pytest
from data.making import array_item

from napari_msunet.data.sampling import Sampler, in_batches, validation_spots


@pytest.fixture
def items():
    rng = np.random.default_rng(0)
    made = [array_item(rng.integers(0, 200, (90, 90), dtype=np.uint8), f"i{n}") for n in range(5)]
    return [replace(item, group=group) for item, group in zip(made, ("a", "a", "b", None, None), strict=True)]


def groups_of(spots):
    return {spot.item.group or spot.item.name for spot in spots}


def test_windows_of_a_batch_come_from_one_group(items):
    sampler = Sampler(items, 32, 4, seed=1)
    spots = list(sampler.epoch(0, 120, together=6))
    batches = [spots[i : i + 6] for i in range(0, 120, 6)]
    assert all(len(groups_of(batch)) == 1 for batch in batches)
    assert groups_of(spots) == {"a", "b", "i3", "i4"}
    first, other = next(b for b in batches if groups_of(b) == {"a"}), next(b for b in batches if groups_of(b) == {"b"})
    assert len({spot.item.name for batch in batches if groups_of(batch) == {"a"} for spot in batch}) == 2
    assert len({spot.window for spot in first}) > 1 < len({spot.window for spot in other})
    again = list(Sampler(items, 32, 4, seed=1).epoch(0, 120, together=6))
    assert [(s.item.name, s.window) for s in again] == [(s.item.name, s.window) for s in spots]
    mixed = list(sampler.epoch(0, 120))
    assert any(len(groups_of(mixed[i : i + 6])) > 1 for i in range(0, 120, 6))


def test_validation_too_and_no_window_is_lost(items):
    spots = validation_spots(items, 32, 4, 64)
    batches = in_batches(spots, 4, together=True)
    assert all(len(groups_of(batch)) == 1 and len(batch) <= 4 for batch in batches)
    assert sorted(map(id, (s for b in batches for s in b))) == sorted(map(id, spots))
    assert [len(b) for b in in_batches(spots, 4, together=False)][:-1] == [4] * (-(-len(spots) // 4) - 1)
