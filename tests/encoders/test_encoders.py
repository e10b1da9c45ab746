"""Encoders of timm as branches; skipped where the extra `encoders` is not installed: `make test-encoders` runs them.

Nothing is downloaded.
"""

from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("segmentation_models_pytorch", reason="the extra `encoders` is not installed")

import timm
from safetensors.torch import save_file

import napari_msunet
from napari_msunet.config import EncoderConfig, LossConfig, ModelConfig, UNetConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window
from napari_msunet.inference.budget import bytes_per_pixel
from napari_msunet.inference.image import predict_image
from napari_msunet.models import SegmentationLoss, build_model, load_model, save_model
from napari_msunet.models.networks import EncoderNetwork
from napari_msunet.models.strip_inference import folded
from napari_msunet.slide import open_slide

SLIDE = Path(napari_msunet.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"
EXACT = ("unet", "unetplusplus", "linknet")
NETWORKS = {
    **{decoder: EncoderConfig(encoder="resnet18", decoder=decoder, depth=4, width=8) for decoder in EXACT},
    "fpn": EncoderConfig(encoder="resnet18", decoder="fpn", depth=4, width=8),
    "manet": EncoderConfig(encoder="resnet18", decoder="manet", depth=4, width=8),
    "deeplabv3plus": EncoderConfig(encoder="resnet18", decoder="deeplabv3plus", depth=4, width=8),
    "efficientnet": EncoderConfig(encoder="efficientnet_b0", depth=5, width=8),
    "hrnet": EncoderConfig(encoder="hrnet_w18_small", depth=5, width=8),
}
FINITE = (*EXACT, "hrnet")


def config(branch, **changes) -> ModelConfig:
    return ModelConfig(
        **{"classes": ("a",), "mpp": 2.0, "scales": (1.0,), "fusion": "mean", "branch": branch, **changes}
    )


def disc(count: int, seed: int, side: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centre = (0.25 + 0.5 * torch.rand(2, count, 1, 1, generator=generator)) * side
    truth = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (side / 5) ** 2).long()
    return (0.5 * torch.rand(count, 3, side, side, generator=generator) + 0.3 * truth[:, None]).clamp(0, 1), truth


@pytest.mark.parametrize("name", NETWORKS)
def test_it_learns_is_saved_and_says_whether_it_is_exact(name, tmp_path):
    torch.manual_seed(0)
    model = build_model(config(NETWORKS[name]))
    images, truth = disc(60, 1)
    loss, optimiser, course = SegmentationLoss(LossConfig(), (1.0,)), torch.optim.AdamW(model.parameters(), 1e-3), []
    for step in range(15):
        part = slice(4 * step, 4 * step + 4)
        total, _ = loss(*model.outputs([images[part]]), truth[part])
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        course.append(float(total.detach()))
    assert sum(course[-3:]) < 0.85 * sum(course[:3])
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    save_model(model, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    x = torch.rand(1, 3, 70, 101)
    with torch.no_grad():
        found = model([x])
        assert found.shape == (1, 2, 70, 101)
        assert torch.equal(loaded([x]), found)
        torch.testing.assert_close(folded(model)([x]), found, atol=1e-4, rtol=1e-4)
    assert model.exact is (name in FINITE)
    assert (model.reaches[0].aligned < inf) is (name in FINITE)
    assert bytes_per_pixel(model.config) > 100


@pytest.mark.parametrize("name", ["unet", "hrnet"])
def test_tiles_are_exact(name):
    torch.manual_seed(0)
    model = build_model(config((UNetConfig(depth=2, width=8), NETWORKS[name]), scales=(1.0, 0.5)))
    with torch.no_grad():
        for _ in range(3):
            model([torch.rand(2, 3, 128, 128), torch.rand(2, 3, 64, 64)], field="same")
    model.eval()
    with open_slide(SLIDE) as slide:
        window = Window(64, 32, 500, 450)
        whole = predict_image(model, slide, window, tile=1024)
        tiled = predict_image(model, slide, window, tile=128)
    for output in model.config.outputs:
        assert whole[output].std(axis=(1, 2)).max() > 1e-3
        assert np.abs(whole[output] - tiled[output]).max() < 1e-4


def test_an_inexact_one_is_predicted_blended():
    torch.manual_seed(0)
    model = build_model(config(NETWORKS["efficientnet"])).eval()
    with pytest.raises(ModelError, match="no margin"):
        _ = model.margin
    with open_slide(SLIDE) as slide:
        found = predict_image(model, slide, Window(0, 0, 300, 300), tile=192)["fused"]
    assert found.shape == (2, 300, 300)
    assert np.isfinite(found).all()


def test_its_own_input_normalisation():
    model = build_model(config(NETWORKS["unet"])).eval()
    network = model.branches[0].network
    known = timm.get_pretrained_cfg("resnet18")
    x = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (known.mean, known.std))
    with torch.no_grad():
        torch.testing.assert_close(model.branch_logits([x])[0], model.branches[0].head(network((x - mean) / std)))


@pytest.mark.parametrize("channels", [3, 5])
def test_weights_from_a_file(channels, tmp_path):
    torch.manual_seed(4)
    known = timm.create_model("resnet18", pretrained=False)
    save_file(known.state_dict(), tmp_path / "w.safetensors")
    branch = NETWORKS["unet"].model_copy(update={"weights": str(tmp_path / "w.safetensors"), "frozen": True})
    model = build_model(config(branch, channels=channels))
    network = model.branches[0].network
    assert isinstance(network, EncoderNetwork)
    kept = {name: t.clone() for name, t in network.encoder.state_dict().items()}
    assert torch.equal(kept["model.layer1.0.conv1.weight"], known.layer1[0].conv1.weight)
    if channels == 3:
        assert torch.equal(kept["model.conv1.weight"], known.conv1.weight)
    model.train()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model([torch.rand(2, channels, 64, 64)]).square().mean().backward()
    optimiser.step()
    assert all(torch.equal(t, kept[name]) for name, t in network.encoder.state_dict().items())
    assert all(p.grad is None for p in network.encoder.parameters())
    assert any(p.grad is not None for p in network.decoder.parameters())
    save_model(model, tmp_path / "m.safetensors")
    (tmp_path / "w.safetensors").unlink()  # a model file holds its own
    load_model(tmp_path / "m.safetensors")


def test_other_weights_and_names_are_refused(tmp_path):
    save_file(timm.create_model("resnet34", pretrained=False).state_dict(), tmp_path / "w.safetensors")
    other = NETWORKS["unet"].model_copy(update={"encoder": "resnet50", "weights": str(tmp_path / "w.safetensors")})
    with pytest.raises(ModelError, match="not those of the encoder resnet50"):
        build_model(config(other))
    torch.save({"a": torch.zeros(1)}, tmp_path / "p.safetensors")
    with pytest.raises(ModelError, match="no pickle"):
        build_model(config(other.model_copy(update={"weights": str(tmp_path / "p.safetensors")})))
    with pytest.raises(ModelError, match="no encoder 'resnet999'"):
        build_model(config(EncoderConfig(encoder="resnet999")))
    with pytest.raises(ModelError, match="another encoder, decoder or depth"):
        build_model(config(EncoderConfig(encoder="vit_tiny_patch16_224", decoder="linknet")))


@pytest.mark.parametrize("encoder", ["resnet50", "efficientnet_b3", "hrnet_w32", "convnext_tiny"])
def test_encoders_by_name(encoder):
    depth = 4 if encoder.startswith("convnext") else 5
    with torch.no_grad():
        model = build_model(config(EncoderConfig(encoder=encoder, depth=depth))).eval()
        assert model([torch.rand(1, 3, 64, 96)]).shape == (1, 2, 64, 96)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "tuned"])
@pytest.mark.parametrize("encoder", ["resnet50", "efficientnet_b3", "hrnet_w32"])
def test_the_encoders_that_are_compared_take_weights_from_a_file(encoder, frozen, tmp_path):
    torch.manual_seed(4)
    known = timm.create_model(encoder, pretrained=False)
    save_file({name: t.contiguous() for name, t in known.state_dict().items()}, tmp_path / "w.safetensors")
    weights = str(tmp_path / "w.safetensors")
    model = build_model(config(EncoderConfig(encoder=encoder, width=8, weights=weights, frozen=frozen))).train()
    network = model.branches[0].network
    assert isinstance(network, EncoderNetwork)
    own = network.encoder.state_dict()
    plain = {name.replace(".", "_"): t for name, t in known.state_dict().items()}
    taken = {name: plain[name.removeprefix("model.").replace(".", "_")] for name in own}
    assert all(torch.equal(own[name], tensor) for name, tensor in taken.items())
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model([torch.rand(2, 3, 64, 64)]).square().mean().backward()
    optimiser.step()
    changed = [name for name, t in network.encoder.state_dict().items() if not torch.equal(t, taken[name])]
    assert bool(changed) is not frozen


def test_hrnet_w32_is_exact_and_looks_very_far():
    model = build_model(config(EncoderConfig(encoder="hrnet_w32", width=8)))
    assert model.exact
    assert 40 * 32 < model.reaches[0].aligned < 80 * 32
