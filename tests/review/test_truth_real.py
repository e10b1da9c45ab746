"""Truth under review on real masks, and on a slide far larger than memory."""

import resource
import time

import numpy as np
import pytest
from PIL import Image
from review.making import add_run
from scipy import ndimage

import napari_msunet as ms
from napari_msunet import review
from napari_msunet.geometry import Window

MPP = 0.62


def blurred(mask, rng):
    """What a decent model says of a mask: smooth edges in about the right place, and noise."""
    edge = ndimage.gaussian_filter(mask.astype(np.float32) + rng.normal(0, 1.2, mask.shape), 4)
    sure = 1 / (1 + np.exp(-9 * (edge - 0.5)))
    return np.stack([1 - sure, sure]).astype(np.float32)


def corrupt(instances, rng, count=3):
    """A mask of glands with some erased and others invented; where each error is."""
    mask, errors = (instances > 0).astype(np.uint8), []
    sizes = np.bincount(instances.ravel())
    large = [n for n in range(1, len(sizes)) if sizes[n] > 2000]
    for gland in rng.permutation(large)[:count].tolist():
        mask[instances == gland] = 0
        errors.append(instances == gland)
    far = ndimage.distance_transform_edt(instances == 0)
    for _ in range(count):
        y, x = np.unravel_index(int(far.argmax()), far.shape)
        radius = min(far[y, x] - 4, 25)
        disc = np.hypot(*(np.indices(mask.shape) - np.array([y, x])[:, None, None])) < radius
        far[np.hypot(*(np.indices(mask.shape) - np.array([y, x])[:, None, None])) < 60] = 0
        if radius > 10:
            mask[disc] = 1
            errors.append(disc)
    return mask, errors


@pytest.mark.parametrize("name", ["testA_25", "train_10"])
def test_corrupted_glands_come_first(shared_data, tmp_path, name):
    path = shared_data / "glas-dev" / "masks" / f"{name}.png"
    instances = np.asarray(Image.open(path)).astype(np.int32)
    rng = np.random.default_rng(1)
    mask, errors = corrupt(instances, rng)
    assert len(errors) >= 3
    planes = blurred(instances > 0, rng)
    labels = ms.LabelStore.create(tmp_path / "l.ome.zarr", instances.shape, MPP, ("gland",))
    add_run(labels, "r", {"labels": planes.argmax(0).astype(np.uint8), "probabilities": planes})
    annotation = ms.LabelStore.create(tmp_path / "a.ome.zarr", instances.shape, MPP, ("gland",), "annotation")
    annotation.write(Window(0, 0, *instances.shape), np.where(mask > 0, 1, 255).astype(np.uint8))
    pair = review.Pair(annotation, labels)
    found = review.review_truth(pair).suspects
    first = found[: len(errors)]
    masks = [(p.window, review.place_mask(pair, p)) for p in first]
    hit = {n for w, m in masks for n, error in enumerate(errors) if (error[w.slices()] & m).sum() > m.sum() / 2}
    assert hit == set(range(len(errors)))  # all errors, and nothing before them
    for place in first:
        assert review.take_answer(pair, place)
    now = annotation.read(Window(0, 0, *instances.shape))
    wrong_before = (mask > 0) != (instances > 0)
    wrong_now = (now == 1) != (instances > 0)
    assert wrong_now.sum() < 0.2 * wrong_before.sum()
    for _ in first:
        annotation.undo()
    np.testing.assert_array_equal(annotation.read(Window(0, 0, *instances.shape)), np.where(mask > 0, 1, 255))


@pytest.mark.slow
def test_a_slide_of_100_000_pixels_a_side_with_strokes_all_over(tmp_path):
    side, dabs = 100_000, 60
    rng = np.random.default_rng(0)
    annotation = ms.LabelStore.create(tmp_path / "a.ome.zarr", (side, side), 0.25, ("a", "b"), "annotation")
    places = rng.integers(0, side // 1024, (dabs, 2)) * 1024 + 400
    for number, (y, x) in enumerate(places.tolist()):
        annotation.write(Window(y, x, 200, 200), int((1, 2, 255)[number % 3]))
    run_store = ms.LabelStore.create(tmp_path / "m.ome.zarr", (side, side), 0.25, ("a", "b"))
    run = run_store.create_run("r", {}, ("a", "b"), {"labels": "uint8", "probabilities": "float16"})
    with run.writing():
        for number, (y, x) in enumerate(np.unique(places, axis=0).tolist()):
            window = Window(y - 400, x - 400, 1024, 1024).intersection(Window(0, 0, side, side))
            planes = np.full((3, *window.shape), 0.1, np.float16)
            planes[1] = 0.8
            run.write(window, {"labels": np.ones(window.shape, np.uint8), "probabilities": planes})
            run.finish(number, window)
    run_store.merge(run)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    found = review.review_truth(annotation, run_store)
    seconds, grown = time.monotonic() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert found.pixels == len(np.unique(places, axis=0)) * 200 * 200
    assert found.confusion.pixels[:, 1].sum() == found.pixels
    assert {p.model for p in found.suspects} == {"a"}
    assert grown < 400
    assert seconds < 120
