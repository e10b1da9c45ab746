"""Where windows are taken: rare classes, hard places, within the sort that replay wants."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from data.making import ArrayTruth, array_item

from napari_msunet.config import Sampling
from napari_msunet.constants import IGNORED
from napari_msunet.data.sampling import ClassPlaces, HardExamples, Sampler, window_losses

SIZE = 32


def field(seed=0, rare=True, shape=(400, 500)):
    """Background, much of class 1, and at one place a little of class 2."""
    values = np.zeros(shape, np.uint8)
    values[:, 100:300] = 1
    if rare:
        values[200:206, 430:436] = 2
    return array_item(values, f"f{seed}", group=f"g{seed}")


def shares(sampler, count=400):
    found = [s.item.truth.read(s.window) for s in sampler.epoch(0, count)]
    return [np.mean([(v == c).any() for v in found]) for c in (0, 1, 2)]


def test_the_rare_class_is_seen():
    items = [field(), *(field(n, rare=False) for n in range(1, 6))]
    plain = shares(Sampler(items, SIZE, 2, 0))
    balanced = shares(Sampler(items, SIZE, 2, 0, sampling=Sampling(balance=0.6)))
    assert plain[2] < 0.15
    assert balanced[2] == pytest.approx(plain[2] * 0.4 + 0.2, abs=0.06)
    assert min(balanced[:2]) > 0.2


def test_off_changes_nothing():
    items = [field(), field(1)]
    a, b = (
        [(s.item.name, s.window) for s in Sampler(items, SIZE, 2, 3, sampling=o).epoch(0, 50)]
        for o in (None, Sampling())
    )
    assert a == b


class SmallReads(ArrayTruth):
    """A truth of which only an overview and small windows are read."""

    def overview(self):
        coarse = self.values[::8, ::8]
        return coarse, type(self.grid)(self.values.shape, (8.0, 8.0))

    def read(self, window):
        assert window.height * window.width <= 64**2
        return super().read(window)


def test_a_large_slide_is_not_read_whole():
    values = np.full((4000, 4000), IGNORED, np.uint8)
    values[2000:2016, 3000:3400] = 1
    values[100:140, 100:140] = 0
    item = replace(array_item(values[:64, :64]), truth=SmallReads(values))
    item._known["facts"] = array_item(values).facts
    sampler = Sampler([item], SIZE, 2, 0, sampling=Sampling(balance=1.0))
    found = [item.truth.read(s.window) for s in sampler.epoch(0, 60)]
    assert all((v != IGNORED).any() for v in found)
    assert 0.3 < np.mean([(v == 1).any() for v in found]) < 0.7


def test_places_are_bounded():
    items = [array_item(np.ones((900, 900), np.uint8), group="a")] * 2
    places = ClassPlaces(items)
    assert all(4000 < len(p[1]) <= 4096 for p in places._found)
    assert places.draw([0], np.random.default_rng(0))[0] == 0
    empty = ClassPlaces([array_item(np.full((9, 9), IGNORED, np.uint8))])
    assert empty.draw([0], np.random.default_rng(0)) is None


def test_hard_places_come_again_and_go_when_learned():
    items = [field(n) for n in range(4)]
    sampler = Sampler(items, SIZE, 2, 0, sampling=Sampling(hard=0.5))
    hard = (2, 64, 128)
    sampler.hard.add([hard, (1, 0, 0), (3, 10, 10)], [5.0, 0.1, float("nan")])
    spots = list(sampler.epoch(0, 200))
    again = [s for s in spots if (s.number, s.window.y, s.window.x) == hard]
    assert 0.4 < len(again) / len(spots) < 0.6
    assert all(s.item is items[2] for s in again)
    sampler.hard.add([hard], [0.001])
    assert not any((s.number, s.window.y, s.window.x) == hard for s in sampler.epoch(1, 100))


def test_hard_places_are_bounded_and_fade():
    places = HardExamples(limit=10)
    for n in range(100):
        places.add([(n, 0, 0)], [1.0 + (n == 50) * 5])
    assert len(places) == 10
    rng = np.random.default_rng(0)
    assert (50, 0, 0) in {places.draw(rng) for _ in range(50)}
    # What was seen long ago counts less than the same loss now.
    early, late = HardExamples(), HardExamples()
    for step in range(500):
        early.add([(0, 0, 0)] if step == 0 else [(1, 0, 0)] if step == 499 else [], [1.0] * (step in (0, 499)))
        late.add([], [])
    assert {early.draw(rng) for _ in range(20)} == {(1, 0, 0)}
    assert late.draw(rng) is None
    assert places.draw(rng, items=[7]) is None


def test_no_number_grows_without_end():
    places = HardExamples()
    for _ in range(60_000):
        places.add([(0, 0, 0)], [1.0])
    assert places._scale < 1e100
    assert places.draw(np.random.default_rng(0)) == (0, 0, 0)


def test_replay_keeps_its_share():
    items = [field(0), replace(field(1), corrected=True), field(2)]
    sampler = Sampler(items, SIZE, 2, 0, 0.25, Sampling(balance=0.5, hard=0.3))
    sampler.hard.add([(0, 0, 0), (1, 0, 0), (2, 4, 4)], [1.0, 1.0, 1.0])
    corrected = [s.item.corrected for s in sampler.epoch(0, 80)]
    assert np.mean(corrected) == pytest.approx(0.75, abs=0.02)


def test_losses_of_windows():
    logits = torch.zeros(3, 2, 4, 4)
    logits[0, 1] = 9.0
    target = torch.zeros(3, 4, 4, dtype=torch.long)
    target[2] = IGNORED
    first, second, none = window_losses(logits, target)
    assert first == pytest.approx(9.0, abs=0.01)
    assert second == pytest.approx(np.log(2), abs=1e-5)
    assert np.isnan(none)


def test_shares_beyond_one():
    with pytest.raises(ValueError, match="together at most 1"):
        Sampling(balance=0.7, hard=0.4)
