"""Starting from a model: what is taken over, by name and shape and class, and what cannot be."""

from pathlib import Path

import pytest
import torch

from napari_msunet.config import ModelConfig, Normalisation, UNetConfig
from napari_msunet.errors import ModelError
from napari_msunet.models import MSUNet, build_model, load_model, save_model
from napari_msunet.models.start_weights import open_start, take_weights

CONFIG = ModelConfig(classes=("gland", "stroma"), mpp=1.0, scales=(1.0, 0.5), branch=UNetConfig(depth=2, width=4))
FITTED = Normalisation(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def saved(folder: Path, **changes) -> Path:
    torch.manual_seed(1)
    config = CONFIG.model_copy(update={"normalisation": FITTED} | changes)
    return save_model(build_model(config), folder / "old.safetensors")


def begun(path: Path, **changes) -> MSUNet:
    start = open_start(path, CONFIG.model_copy(update=changes))
    torch.manual_seed(2)
    model = build_model(start.config)
    take_weights(model, start)
    return model.eval()


def logits(model: MSUNet) -> torch.Tensor:
    torch.manual_seed(3)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        return model([x, x[..., ::2, ::2]])


@pytest.mark.parametrize("fusion", ["mean", "weighted", "concat", "attention"])
def test_it_begins_as_the_start_ended(tmp_path, fusion):
    path = saved(tmp_path, fusion=fusion)
    old = load_model(path)
    new = begun(path, fusion=fusion)
    assert torch.equal(logits(old), logits(new))
    assert new.config.normalisation == FITTED


@pytest.mark.parametrize("fusion", ["mean", "concat", "attention"])
def test_classes_are_matched_by_name(tmp_path, fusion):
    path = saved(tmp_path, fusion=fusion)
    old = load_model(path)
    new = begun(path, fusion=fusion, classes=("nerve", "stroma", "gland"))
    heads = [model.branches[0].head for model in (old, new)]
    for was, now in ((0, 0), (1, 3), (2, 2)):
        assert torch.equal(heads[0].weight[was], heads[1].weight[now])
    assert not any(torch.equal(heads[1].weight[1], row) for row in heads[0].weight)
    if fusion == "concat":  # logits of a known class do not depend on the other classes
        assert torch.allclose(logits(old)[:, [0, 1, 2]], logits(new)[:, [0, 3, 2]], atol=1e-6)


def test_a_class_may_be_left_out(tmp_path):
    path = saved(tmp_path, fusion="concat")
    assert torch.allclose(
        logits(load_model(path))[:, [0, 2]], logits(begun(path, fusion="concat", classes=("stroma",))), atol=1e-6
    )
    words = open_start(path, CONFIG.model_copy(update={"fusion": "concat", "classes": ("stroma", "nerve")})).words()
    assert "nerve begins with random weights" in words
    assert "gland is left out" in words


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"scales": (1.0, 0.25)}, "scales"),
        ({"fusion": "mean"}, "fusion"),
        ({"branch": UNetConfig(depth=2, width=8)}, "width"),
        ({"branch": (UNetConfig(depth=2, width=4), UNetConfig(depth=3, width=4))}, "branch 2's depth"),
        ({"channels": 4}, "channels"),
    ],
)
def test_another_architecture_is_refused(tmp_path, changes, word):
    path = saved(tmp_path)
    with pytest.raises(ModelError, match=r"of another architecture.*" + word) as caught:
        open_start(path, CONFIG.model_copy(update=changes))
    assert str(caught.value).count(". ") == 0


def test_what_does_not_change_the_weights_may_differ(tmp_path):
    path = saved(tmp_path)
    changed = {"mpp": 2.0, "field": "concentric", "branch": UNetConfig(depth=2, width=4, dropout=0.3)}
    start = open_start(path, CONFIG.model_copy(update=changed))
    assert start.config.mpp == 2.0
    assert "trained at 1 µm per pixel" in start.words()


def test_no_model(tmp_path):
    with pytest.raises(ModelError, match="There is no model file"):
        open_start(tmp_path / "none.safetensors", CONFIG)
