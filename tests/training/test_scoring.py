"""Scores against their published definitions, computed by hand or by brute force."""

import numpy as np
import pytest
from scipy.ndimage import label
from scipy.spatial.distance import cdist

from napari_msunet.training.scoring import (
    Overlaps,
    boundary_iou,
    hausdorff,
    instance_scores,
    mean_interval,
    outline_scores,
    pooled_interval,
)
from napari_msunet.training.scoring.image import parted
from napari_msunet.training.scoring.uncertainty import Calibration


def blobs(seed, shape=(90, 110), count=14):
    rng = np.random.default_rng(seed)
    out = np.zeros(shape, np.int32)
    for n in range(1, count + 1):
        y, x, r = rng.integers(0, shape[0]), rng.integers(0, shape[1]), rng.integers(3, 11)
        yy, xx = np.ogrid[: shape[0], : shape[1]]
        out[((yy - y) ** 2 + (xx - x) ** 2 < r * r) & (out == 0)] = n * 3
    return out


def brute(truth, predicted):
    """The definitions, pair by pair."""
    ts, ps = (
        [truth == n for n in np.unique(truth[truth > 0])],
        [predicted == n for n in np.unique(predicted[predicted > 0])],
    )
    iou = np.array([[(t & p).sum() / (t | p).sum() for p in ps] for t in ts])
    both = np.array([[(t & p).sum() for p in ps] for t in ts])
    sizes, others = np.array([t.sum() for t in ts]), np.array([p.sum() for p in ps])
    # AJI
    above = below = 0
    used = set()
    for n in range(len(ts)):
        best = int(iou[n].argmax())
        if iou[n, best] == 0:
            below += sizes[n]
            continue
        used.add(best)
        above += both[n, best]
        below += sizes[n] + others[best] - both[n, best]
    below += sum(others[m] for m in range(len(ps)) if m not in used)
    matches = iou > 0.5
    dq = 2 * matches.sum() / (len(ts) + len(ps))
    sq = iou[matches].mean() if matches.any() else 0.0
    one = sum(sizes[n] / sizes.sum() * 2 * both[n, both[n].argmax()] / (sizes[n] + others[both[n].argmax()])
              for n in range(len(ts)) if both[n].max() > 0)  # fmt: skip
    two = sum(others[m] / others.sum() * 2 * both[both[:, m].argmax(), m] / (others[m] + sizes[both[:, m].argmax()])
              for m in range(len(ps)) if both[:, m].max() > 0)  # fmt: skip
    return {"aji": above / below, "pq": dq * sq, "dq": dq, "sq": sq, "object_dice": (one + two) / 2}


@pytest.mark.parametrize("seed", range(6))
def test_instances_by_their_definitions(seed):
    truth = blobs(seed)
    predicted = np.roll(blobs(seed), (2, -1), (0, 1)) if seed % 2 else blobs(seed + 50)
    found = instance_scores(Overlaps.of(truth, predicted))
    for name, value in brute(truth, predicted).items():
        assert found[name] == pytest.approx(value), name
    perfect = instance_scores(Overlaps.of(truth, truth * 7))
    assert all(v == pytest.approx(1) for v in perfect.values())


def test_instances_by_hand():
    truth = np.zeros((4, 10), int)
    truth[:, 0:4], truth[:, 6:10] = 1, 2
    predicted = np.zeros((4, 10), int)
    predicted[:, 1:4], predicted[0, 9], predicted[3, 5] = 5, 6, 7
    found = instance_scores(Overlaps.of(truth, predicted))
    assert found["dq"] == pytest.approx(2 / 5)
    assert found["sq"] == pytest.approx(12 / 16)
    assert found["aji"] == pytest.approx((12 + 1) / (16 + 16 + 1))
    assert found["detection_f1"] == pytest.approx(2 / 5)  # 1 of 16 pixels is not half
    known = np.ones_like(truth, bool)
    known[:, 5:] = False
    assert instance_scores(Overlaps.of(truth, predicted, known))["dq"] == 1
    nothing = instance_scores(Overlaps.of(truth * 0, predicted * 0))
    assert all(np.isnan(v) for v in nothing.values())
    assert instance_scores(Overlaps.of(truth, predicted * 0)) == pytest.approx(
        {"aji": 0, "pq": 0, "dq": 0, "sq": 0, "object_dice": 0, "detection_f1": 0}
    )


def test_touching_discs_are_parted():
    yy, xx = np.ogrid[:60, :100]
    discs = ((yy - 30) ** 2 + (xx - 32) ** 2 < 400) | ((yy - 30) ** 2 + (xx - 66) ** 2 < 400)
    assert label(discs)[1] == 1
    assert len(np.unique(parted(discs.astype(np.uint8)))) == 3


@pytest.mark.parametrize("percentile", [95.0, 100.0])
def test_hausdorff_is_the_distance_of_outlines(percentile):
    a, b = blobs(1) > 0, blobs(2) > 0
    pixel = (0.5, 0.8)

    def outline(mask):
        inner = mask.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                moved = np.roll(mask, step, axis)
                edge = [slice(None)] * 2
                edge[axis] = 0 if step == 1 else -1
                moved[tuple(edge)] = False
                inner &= moved
        return np.argwhere(mask & ~inner) * pixel

    distances = cdist(outline(a), outline(b))
    expected = max(np.percentile(distances.min(1), percentile), np.percentile(distances.min(0), percentile))
    assert hausdorff(a, b, pixel, percentile) == pytest.approx(expected)
    assert hausdorff(b, a, pixel, percentile) == pytest.approx(expected)
    assert hausdorff(a, a) == 0
    assert np.isnan(hausdorff(a & False, b & False))
    assert hausdorff(a, b & False) == np.inf


def test_boundary_iou_sees_what_iou_hides():
    big = np.zeros((200, 200), bool)
    big[20:180, 20:180] = True
    smaller = np.zeros_like(big)
    smaller[24:176, 24:176] = True
    iou = (big & smaller).sum() / (big | smaller).sum()
    assert boundary_iou(big, big) == 1
    assert boundary_iou(big, smaller) < 0.3 < 0.9 < iou
    width = round(0.02 * np.hypot(200, 200))
    ring = 160**2 - (160 - 2 * width) ** 2
    inner = 152**2 - (152 - 2 * width) ** 2
    common = 152**2 - (160 - 2 * width) ** 2
    assert boundary_iou(big, smaller) == pytest.approx(common / (ring + inner - common))


def test_ignored_pixels_have_no_outline():
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    predicted = truth.copy()
    predicted[:5] = 1
    assert outline_scores(truth, predicted, ("a",), (2.0, 2.0))["a"]["hausdorff95"] > 8
    truth[:5] = 255
    assert outline_scores(truth, predicted, ("a",), (2.0, 2.0))["a"] == {"hausdorff95": 0, "boundary_iou": 1}


def test_calibration_of_a_model_that_says_what_it_knows():
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, (300, 300)).astype(np.float32)
    truth = (rng.uniform(0, 1, p.shape) < p).astype(np.uint8)
    honest, boaster = Calibration(), Calibration()
    honest.add(np.stack([1 - p, p]), truth)
    loud = np.where(p > 0.5, 0.99, 0.01).astype(np.float32)
    for part in (slice(0, 100), slice(100, 300)):  # window by window
        one = Calibration()
        one.add(np.stack([1 - loud, loud])[:, part], truth[part])
        boaster.merge(one)
    assert honest.report()["error"] < 0.02
    assert boaster.report()["error"] == pytest.approx(0.24, abs=0.02)
    assert honest.report()["log_loss"] == pytest.approx(0.5, abs=0.02)
    assert boaster.report()["log_loss"] > 1
    assert sum(b["pixels"] for b in honest.report()["bins"]) == truth.size
    assert Calibration().report()["error"] is None


def test_intervals_cover_and_shrink():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(40):
        low, high = mean_interval(rng.normal(0.7, 0.1, 25), seed=seed)
        hits += low < 0.7 < high
    assert 32 <= hits <= 40
    few, many = mean_interval(rng.normal(0, 1, 10)), mean_interval(rng.normal(0, 1, 1000))
    assert many[1] - many[0] < (few[1] - few[0]) / 4
    assert mean_interval(np.array([0.5, np.nan])) is None
    counts = rng.integers(1, 100, (30, 2, 2))
    low, high = pooled_interval(counts, lambda m: m[1, 1] / m.sum())
    assert low < counts.sum(0)[1, 1] / counts.sum() < high
