"""Every branch network is trained for real: the loss falls, and it finds on new images what chance does not."""

import pytest
import torch
from branch_networks import NETWORKS

from napari_msunet.config import LossConfig, ModelConfig
from napari_msunet.models import SegmentationLoss, build_model
from napari_msunet.models.blocks import of_the_batch

STEPS, BATCH, SIDE = 40, 4, 64
MORE = {"linknet": 100}
"""Steps of a network that begins at half the resolution and learns its outlines late."""
CHANCE = 0.2
"""IoU of calling everything an object: their share of the area."""


def scenes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Discs on noise, which differ from it by their texture: `(count, 3, SIDE, SIDE)` in 0..1, and what is a disc."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    truth = torch.zeros(count, SIDE, SIDE, dtype=torch.long)
    for _ in range(4):
        centre = torch.rand(2, count, 1, 1, generator=generator) * SIDE
        radius = 5 + 6 * torch.rand(count, 1, 1, generator=generator)
        truth[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = 1
    noise = torch.rand(count, 3, SIDE, SIDE, generator=generator)
    stain = 0.15 * torch.rand(count, 3, 1, 1, generator=generator)
    return (0.5 * noise + 0.25 * truth[:, None] + stain).clamp(0, 1), truth


QUICK = ("plain", "space to depth", "hrnet")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_it_learns(name):
    config = ModelConfig(classes=("disc",), mpp=1.0, scales=(1.0,), fusion="mean", branch=NETWORKS[name])
    torch.manual_seed(0)
    model = build_model(config)
    before = [p.detach().clone() for p in model.parameters()]
    loss, optimiser = SegmentationLoss(LossConfig(), config.scales), torch.optim.AdamW(model.parameters(), 5e-3)
    steps = MORE.get(name, STEPS)
    images, truth = scenes(steps * BATCH, seed=1)
    course = []
    for step in range(steps):
        part = slice(step * BATCH, (step + 1) * BATCH)
        fused, own = model.outputs([images[part]])
        total, _ = loss(fused, own, truth[part])
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        course.append(float(total.detach()))
    assert sum(course[-5:]) < 0.8 * sum(course[:5])
    assert all((p != b).any() for p, b in zip(model.parameters(), before, strict=True))
    images, truth = scenes(8, seed=2)
    with torch.no_grad(), of_the_batch(model.eval()):
        found = model([images]).argmax(1)
    both, either = ((found == 1) & (truth == 1)).sum(), ((found == 1) | (truth == 1)).sum()
    assert float((truth == 1).float().mean()) < CHANCE
    assert float(both / either) > CHANCE + 0.3
