"""Augmentation: every option changes the output, and all scales stay registered."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from napari_msunet.config import Augmentation
from napari_msunet.data.augment import Draw, _moved, augment, draw, padding
from napari_msunet.data.masks import IGNORED

NONE = Augmentation(flip=False, rotate=0, scale=0, brightness=0, contrast=0, stain=0)
SIZE = 64


def smooth(channels: int = 3, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    """A smooth random image, `(2, C, size, size)` in 0.2..0.8."""
    coarse = torch.rand(2, channels, 7, 7, generator=torch.Generator().manual_seed(seed))
    return interpolate(coarse, (size, size), mode="bicubic", align_corners=False).clamp(0, 1) * 0.6 + 0.2


def run(options: Augmentation, seed: int = 1, channels: int = 3):
    """Fine and half-size windows of one image, augmented."""
    pad = padding(SIZE // 2, options)
    fine = smooth(channels, SIZE + 4 * pad)
    target = (fine[:, 0] > 0.5).to(torch.uint8)
    return fine, target, *augment([fine, avg_pool2d(fine, 2)], target, [(64, 64), (32, 32)], (64, 64), options, seed)


def test_nothing_changes_nothing():
    fine, target, (same, half), truth = run(NONE)
    assert torch.equal(same, fine)
    assert torch.equal(half, avg_pool2d(fine, 2))
    assert torch.equal(truth, target.long())


@pytest.mark.parametrize(
    "option", [{"flip": True}, {"rotate": 30}, {"scale": 0.3}, {"brightness": 0.3}, {"contrast": 0.3}, {"stain": 0.3}]
)
def test_each_option_changes_the_output(option):
    _, _, (before, _), truth = run(NONE)
    results = [run(NONE.model_copy(update=option), seed) for seed in range(4)]
    assert any(not torch.allclose(r[2][0], before, atol=1e-3) for r in results)
    geometric = not option.keys() & {"brightness", "contrast", "stain"}
    assert any(not torch.equal(r[3], truth) for r in results) == geometric


@pytest.mark.parametrize(
    "options",
    [
        NONE.model_copy(update={"flip": True}),
        NONE.model_copy(update={"rotate": 180}),
        NONE.model_copy(update={"scale": 0.4}),
        Augmentation(rotate=25),
        Augmentation(),
    ],
)
def test_scales_stay_registered(options):
    for seed in range(6):
        _, _, (fine, half), truth = run(options, seed)
        assert (avg_pool2d(fine, 2) - half).abs().max() < 0.03
        # The truth is the thresholded image, so it must still be, but for colours and edges.
        if not options.brightness:
            assert ((fine[:, 0] > 0.5) == (truth == 1)).float().mean() > 0.98
        assert IGNORED not in truth


def test_a_shifted_scale_would_be_noticed():
    _, _, (fine, half), _ = run(Augmentation(), 0)
    assert (avg_pool2d(fine, 2) - half.roll(1, 3)).abs().max() > 0.03


def test_flips_do_not_blur():
    fine, _, (moved, _), _ = run(NONE.model_copy(update={"flip": True}), 3)
    assert torch.equal(moved.flatten(2).sort().values, fine.flatten(2).sort().values)


def test_exact_turns_are_what_the_matrix_says():
    options = NONE.model_copy(update={"flip": True})
    x = smooth()
    for seed in range(12):
        numbers = draw(2, options, seed)
        by_matrix = Draw(numbers.matrix, [], numbers.brightness, numbers.contrast, numbers.stain)
        exact, warped = (_moved(x, (64, 64), n, "bilinear") for n in (numbers, by_matrix))
        assert torch.allclose(exact, warped, atol=1e-4)


def test_the_same_seed_gives_the_same():
    a, b, c = (run(Augmentation(), seed) for seed in (5, 5, 6))
    assert torch.equal(a[2][0], b[2][0])
    assert torch.equal(a[3], b[3])
    assert not torch.equal(a[2][0], c[2][0])


def test_windows_of_a_batch_differ():
    numbers = draw(8, Augmentation(), 0)
    assert len({tuple(m.flatten().tolist()) for m in numbers.matrix}) == 8
    assert len(set(numbers.brightness.tolist())) == 8


@pytest.mark.parametrize("options", [Augmentation(), Augmentation(rotate=10, scale=0), Augmentation(rotate=0, scale=1)])
def test_the_padding_is_enough_and_less_is_not(options):
    pad = padding(SIZE, options)
    for enough, by in ((True, pad), (False, pad // 3)):
        inside = torch.ones(32, SIZE + 2 * by, SIZE + 2 * by, dtype=torch.uint8)
        found = [augment([inside[:, None]], inside, [(SIZE, SIZE)], (SIZE, SIZE), options, s)[1] for s in range(4)]
        assert all(IGNORED not in truth for truth in found) == enough


def test_stain_needs_colour_and_keeps_white():
    options = NONE.model_copy(update={"stain": 0.5})
    _, _, (grey, _), _ = run(options, channels=1)
    assert torch.equal(grey, smooth(1))
    white = torch.ones(1, 3, 8, 8)
    moved, _ = augment([white], torch.zeros(1, 8, 8, dtype=torch.uint8), [(8, 8)], (8, 8), options, 0)
    assert torch.allclose(moved[0], white, atol=1e-5)


def test_stain_changes_one_stain_alone():
    # A pixel of pure haematoxylin scaled by f has its optical density scaled by f.
    stains = torch.tensor([0.650, 0.704, 0.286])
    pixel = (10 ** (-0.5 * stains / stains.norm()))[None, :, None, None]
    options = NONE.model_copy(update={"stain": 0.3})
    moved, _ = augment([pixel], torch.zeros(1, 1, 1, dtype=torch.uint8), [(1, 1)], (1, 1), options, 2)
    ratio = (torch.log10(moved[0]) / torch.log10(pixel)).flatten()
    assert torch.allclose(ratio, ratio[0].expand(3), atol=1e-3)
    assert abs(float(ratio[0]) - 1) > 0.01


def test_values_stay_in_range():
    options = Augmentation(brightness=1, contrast=1, stain=1)
    for seed in range(5):
        for image in run(options, seed)[2]:
            assert float(image.min()) >= 0
            assert float(image.max()) <= 1
