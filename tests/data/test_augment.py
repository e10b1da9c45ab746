"""Augmentation: every option changes the output, costs nothing when off, and all scales stay registered."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from napari_msunet.config import Augmentation
from napari_msunet.constants import IGNORED
from napari_msunet.data.augmentation import Views, augment, draw
from napari_msunet.data.degrading import compressed
from napari_msunet.data.warps import Warp, moved

NONE = Augmentation.none()
SIZE = 64
VIEWS = Views((SIZE, SIZE), [(SIZE, SIZE), (SIZE // 2, SIZE // 2)], (1.0, 0.5))
GEOMETRY = [
    {"flip": True},
    {"rotate": 180},
    {"rotate": 25},
    {"scale": 0.4},
    {"shift": 0.3},
    {"shear": 25},
    {"elastic": 6},
    {"perspective": 0.3},
    {"flip": True, "rotate": 180, "scale": 0.2, "shift": 0.1, "shear": 10, "elastic": 4, "perspective": 0.2},
]
COLOUR = [{"brightness": 0.3}, {"contrast": 0.3}, {"stain": 0.3}, {"saturation": 0.8}]
WORSE = [{"blur": 3}, {"noise": 0.2}, {"jpeg": 1}]
MIXED = [{"cutout": 0.5}, {"cutmix": 1}, {"mixup": 0.5}]


def smooth(channels: int = 3, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    """A smooth random image, `(2, C, size, size)` in 0.2..0.8."""
    coarse = torch.rand(2, channels, 7, 7, generator=torch.Generator().manual_seed(seed))
    return interpolate(coarse, (size, size), mode="bicubic", align_corners=False).clamp(0, 1) * 0.6 + 0.2


def run(options: Augmentation, seed: int = 1, channels: int = 3):
    """Fine and half-size windows of one image, augmented."""
    pads, truth_pad = VIEWS.pads(options)
    most = max(truth_pad, pads[0], 2 * pads[1]) // 2 * 2 + 2
    fine = smooth(channels, SIZE + 2 * most)
    target = (fine[:, 0] > 0.5).to(torch.uint8)
    return fine, target, *augment([fine, avg_pool2d(fine, 2)], target, VIEWS, options, seed)[:2]


def still(channels: int = 3):
    fine = smooth(channels, SIZE)
    return fine, (fine[:, 0] > 0.5).to(torch.uint8)


def changed(options: Augmentation, seed: int = 1):
    """A window read without padding, for what does not move pixels."""
    fine, target = still()
    return fine, target, augment([fine, avg_pool2d(fine, 2)], target, VIEWS, options, seed)


def test_nothing_changes_nothing_and_reads_no_more():
    assert VIEWS.pads(NONE) == ([0, 0], 0)
    fine, target, result = changed(NONE)
    assert torch.equal(result.inputs[0], fine)
    assert torch.equal(result.inputs[1], avg_pool2d(fine, 2))
    assert torch.equal(result.target, target.long())
    assert result.other is None
    numbers = draw(2, NONE, 0, VIEWS)
    assert (numbers.degradation, numbers.mix, numbers.warp.bend, numbers.colours.saturation) == (None,) * 4


@pytest.mark.parametrize("option", GEOMETRY[:-1], ids=str)
def test_each_geometric_option_moves_image_and_truth(option):
    options = NONE.model_copy(update=option)
    fine, target, _, _ = run(options)
    cut = (fine.shape[2] - SIZE) // 2
    before, known = fine[:, :, cut:-cut, cut:-cut], target[:, cut:-cut, cut:-cut]
    results = [run(options, seed) for seed in range(4)]
    assert any((r[2][0] - before).abs().max() > 0.05 for r in results)
    assert any(((r[3] != known) & (r[3] != IGNORED)).float().mean() > 0.02 for r in results)


@pytest.mark.parametrize("option", COLOUR + WORSE, ids=str)
def test_each_other_option_changes_the_image_alone(option):
    results = [changed(NONE.model_copy(update=option), seed) for seed in range(4)]
    for scale in (0, 1):
        plain = results[0][0] if scale == 0 else avg_pool2d(results[0][0], 2)
        assert any((r[2].inputs[scale] - plain).abs().max() > 0.01 for r in results)
    assert all(torch.equal(r[2].target, r[1].long()) for r in results)


@pytest.mark.parametrize("option", [*GEOMETRY, *COLOUR, *WORSE, *MIXED], ids=str)
def test_scales_stay_registered(option):
    options = NONE.model_copy(update=option)
    still_image = option in WORSE + MIXED + COLOUR
    for seed in range(4):
        fine, half = (changed(options, seed)[2].inputs if still_image else run(options, seed)[2])[:2]
        off = (avg_pool2d(fine, 2) - half).abs()
        # A rectangle's edge may cut a coarse pixel, and a coarse noise is clipped at another place.
        assert off.mean() < 0.01
        if option not in MIXED + WORSE:
            assert off.max() < 0.03


@pytest.mark.parametrize("option", GEOMETRY, ids=str)
def test_the_truth_moves_with_the_image(option):
    options = NONE.model_copy(update=option)
    for seed in range(4):
        _, _, (fine, _), truth = run(options, seed)
        assert ((fine[:, 0] > 0.5) == (truth == 1)).float().mean() > 0.98


def test_a_shifted_scale_would_be_noticed():
    _, _, (fine, half), _ = run(Augmentation(), 0)
    assert (avg_pool2d(fine, 2) - half).abs().max() < 0.03
    assert (avg_pool2d(fine, 2) - half.roll(1, 3)).abs().max() > 0.03


@pytest.mark.parametrize("option", [{"elastic": 8}, {"perspective": 0.4}, {"shift": 0.2}, {"cutout": 0.5}], ids=str)
def test_more_context_moves_as_its_middle_does(option):
    """A coarse window with more context about the same centre shows, in its middle, what the fine window shows."""
    options = NONE.model_copy(update=option)
    views = Views((SIZE, SIZE), [(SIZE, SIZE), (SIZE, SIZE)], (1.0, 0.5))
    pads, truth_pad = views.pads(options)
    most = max(pads[0], truth_pad, 2 * pads[1] + SIZE // 2) // 2 * 2 + 2
    whole = smooth(3, SIZE + 2 * most, 3)
    fine = whole[:, :, most - pads[0] : most + SIZE + pads[0], most - pads[0] : most + SIZE + pads[0]]
    truth = torch.zeros(2, SIZE + 2 * truth_pad, SIZE + 2 * truth_pad, dtype=torch.uint8)
    corner = most // 2 - SIZE // 4 - pads[1]
    side = SIZE + 2 * pads[1]
    coarse = avg_pool2d(whole, 2)[:, :, corner : corner + side, corner : corner + side]
    assert coarse.shape[2] == side
    for seed in range(3):
        (a, b), *_ = augment([fine, coarse], truth, views, options, seed)
        middle = b[:, :, SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4]
        assert (avg_pool2d(a, 2) - middle).abs().mean() < 0.01


def test_flips_do_not_blur():
    fine, _, result = changed(NONE.model_copy(update={"flip": True}), 3)
    assert torch.equal(result.inputs[0].flatten(2).sort().values, fine.flatten(2).sort().values)


def test_exact_turns_are_what_the_matrix_says():
    options = NONE.model_copy(update={"flip": True})
    x = smooth()
    for seed in range(12):
        warp = draw(2, options, seed, VIEWS).warp
        exact, warped = (moved(x, (64, 64), w, "bilinear") for w in (warp, Warp(warp.matrix, [])))
        assert torch.allclose(exact, warped, atol=1e-4)


def test_the_same_seed_gives_the_same():
    options = Augmentation(elastic=3, noise=0.1, jpeg=0.5, cutmix=0.5)
    a, b, c = (run(options, seed) for seed in (5, 5, 6))
    assert torch.equal(a[2][0], b[2][0])
    assert torch.equal(a[3], b[3])
    assert not torch.equal(a[2][0], c[2][0])


def test_windows_of_a_batch_differ():
    numbers = draw(8, Augmentation(), 0, VIEWS)
    assert len({tuple(m.flatten().tolist()) for m in numbers.warp.matrix}) == 8
    assert len(set(numbers.colours.brightness.tolist())) == 8


@pytest.mark.parametrize(
    "options",
    [
        Augmentation(),
        Augmentation(rotate=10, scale=0),
        Augmentation(rotate=0, scale=1),
        NONE.model_copy(update={"shift": 0.4}),
        NONE.model_copy(update={"shear": 40}),
        NONE.model_copy(update={"elastic": 12}),
        NONE.model_copy(update={"perspective": 0.5}),
        Augmentation(shift=0.2, shear=20, elastic=8, perspective=0.3),
    ],
)
def test_the_padding_is_enough_and_less_is_not(options):
    views = Views((SIZE, SIZE), [(SIZE, SIZE)], (1.0,))
    pad = views.pads(options)[1]
    for enough, by in ((True, pad), (False, pad // 8)):
        inside = torch.ones(32, SIZE + 2 * by, SIZE + 2 * by, dtype=torch.uint8)
        found = [augment([inside[:, None]], inside, views, options, s).target for s in range(4)]
        assert all(IGNORED not in truth for truth in found) == enough


def test_elastic_does_not_fold():
    options = NONE.model_copy(update={"elastic": 20})
    views = Views((256, 256), [(256, 256)], (1.0,))
    pad = views.pads(options)[1]
    y, x = torch.meshgrid(*(torch.arange(256 + 2 * pad).float(),) * 2, indexing="ij")
    places = torch.stack([y, x])[None].repeat(4, 1, 1, 1)
    result = moved(places, (256, 256), draw(4, options, 0, views).warp, "bilinear")
    assert (result[:, 0].diff(dim=1) > 0).float().mean() > 0.999
    assert (result[:, 0] - centre_of(places[:, 0], pad)).abs().max() > 10


def centre_of(x, pad):
    return x[:, pad:-pad, pad:-pad]


def test_stain_and_saturation_need_colour_and_keep_white():
    options = NONE.model_copy(update={"stain": 0.5, "saturation": 0.5})
    fine, truth = still(1)
    assert torch.equal(augment([fine, avg_pool2d(fine, 2)], truth, VIEWS, options, 1).inputs[0], fine)
    white = torch.ones(1, 3, 8, 8)
    views = Views((8, 8), [(8, 8)], (1.0,))
    result = augment([white], torch.zeros(1, 8, 8, dtype=torch.uint8), views, options, 0).inputs
    assert torch.allclose(result[0], white, atol=1e-5)


def test_stain_changes_one_stain_alone():
    # A pixel of pure haematoxylin scaled by f has its optical density scaled by f.
    stains = torch.tensor([0.650, 0.704, 0.286])
    pixel = (10 ** (-0.5 * stains / stains.norm()))[None, :, None, None]
    options = NONE.model_copy(update={"stain": 0.3})
    views = Views((1, 1), [(1, 1)], (1.0,))
    result = augment([pixel], torch.zeros(1, 1, 1, dtype=torch.uint8), views, options, 2).inputs
    ratio = (torch.log10(result[0]) / torch.log10(pixel)).flatten()
    assert torch.allclose(ratio, ratio[0].expand(3), atol=1e-3)
    assert abs(float(ratio[0]) - 1) > 0.01


def test_compression_is_that_of_a_jpeg_file(tmp_path):
    from io import BytesIO

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    image = (smooth(3, 64)[0] * 255).permute(1, 2, 0).numpy() + rng.normal(0, 12, (64, 64, 3))
    image = image.clip(0, 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=30, subsampling=0)
    theirs = np.asarray(Image.open(file)).astype(float)
    unit = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    ours = (compressed(unit, torch.tensor([30.0]))[0] * 255).permute(1, 2, 0).numpy()
    assert np.abs(theirs - image).mean() > 4
    assert np.abs(ours - theirs).mean() < 1


def test_cutout_hides_what_carries_no_loss():
    fine, target, result = changed(NONE.model_copy(update={"cutout": 0.5}))
    hidden = result.target == IGNORED
    assert 0 < hidden.float().mean() < 0.3
    assert torch.equal(result.target[~hidden], target.long()[~hidden])
    assert torch.equal((result.inputs[0] != fine).any(1), hidden)


def test_cutmix_brings_the_truth_along():
    fine, target, result = changed(NONE.model_copy(update={"cutmix": 1}))
    pasted = (result.inputs[0] != fine).any(1)
    assert 0.03 < pasted.float().mean() < 0.5
    assert torch.equal(result.target, torch.where(pasted, target.roll(1, 0), target).long())
    seldom = sum(
        bool((changed(NONE.model_copy(update={"cutmix": 0.2}), s)[2].inputs[0] != fine).any()) for s in range(20)
    )
    assert 1 <= seldom <= 15


def test_mixup_gives_both_truths():
    fine, target, result = changed(NONE.model_copy(update={"mixup": 0.5}))
    assert 0 < result.share < 0.5
    assert torch.allclose(result.inputs[0], (1 - result.share) * fine + result.share * fine.roll(1, 0), atol=1e-6)
    assert torch.equal(result.target, target.long())
    assert torch.equal(result.other, target.long().roll(1, 0))


def test_values_stay_in_range():
    options = Augmentation(brightness=1, contrast=1, stain=1, saturation=1, noise=0.5, jpeg=1)
    for seed in range(5):
        for image in run(options, seed)[2]:
            assert float(image.min()) >= 0
            assert float(image.max()) <= 1


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_share_of_the_windows_is_mirrored_left_to_right(share):
    options = NONE.model_copy(update={"mirror": share})
    images = torch.rand(400, 1, 4, 6)
    target = (images[:, 0] > 0.5).to(torch.uint8)
    views = Views((4, 6), [(4, 6)], (1.0,))
    assert views.pads(options) == ([0], 0)
    found = augment([images], target, views, options, 3)
    mirrored = (found.inputs[0] == images.flip(-1)).flatten(1).all(1)
    still = (found.inputs[0] == images).flatten(1).all(1)
    assert bool((mirrored ^ still).all())
    assert float(mirrored.float().mean()) == pytest.approx(share, abs=0.07)
    expected = torch.where(mirrored[:, None, None], target.flip(-1), target)
    assert torch.equal(found.target, expected.long())


def test_without_a_share_the_numbers_of_earlier_trainings_stay():
    generator = torch.Generator().manual_seed(5)
    quarter, _, turn, size = (
        torch.randint(4, (8,), generator=generator),
        torch.randint(2, (8,), generator=generator),
        torch.rand(8, generator=generator) * 2 - 1,
        torch.rand(8, generator=generator) * 2 - 1,
    )
    expected = torch.cos(quarter * (torch.pi / 2) + turn * torch.pi) * 1.2**size
    torch.testing.assert_close(draw(8, Augmentation(), 5, VIEWS).warp.matrix[:, 0, 0], expected)
    assert not torch.allclose(draw(8, Augmentation(mirror=0.5), 5, VIEWS).warp.matrix[:, 0, 0], expected)
