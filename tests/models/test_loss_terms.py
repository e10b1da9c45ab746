"""Each loss against its published formula, computed one pixel at a time; class weights; ignored pixels; texts."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from napari_msunet.config import LossConfig
from napari_msunet.constants import IGNORED
from napari_msunet.errors import ModelError
from napari_msunet.models import SegmentationLoss
from napari_msunet.models.losses import balanced_weights, border_weights, segmentation_loss, signed_distance

WEIGHTS = (0.5, 2.0, 1.25)


def only(**terms) -> LossConfig:
    return LossConfig(**({"cross_entropy": 0, "dice": 0} | terms))


@pytest.fixture
def batch():
    torch.manual_seed(3)
    target = torch.randint(0, 3, (2, 7, 6))
    target[0, :2] = IGNORED
    target[1, 3, 3] = IGNORED
    return torch.randn(2, 3, 7, 6), target


def pixels(logits, target):
    """Probabilities and true class of each pixel that counts."""
    p = torch.softmax(logits.double(), 1)
    return [(p[b, :, y, x].tolist(), int(target[b, y, x])) for b, y, x in (target != IGNORED).nonzero().tolist()]


def by_hand(name: str, logits, target, w=(1.0, 1.0, 1.0)) -> float:
    seen = pixels(logits, target)
    if name == "cross_entropy":
        return sum(-w[t] * math.log(p[t]) for p, t in seen) / sum(w[t] for _, t in seen)
    if name == "focal":
        return sum(-w[t] * (1 - p[t]) ** 2 * math.log(p[t]) for p, t in seen) / sum(w[t] for _, t in seen)
    if name == "bce":
        losses = [w[c] * -math.log(p[c] if t == c else 1 - p[c]) for p, t in seen for c in (1, 2)]
        return sum(losses) / (len(seen) * (w[1] + w[2]))
    scores, counts = 0.0, 0.0
    for c in range(3):
        tp = sum(p[c] for p, t in seen if t == c)
        fp = sum(p[c] for p, t in seen if t != c)
        fn = sum(1 - p[c] for p, t in seen if t == c)
        index = {
            "dice": lambda tp=tp, fp=fp, fn=fn: 2 * tp / (2 * tp + fp + fn),
            "jaccard": lambda tp=tp, fp=fp, fn=fn: tp / (tp + fp + fn),
            "tversky": lambda tp=tp, fp=fp, fn=fn: tp / (tp + 0.3 * fp + 0.7 * fn),
        }[name]()
        if any(t == c for _, t in seen):
            scores += w[c] * (1 - index)
            counts += w[c]
    return scores / counts


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "bce", "dice", "jaccard", "tversky"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_pixel_and_overlap_losses(batch, name, weights):
    logits, target = batch
    got = segmentation_loss(logits, target, only(**{name: 1}), None if weights is None else torch.tensor(weights))
    assert got.item() == pytest.approx(by_hand(name, logits, target, weights or (1.0, 1.0, 1.0)), rel=1e-4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (only(bce=1), only(cross_entropy=1)),
        (only(focal=1, focal_gamma=0), only(cross_entropy=1)),
        (only(tversky=1, tversky_alpha=0.5, tversky_beta=0.5), only(dice=1)),
        (only(tversky=1, tversky_alpha=1, tversky_beta=1), only(jaccard=1)),
    ],
)
def test_losses_that_are_the_same_in_special_cases(one, other):
    logits, target = torch.randn(2, 2, 8, 8), torch.randint(0, 2, (2, 8, 8))
    torch.testing.assert_close(segmentation_loss(logits, target, one), segmentation_loss(logits, target, other))


def test_weighted_cross_entropy_is_pytorchs(batch):
    logits, target = batch
    expected = F.cross_entropy(logits, target, torch.tensor(WEIGHTS), ignore_index=IGNORED)
    torch.testing.assert_close(
        segmentation_loss(logits, target, only(cross_entropy=1), torch.tensor(WEIGHTS)), expected
    )


def test_binary_cross_entropy_of_a_sure_mistake_is_finite_and_pulls():
    logits = torch.tensor([60.0, 0.0, -60.0]).view(1, 3, 1, 1).requires_grad_()
    loss = segmentation_loss(logits, torch.full((1, 1, 1), 1), only(bce=1))
    loss.backward()
    assert loss.item() == pytest.approx(60 / 2, rel=1e-4)  # class 1: -log e^-60; class 2 is right
    assert logits.grad[0, 1].item() < -0.4


# ---------------------------------------------------------------------------------------------------------- outlines


def nearest(y, x, places) -> float:
    return min(math.dist((y, x), q) for q in places)


def test_signed_distance():
    inside = np.zeros((9, 8), bool)
    inside[2:6, 3:7] = True
    inside[3, 5] = False
    found = signed_distance(inside)
    ins, out = np.argwhere(inside), np.argwhere(~inside)
    for y, x in np.ndindex(inside.shape):
        expected = 1 - nearest(y, x, out) if inside[y, x] else nearest(y, x, ins)
        assert found[y, x] == pytest.approx(expected, abs=1e-5)
    assert not signed_distance(np.zeros((4, 4), bool)).any()
    assert not signed_distance(np.ones((4, 4), bool)).any()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_boundary_loss(batch, weights):
    logits, target = batch
    p, w = torch.softmax(logits, 1), weights or (1, 1, 1)
    total = count = 0.0
    for b, y, x in (target != IGNORED).nonzero().tolist():
        for c in (1, 2):
            phi = signed_distance((target[b] == c).numpy())[y, x]
            total += w[c] * phi * p[b, c, y, x].item()
            count += w[c]
    config = only(dice=1, boundary=1, class_weights=weights)
    got = SegmentationLoss(config, (1,))(logits, [logits], target)[1]["fused"]
    known = None if weights is None else torch.tensor(weights)
    assert got.item() - segmentation_loss(logits, target, only(dice=1), known).item() == pytest.approx(
        total / count, rel=1e-4
    )


def test_edge_loss(batch):
    logits, target = batch
    p = torch.softmax(logits, 1)
    total = pairs = 0.0
    for b, y, x in np.ndindex(*target.shape):
        for v, u in ((y + 1, x), (y, x + 1)):
            if v < 7 and u < 6 and target[b, y, x] != IGNORED and target[b, v, u] != IGNORED:
                for c in (1, 2):
                    step = abs(p[b, c, v, u] - p[b, c, y, x]).item()
                    true = abs(int(target[b, v, u] == c) - int(target[b, y, x] == c))
                    total += abs(step - true)
                    pairs += 1
    got = segmentation_loss(logits, target, only(dice=1, edge=1)) - segmentation_loss(logits, target, only(dice=1))
    assert got.item() == pytest.approx(total / pairs, rel=1e-4)


def test_border_weights_are_the_unet_papers():
    truth = np.zeros((14, 16), np.uint8)
    truth[2:6, 2:6], truth[4:9, 8:12], truth[11:, 1:3], truth[0, 15] = 1, 1, 2, IGNORED
    objects = [np.argwhere(truth == 2), np.argwhere(truth == 1)]
    left = objects[1][:, 1] < 7
    objects = [objects[0], objects[1][left], objects[1][~left]]
    found = border_weights(truth, 10, 2.5)
    for y, x in np.ndindex(truth.shape):
        d1, d2 = sorted(nearest(y, x, o) for o in objects)[:2]
        expected = 10 * math.exp(-((d1 + d2) ** 2) / (2 * 2.5**2)) if truth[y, x] == 0 else 0
        assert found[y, x] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert found[5, 6] > 1
    one = np.where(truth == 2, truth, 0)
    assert not border_weights(one, 10, 2.5).any()


def test_the_border_map_adds_to_the_class_weights(batch):
    logits, target = batch
    target[1] = 0
    target[1, :, :2], target[1, :, 3:] = 1, 1
    config = only(cross_entropy=1, border=10, border_sigma=2, class_weights=WEIGHTS)
    got = SegmentationLoss(config, (1,))(logits, [logits], target)[1]["fused"]
    ce = -torch.log_softmax(logits, 1)
    total = count = 0.0
    for b, y, x in (target != IGNORED).nonzero().tolist():
        t = int(target[b, y, x])
        weight = WEIGHTS[t] + border_weights(target[b].numpy(), 10, 2)[y, x]
        total, count = total + weight * ce[b, t, y, x].item(), count + weight
    assert got.item() == pytest.approx(total / count, rel=1e-4)
    assert got.item() != pytest.approx(by_hand("cross_entropy", logits, target, WEIGHTS), rel=1e-2)


# ------------------------------------------------------------------------------------------------------ all of them

ALL = [
    LossConfig.model_validate(text)
    for text in ("bce+dice", "bce+jaccard+dice", "focal+tversky", "dice+0.01*boundary", "ce+2*edge")
] + [LossConfig(border=10, border_sigma=2), LossConfig(class_weights=WEIGHTS)]


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.description)
def test_ignored_pixels_and_empty_batches(batch, config):
    logits, target = batch
    logits.requires_grad_()
    loss = SegmentationLoss(config, (1,))
    total = loss(logits, [logits], target)[0]
    (gradient,) = torch.autograd.grad(total, logits)
    ignored = (target == IGNORED).unsqueeze(1).expand_as(logits)
    assert gradient[ignored].abs().max() == 0
    assert gradient[~ignored].abs().max() > 0
    wild = torch.where(ignored, torch.randn_like(logits) * 50, logits.detach())
    torch.testing.assert_close(loss(wild, [wild], target)[0], total.detach())
    nothing = loss(logits, [logits], torch.full_like(target, IGNORED))[0]
    assert nothing.item() == 0
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert not gradient.any()


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.description)
def test_following_the_gradient_leads_to_the_truth(config):
    torch.manual_seed(0)
    target = torch.zeros(1, 12, 12, dtype=torch.int64)
    target[0, 2:8, 1:6], target[0, 6:11, 8:11] = 1, 2
    logits = torch.zeros(1, 3, 12, 12, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.2)
    loss = SegmentationLoss(config, (1,))
    for _ in range(60):
        optimiser.zero_grad()
        loss(logits, [logits], target)[0].backward()
        optimiser.step()
    assert (logits.argmax(1) == target).float().mean() > 0.98


def test_balanced_weights_make_classes_count_the_same():
    weights = balanced_weights((900, 90, 10, 0))
    assert [w * n for w, n in zip(weights, (900, 90, 10, 0), strict=True)] == pytest.approx([1000 / 3] * 3 + [0])


def test_a_loss_as_text():
    assert LossConfig.model_validate("bce + jaccard+dice") == only(bce=1, jaccard=1, dice=1)
    assert LossConfig.model_validate("dice+0.01boundary") == only(dice=1, boundary=0.01)
    config = LossConfig.model_validate("0.5*focal+ 2e-2 * boundary + ce")
    assert config == only(focal=0.5, boundary=0.02, cross_entropy=1)
    assert LossConfig.model_validate(config.description) == config
    assert LossConfig.model_validate({"cross_entropy": 0.5, "dice": 0, "branch": [0.1, 0.2]}).branch == (0.1, 0.2)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("bce+dise", "dise.*cross_entropy"),
        ("", "cannot be read"),
        ("1.2.3*dice", "no number"),
        ("boundary", "mix them"),
        ({"cross_entropy": 0, "dice": 0}, "all loss weights are zero"),
        ({"cross_entropy": 0, "border": 10}, "border weight acts on"),
        ({"class_weights": (0, 0)}, "all class weights are zero"),
        ({"tversky": 1, "tversky_alpha": 0, "tversky_beta": 0}, "both zero"),
    ],
)
def test_what_cannot_be_a_loss_is_refused(given, says):
    with pytest.raises(ValidationError, match=says):
        LossConfig.model_validate(given)


def test_class_weights_must_fit():
    logits = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ModelError, match="2 class weights for 3 outputs"):
        SegmentationLoss(LossConfig(class_weights=(1, 2)), (1,))(logits, [logits], torch.zeros(1, 2, 2).long())


def plain_dice(logits, target, smooth):
    """As most published code has it: the mean over classes 1..K of (2 TP + s) / (P + T + s), over the whole batch."""
    known = target != IGNORED
    found = []
    for c in range(1, logits.shape[1]):
        p, t = torch.softmax(logits, 1)[:, c][known], (target == c)[known].double()
        found.append((2 * (p * t).sum() + smooth) / (p.sum() + t.sum() + smooth))
    return 1 - torch.stack(found).mean()


@pytest.mark.parametrize("smooth", [1.0, 0.1, 100.0])
def test_dice_of_the_foreground_with_its_smoothing(batch, smooth):
    logits, target = batch
    target[target == 2] = 0  # a class that this batch has not: it counts all the same
    ours, plain = (logits.clone().requires_grad_() for _ in range(2))
    loss = segmentation_loss(ours, target, only(dice=1, dice_of="foreground", dice_smooth=smooth))
    expected = plain_dice(plain, target, smooth)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for one in (loss, expected):
        one.backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-7)
    usual = segmentation_loss(logits, target, only(dice=1))
    assert abs(float(usual) - float(expected.detach())) > 0.01


def test_the_smoothing_is_that_of_the_dice_alone(batch):
    for name, changes in (("jaccard", False), ("tversky", False), ("dice", True)):
        values = [float(segmentation_loss(*batch, only(**{name: 1}, dice_smooth=s))) for s in (2e-5, 10.0)]
        assert (values[0] != values[1]) is changes
    with pytest.raises(ValidationError, match="dice_smooth"):
        only(dice=1, dice_smooth=0)
