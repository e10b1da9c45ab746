"""Instances on real nuclei: parted from what all of them cover together, against the truth."""

import numpy as np
import pytest
from inference.test_postprocess import instances_of
from PIL import Image
from skimage.measure import label


def matches(found: np.ndarray, truth: np.ndarray) -> int:
    """Pairs that overlap by more than half of their union."""
    keys, times = np.unique(found.astype(np.int64) * 2**20 + truth, return_counts=True)
    a, b = keys // 2**20, keys % 2**20
    both = (a > 0) & (b > 0)
    union = np.bincount(found.ravel())[a[both]] + np.bincount(truth.ravel())[b[both]] - times[both]
    return int((times[both] > 0.5 * union).sum())


@pytest.mark.parametrize(("folder", "step", "least"), [("dsb2018-brightfield", 3, 0.9), ("consep-train", 16, 0.83)])
def test_nuclei_are_counted_as_people_count_them(shared_data, folder, step, least):
    count = right = true = pieces = 0
    for file in sorted((shared_data / folder / "instances").iterdir())[::step]:
        truth = np.array(Image.open(file)).astype(np.int64)
        covered = (truth > 0).astype(np.uint8)
        found = instances_of(covered, 96)
        np.testing.assert_array_equal(found, instances_of(covered, 4096))
        count += int(found.max())
        true += len(np.unique(truth)) - 1
        right += matches(found, truth)
        pieces += int(label(covered, connectivity=1).max())
    assert true > 500
    assert 2 * right / (count + true) > least
    assert abs(count - true) < 0.6 * abs(pieces - true), "nearer than by counting what hangs together"


def test_monuseg_in_any_windows(shared_data):
    file = sorted((shared_data / "monuseg-train" / "masks").iterdir())[0]
    mask = (np.array(Image.open(file)) > 0).astype(np.uint8)
    whole = instances_of(mask, 2048)
    for side in (128, 512):
        np.testing.assert_array_equal(instances_of(mask, side), whole)
    crossing = (mask[:, 511] > 0) & (mask[:, 512] > 0)
    assert crossing.sum() > 20
    same = whole[crossing, 511] == whole[crossing, 512]
    assert same.mean() > 0.9, "nuclei across a chunk's border stay one"
