"""The sum of losses: the default, ignored pixels, branches, mistakes. The others are in test_loss_terms."""

import pytest
import torch
import torch.nn.functional as F

from napari_msunet.config import LossConfig, ModelConfig, UNetConfig
from napari_msunet.constants import IGNORED
from napari_msunet.errors import ModelError
from napari_msunet.models import SegmentationLoss, build_model
from napari_msunet.models.losses import segmentation_loss

CE, DICE = LossConfig(dice=0), LossConfig(cross_entropy=0)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    target = torch.randint(0, 3, (2, 6, 5))
    target[0, :2] = IGNORED
    return torch.randn(2, 3, 6, 5, requires_grad=True), target


def dice_by_hand(logits, target):
    """One class and one pixel at a time."""
    p = torch.softmax(logits, dim=1)
    scores = []
    for c in range(logits.shape[1]):
        common = predicted = pixels = 0.0
        for b, y, x in (target != IGNORED).nonzero().tolist():
            predicted += p[b, c, y, x].item()
            if target[b, y, x] == c:
                common += p[b, c, y, x].item()
                pixels += 1
        if pixels:
            scores.append(2 * common / (predicted + pixels))
    return sum(scores) / len(scores)


def test_cross_entropy_is_pytorchs(batch):
    logits, target = batch
    expected = F.cross_entropy(logits, target, ignore_index=IGNORED)
    torch.testing.assert_close(segmentation_loss(logits, target, CE), expected)


def test_dice_is_that_by_hand(batch):
    logits, target = batch
    assert segmentation_loss(logits, target, DICE).item() == pytest.approx(1 - dice_by_hand(logits, target), abs=1e-5)


def test_dice_leaves_out_classes_without_pixels():
    logits = torch.randn(1, 4, 4, 4)
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    target[0, 0] = 2
    assert segmentation_loss(logits, target, DICE).item() == pytest.approx(1 - dice_by_hand(logits, target), abs=1e-5)


def test_a_perfect_answer_costs_nothing():
    target = torch.randint(0, 3, (1, 8, 8))
    logits = F.one_hot(target, 3).permute(0, 3, 1, 2) * 50.0
    assert segmentation_loss(logits, target).item() == pytest.approx(0, abs=1e-5)


def test_ignored_pixels_carry_no_loss_and_no_gradient(batch):
    logits, target = batch
    segmentation_loss(logits, target).backward()
    ignored = (target == IGNORED).unsqueeze(1).expand_as(logits)
    assert logits.grad[ignored].abs().max() == 0
    assert logits.grad[~ignored].abs().min() > 0
    changed = torch.where(ignored, 7.0, logits.detach())
    torch.testing.assert_close(segmentation_loss(changed, target), segmentation_loss(logits, target))


def test_all_ignored_is_zero_with_a_gradient():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 4, 4), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_logits_and_log_probabilities_are_the_same(batch):
    logits, target = batch
    torch.testing.assert_close(
        segmentation_loss(logits, target), segmentation_loss(F.log_softmax(logits, dim=1), target)
    )


def test_gradient(batch):
    logits, target = batch
    double = logits.detach().double().requires_grad_()
    expected = 0.7 * F.cross_entropy(double, target, ignore_index=IGNORED)
    (wanted,) = torch.autograd.grad(expected, double)
    (got,) = torch.autograd.grad(segmentation_loss(double, target, LossConfig(cross_entropy=0.7, dice=0)), double)
    torch.testing.assert_close(got.float(), wanted.float())
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, target).double(), double, eps=1e-2, atol=1e-3)


def test_half_precision_is_computed_in_single(batch):
    logits, target = batch
    half = logits.detach().half()
    torch.testing.assert_close(segmentation_loss(half, target), segmentation_loss(half.float(), target))


def test_branches_count_by_their_weight(batch):
    logits, target = batch
    branches = [torch.randn(2, 3, 6, 5) for _ in range(3)]
    loss = SegmentationLoss(LossConfig(branch=(0.5, 0.0, 2.0)), (1, 0.5, 2 / 3))
    assert loss.detach == (False, True, False)
    total, parts = loss(logits, branches, target)
    assert list(parts) == ["fused", "scale 1", "scale 1/2", "scale 2/3"]
    own = [segmentation_loss(b, target) for b in branches]
    for value, expected in zip(parts.values(), [segmentation_loss(logits, target), *own], strict=True):
        torch.testing.assert_close(value, expected.detach())
        assert not value.requires_grad
    torch.testing.assert_close(total, segmentation_loss(logits, target) + 0.5 * own[0] + own[1] + 2 * own[2])
    assert total.requires_grad


def test_the_weights_of_the_terms_count(batch):
    logits, target = batch
    results = [
        SegmentationLoss(LossConfig(cross_entropy=c, dice=d, branch=0.4), (1,))(logits, [logits], target)[0].item()
        for c, d in ((1, 0), (0, 1), (2, 3))
    ]
    assert results[2] == pytest.approx(2 * results[0] + 3 * results[1])


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (torch.zeros(2, 6, 5), "int64"),
        (torch.zeros(2, 5, 6, dtype=torch.int64), r"\(2, 6, 5\)"),
        (torch.full((2, 6, 5), 3), "holds 3; with 2 classes"),
        (torch.full((2, 6, 5), -1), "holds -1"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(batch, target, says):
    with pytest.raises(ModelError, match=says):
        SegmentationLoss(LossConfig(), (1,))(batch[0], [batch[0]], target)


def test_other_mistakes_are_refused(batch):
    logits, target = batch
    with pytest.raises(ModelError, match="2 branch weights for 3 scales"):
        SegmentationLoss(LossConfig(branch=(1.0, 1.0)), (1, 0.5, 0.25))
    with pytest.raises(ModelError, match="needs 2 branches"):
        SegmentationLoss(LossConfig(), (1, 0.5))(logits, [logits], target)


@pytest.mark.parametrize("terms", ["ce+dice", "bce+jaccard", "focal+tversky"])
@pytest.mark.parametrize("fusion", ["mean", "weighted", "max", "attention", "multihead", "feature_attention"])
def test_one_scale_has_its_loss_computed_once(fusion, terms):
    torch.manual_seed(0)
    config = ModelConfig(classes=("a", "b"), mpp=1.0, scales=(1.0,), fusion=fusion, branch=UNetConfig(depth=1, width=4))
    model, target = build_model(config), torch.randint(0, 3, (2, 16, 16))
    image, gradients, totals = torch.rand(2, 3, 16, 16), [], []
    for once in (False, True):
        loss = SegmentationLoss(LossConfig.model_validate(terms), (1,), fused_is_branch=once)
        model.zero_grad()
        total, parts = loss(*model.outputs([image]), target)
        total.backward()
        totals.append([total, *parts.values()])
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(totals[0], totals[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
