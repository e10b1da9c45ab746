"""How several scales are trained: each way against a plain PyTorch training, step by step."""

import csv
import shlex
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from napari_msunet.cli import execute
from napari_msunet.config import FolderSource, LossConfig, ModelConfig, TrainJob, UNetConfig
from napari_msunet.errors import ModelError
from napari_msunet.models import build_model, load_model
from napari_msunet.training.distributed import Rank, many_devices
from napari_msunet.training.prepare import check

SIDE, STEPS, RATE = 32, 3, 0.1
FUSIONS = ("mean", "weighted", "max", "concat", "attention")


# ------------------------------------------------------------------------------- the reference, of plain layers only


def twice(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class PlainUNet(nn.Module):
    """Depth 1, with a head of two logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine, self.coarse = twice(3, width), twice(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.last = twice(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skipped = self.fine(x)
        return self.last(torch.cat([skipped, self.up(self.coarse(F.max_pool2d(skipped, 2)))], 1))


class Plain(nn.Module):
    """Two scales, 1 and 1/2, and a fusion by its formula: the probability of the class."""

    def __init__(self, fusion: str, width: int, separate: bool = False) -> None:
        super().__init__()
        self.fusion, self.separate = fusion, separate
        self.nets = nn.ModuleList(PlainUNet(width) for _ in range(2))
        self.scores = nn.Parameter(torch.zeros(2))
        self.concat = nn.Conv2d(2 * width, 2, 1)
        self.hidden, self.score = nn.Conv2d(2 * width, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        features = [net(x) for net, x in zip(self.nets, inputs, strict=True)]
        logits = [net.head(f) for net, f in zip(self.nets, features, strict=True)]

        def same_size(xs: list[Tensor]) -> list[Tensor]:
            return [xs[0], F.interpolate(xs[1], scale_factor=2, mode="bilinear")]

        features, logits = same_size(features), same_size(logits)
        own = [torch.sigmoid(one[:, 1] - one[:, 0]) for one in logits]
        if self.separate:
            features, logits = [f.detach() for f in features], [one.detach() for one in logits]
        return self._combined(features, logits), own

    def _combined(self, features: list[Tensor], logits: list[Tensor]) -> Tensor:
        p = torch.stack([torch.sigmoid(one[:, 1] - one[:, 0]) for one in logits])
        if self.fusion == "mean":
            return p.mean(0)
        if self.fusion == "weighted":
            return (torch.softmax(self.scores, 0).view(2, 1, 1, 1) * p).sum(0)
        if self.fusion == "max":
            return p.amax(0) / (p.amax(0) + (1 - p).amax(0))
        if self.fusion == "concat":
            both = self.concat(torch.cat(features, 1))
            return torch.sigmoid(both[:, 1] - both[:, 0])
        shares = torch.softmax(self.score(torch.relu(self.hidden(torch.cat(features, 1)))), 1)
        both = shares[:, :1] * logits[0] + shares[:, 1:] * logits[1]
        return torch.sigmoid(both[:, 1] - both[:, 0])


def fusion_tensors(model) -> dict[str, Tensor]:
    """The fusion's weights of a model of the project, under the names of the reference."""
    fusion, found = model.fusion, {}
    if model.config.fusion == "weighted":
        found["scores"] = fusion.scores
    if model.config.fusion in ("concat", "attention"):
        name = "concat" if model.config.fusion == "concat" else "hidden"
        found |= {f"{name}.weight": torch.cat([p.weight for p in fusion.projections], 1), f"{name}.bias": fusion.bias}
    if model.config.fusion == "attention":
        found |= {"score.weight": fusion.score.weight, "score.bias": fusion.score.bias}
    return found


def pairs(plain: Plain, model) -> list[tuple[Tensor, Tensor]]:
    """Each weight of the reference beside that of the model."""
    mine = [p for net in plain.nets for p in net.parameters()]
    theirs = [p for branch in model.branches for p in branch.parameters()]
    named = dict(plain.named_parameters())
    mine += [named[name] for name in fusion_tensors(model)]
    theirs += list(fusion_tensors(model).values())
    assert [p.shape for p in mine] == [p.shape for p in theirs]
    return list(zip(mine, theirs, strict=True))


def plain_training(plain: Plain, inputs: list[Tensor], truth: Tensor) -> list[float]:
    """The losses of the combined output before each step."""
    optimiser = torch.optim.SGD(plain.parameters(), lr=RATE, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        combined, own = plain(inputs)
        loss = F.binary_cross_entropy(combined, truth)
        losses.append(float(loss.detach()))
        if plain.separate:
            loss = loss + sum(F.binary_cross_entropy(p, truth) for p in own)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return losses


# ----------------------------------------------------------------------------------------------------- the comparison


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One image, as large as a window, whose half resolution is exact."""
    root = tmp_path_factory.mktemp("one")
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (SIDE // 2, SIDE // 2, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    mask = (np.hypot(*(np.mgrid[:SIDE, :SIDE] - SIDE / 2)) < SIDE / 3).astype(np.uint8)
    for name, pixels in (("images", image), ("masks", mask)):
        (root / name).mkdir()
        Image.fromarray(pixels).save(root / name / "a.png")
    return root, image, mask


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """`trained(fusion, branch_loss)`: the model after some steps, and the loss of the combined output before each."""

    @cache
    def once(fusion: str, branch_loss: str):
        return train(folder[0], tmp_path_factory.mktemp("run") / "run", fusion, branch_loss)

    return once


def train(folder, out, fusion: str, branch_loss: str):
    words = (
        f"train --classes disc --images {folder / 'images'} --masks {folder / 'masks'} --mpp 1 --model-mpp 1 "
        f"--scales 1,1/2 --field same --fusion {fusion} --depth 1 --width 2 --size {SIDE} --batch-size 1 --epochs 1 "
        f"--steps {STEPS} --validation 0 --augmentation none --optimiser sgd --learning-rate {RATE} --weight-decay 0 "
        f"--schedule constant --average none --loss bce --branch-loss {branch_loss} --device cpu --out {out}"
    )
    assert execute(shlex.split(words)) == 0
    with (out / "steps.csv").open(newline="") as file:
        losses = [float(row["loss_fused"]) for row in csv.DictReader(file)]
    return load_model(out / "last.safetensors"), losses


@pytest.mark.parametrize(
    ("fusion", "branch_loss"),
    [*((f, "off") for f in FUSIONS), ("attention", "separate"), ("mean", "separate")],
)
def test_the_weights_are_those_of_a_plain_training(folder, trained, fusion, branch_loss):
    _, image, mask = folder
    model, losses = trained(fusion, branch_loss)
    torch.manual_seed(0)
    begun = build_model(model.config)
    plain = Plain(fusion, 2, branch_loss == "separate")
    with torch.no_grad():
        for mine, theirs in pairs(plain, begun):
            mine.copy_(theirs)
    whole = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    normalised = [begun.normalise(x) for x in (whole, whole[..., ::2, ::2])]
    expected = plain_training(plain, normalised, torch.from_numpy(mask)[None].float())
    assert losses == pytest.approx(expected, rel=1e-5)
    moved = 0.0
    for (mine, theirs), (_, before) in zip(pairs(plain, model), pairs(plain, begun), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=0, atol=2e-5)
        moved = max(moved, float((mine - before).detach().abs().max()))
    assert moved > 0.02


def test_the_preset_is_the_method_as_it_was_written(folder, tmp_path):
    """Scales 1/2, 1 and 2 of one image by PyTorch's own resampling, the mean of sigmoids, one loss, Adam at 1e-4."""
    root, image, mask = folder
    words = (
        f"train --preset method --classes disc --images {root / 'images'} --masks {root / 'masks'} --mpp 1 "
        f"--model-mpp 1 --depth 1 --width 2 --size {SIDE} --batch-size 1 --epochs 1 --steps {STEPS} --validation 0 "
        f"--augmentation none --device cpu --out {tmp_path / 'run'}"
    )
    assert execute(shlex.split(words)) == 0
    model = load_model(tmp_path / "run" / "last.safetensors")
    torch.manual_seed(0)
    begun = build_model(model.config)
    nets = nn.ModuleList(PlainUNet(2) for _ in range(3))
    with torch.no_grad():
        for net, branch in zip(nets, begun.branches, strict=True):
            for mine, theirs in zip(net.parameters(), branch.parameters(), strict=True):
                mine.copy_(theirs)
    x = begun.normalise(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    inputs = [F.avg_pool2d(x, 2), x, F.interpolate(x, scale_factor=2, mode="bilinear")]
    truth = torch.from_numpy(mask)[None].float()
    optimiser = torch.optim.Adam(nets.parameters(), lr=1e-4, betas=(0.9, 0.999))
    expected = []
    for _ in range(STEPS):
        coarse, same, fine = (net.head(net(one)) for net, one in zip(nets, inputs, strict=True))
        logits = (F.interpolate(coarse, scale_factor=2, mode="bilinear"), same, F.avg_pool2d(fine, 2))
        loss = F.binary_cross_entropy(
            torch.stack([torch.sigmoid(one[:, 1] - one[:, 0]) for one in logits]).mean(0), truth
        )
        expected.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with (tmp_path / "run" / "steps.csv").open(newline="") as file:
        losses = [float(row["loss_fused"]) for row in csv.DictReader(file)]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert len(set(losses)) == STEPS
    for net, branch in zip(nets, model.branches, strict=True):
        for mine, theirs in zip(net.parameters(), branch.parameters(), strict=True):
            torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-5)  # each has moved by up to 3e-4


def test_each_way_gives_other_weights(trained):
    prints = [trained("attention", way)[0].fingerprint for way in ("off", "0.4", "0", "separate")]
    assert len(set(prints)) == 4


@pytest.mark.parametrize("fusion", [*FUSIONS, "feature_attention", "multihead"])
def test_separate_scales_keep_what_the_combined_output_says_to_themselves(fusion):
    """The same outputs, but a loss on the combined one trains the fusion alone, and one on a scale only that scale."""
    torch.manual_seed(0)
    small = UNetConfig(depth=1, width=2)
    model = build_model(ModelConfig(classes=("a",), mpp=1, scales=(1, 0.5), fusion=fusion, branch=small)).eval()
    inputs = [torch.rand(1, 3, 32, 32), torch.rand(1, 3, 16, 16)]
    plain, plain_own = model.outputs(inputs)
    fused, own = model.outputs(inputs, separate=True)
    torch.testing.assert_close([fused, *own], [plain, *plain_own])

    def taught(output: Tensor) -> set[str]:
        model.zero_grad()
        if output.requires_grad:
            output[:, 0].square().sum().backward(retain_graph=True)
        return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}

    assert taught(fused) == {name for name, _ in model.named_parameters() if name.startswith("fusion.")}
    for i, output in enumerate(own):
        assert {name.rsplit(".network", 1)[0].split(".head")[0] for name in taught(output)} == {f"branches.{i}"}


def job(folder, out, **options) -> TrainJob:
    source = FolderSource(images=folder / "images", masks=folder / "masks", mpp=1.0)
    small = UNetConfig(depth=1, width=2)
    model = ModelConfig(classes=("disc",), mpp=1.0, scales=(1, 0.5), branch=small, fusion=options.pop("fusion"))
    return TrainJob(model=model, sources=(source,), out=out, size=SIDE, validation=0.0, epochs=1, **options)


@pytest.mark.parametrize(("fusion", "said"), [("concat", True), ("mean", False)])
def test_it_is_said_where_the_scales_own_outputs_do_not_learn(folder, tmp_path, fusion, said):
    found = check(job(folder[0], tmp_path / "run", fusion=fusion, loss=LossConfig(branch="off")), devices=False)
    assert any("own outputs do not learn" in finding.text for finding in found) == said
    assert not [finding for finding in found if finding.level == "error"]


def test_several_devices_allow_for_heads_without_a_gradient(folder, tmp_path):
    for way, strategy in (("off", "ddp_find_unused_parameters_true"), (0.4, "ddp")):
        one = job(folder[0], tmp_path / "run", fusion="inject", loss=LossConfig(branch=way), devices=2)
        assert many_devices(one, torch.device("cpu"), Rank(0, 2, 1))["strategy"] == strategy


# ------------------------------------------------------------------------------------------------------------- config


def test_numbers_mean_what_they_meant():
    assert LossConfig().branch == 0.4
    for given, mode, weights in (
        (0.4, "joint", (0.4, 0.4)),
        (0, "joint", (0, 0)),
        ((1, 0.5), "joint", (1, 0.5)),
        ("joint", "joint", (0.4, 0.4)),
        ("off", "off", (0, 0)),
        ("separate", "separate", (1, 1)),
    ):
        config = LossConfig(branch=given)
        assert (config.branch_mode, config.branch_weights(2)) == (mode, weights)
        assert LossConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("given", ["of", -1, (0.1, "a"), float("nan"), None])
def test_other_values_are_refused_in_one_sentence(given):
    with pytest.raises(ValidationError, match="is no loss per scale") as error:
        LossConfig(branch=given)
    assert error.value.error_count() == 1


def test_the_number_of_weights_must_fit():
    with pytest.raises(ModelError, match="3 branch weights for 2 scales"):
        LossConfig(branch=(1, 1, 1)).branch_weights(2)


@pytest.mark.parametrize("fusion", ["inject", "pyramid"])
def test_scales_that_meet_inside_the_network_cannot_be_separate(folder, tmp_path, capsys, fusion):
    root, _, _ = folder
    words = (
        f"train --classes disc --images {root / 'images'} --masks {root / 'masks'} --mpp 1 --model-mpp 1 "
        f"--scales 1,1/2 --fusion {fusion} --depth 1 --width 2 --size 32 --branch-loss separate --device cpu "
        f"--out {tmp_path / 'run'}"
    )
    assert execute(shlex.split(words)) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "cannot be trained each by its own loss where they meet inside the network" in said
    model = build_model(ModelConfig(classes=("a",), mpp=1, scales=(1, 0.5), fusion=fusion, branch=UNetConfig(depth=1)))
    with pytest.raises(ModelError, match="meet inside the network"):
        model.outputs([torch.rand(1, 3, 32, 32), torch.rand(1, 3, 16, 16)], separate=True)
