"""The model file: whole or not at all, and what is no model of ours is said in one sentence."""

import json
import os
import shutil
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from napari_msunet.config import ModelConfig, UNetConfig
from napari_msunet.errors import ModelError, OutputError
from napari_msunet.models import build_model, load_model, save_model

SMALL = UNetConfig(depth=1, width=2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(ModelConfig(classes=("gland", "Drüse"), mpp=0.62, scales=(1, 2 / 3), branch=SMALL))


@pytest.fixture
def path(model, tmp_path):
    return save_model(model, tmp_path / "m.safetensors", {"epochs": 3, "iou": {"gland": 0.5}})


def rewritten(path, tensors=None, **changes):
    """The file again, with another header (None: without that line) or other weights."""
    with safe_open(path, "pt") as file:
        header = {**file.metadata(), **changes}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(found if tensors is None else tensors(found), path, {k: v for k, v in header.items() if v is not None})
    return path


def test_header_is_readable_by_anybody(path, model):
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header["format"] == "napari-msunet model"
    assert json.loads(header["config"])["classes"] == ["gland", "Drüse"]
    assert json.loads(header["summary"]) == {"epochs": 3, "iou": {"gland": 0.5}}
    assert header["schema_version"] == "1"
    assert header["package_version"]
    assert model.summary == {"epochs": 3, "iou": {"gland": 0.5}}


def test_round_trip(path, model):
    loaded = load_model(path)
    assert loaded.config == model.config
    assert loaded.summary == model.summary
    assert loaded.fingerprint == model.fingerprint
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    weight = loaded.branches[0].network.down[0][3].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.requires_grad
    assert loaded.normalise.mean.device.type == "cpu"
    again = save_model(loaded, path.with_name("again.safetensors"))
    assert load_model(again).fingerprint == model.fingerprint


def test_loading_draws_no_random_numbers(path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_model(path)
    assert torch.equal(torch.rand(3), expected)


def test_fingerprint_follows_weights_and_config(model):
    before = model.fingerprint
    with torch.no_grad():
        model.branches[0].head.bias[0] += 1e-6
    assert model.fingerprint != before
    torch.manual_seed(0)
    other = build_model(model.config.model_copy(update={"mpp": 0.63}))
    assert other.fingerprint != before


def test_a_loaded_model_learns_on(path):
    model = load_model(path).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.fingerprint
    model([torch.rand(2, 3, 12, 12), torch.rand(2, 3, 8, 8)]).square().mean().backward()
    optimiser.step()
    assert model.fingerprint != before


def test_no_such_file(tmp_path):
    with pytest.raises(ModelError, match="no model file"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="no model file"):
        load_model(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, 2000, -1])
def test_truncated(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="damaged"):
        load_model(path)


def test_a_pickle_is_never_opened(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="safetensors"):
        load_model(tmp_path / "m.safetensors")


def test_somebody_elses_safetensors(path):
    with pytest.raises(ModelError, match="no napari-msunet model"):
        load_model(rewritten(path, format=None))
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="no napari-msunet model"):
        load_model(path)


def test_newer_schema(path):
    with pytest.raises(ModelError, match="update napari-msunet"):
        load_model(rewritten(path, schema_version="99", package_version="9.0"))


def test_damaged_headers(path):
    with pytest.raises(ModelError, match="config in the model file"):
        load_model(rewritten(path, config="{}"))
    with pytest.raises(ModelError, match="config in the model file"):
        load_model(rewritten(path, config="{"))


def test_damaged_summary(path):
    with pytest.raises(ModelError, match="no JSON"):
        load_model(rewritten(path, summary="{"))


def test_weights_of_another_model(path, model):
    def without(tensors):
        return {name: t for name, t in tensors.items() if name != "fusion.bias"}

    with pytest.raises(ModelError, match=r"1 differ, such as fusion\.bias"):
        load_model(rewritten(path, without))


@pytest.mark.parametrize("change", [torch.Tensor.double, lambda t: t[:1]])
def test_weights_of_another_shape_or_type(path, change):
    with pytest.raises(ModelError, match=r"fusion\.bias"):
        load_model(rewritten(path, lambda tensors: {**tensors, "fusion.bias": change(tensors["fusion.bias"])}))


def test_a_header_cannot_ask_for_endless_memory(path, model):
    huge = model.config.model_copy(update={"branch": UNetConfig(depth=6, width=256)})
    with pytest.raises(ModelError, match="differ"):
        load_model(rewritten(path, config=huge.model_dump_json()))


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_folder(path, model):
    path.parent.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            save_model(model, path.with_name("new.safetensors"))
    finally:
        path.parent.chmod(0o700)


def test_no_such_folder_and_a_name_that_is_taken(path, model, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(model, tmp_path / "none" / "m.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(model, tmp_path / "folder.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_no_room_leaves_the_old_file_and_nothing_else(path, model):
    import resource

    old, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(old) // 2, limits[1]))
    try:
        with pytest.raises(OutputError, match="too large"):
            save_model(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]


def test_a_summary_that_is_no_json(path, model):
    with pytest.raises(ModelError, match="plain numbers"):
        save_model(model, path, {"loss": torch.zeros(1)})
    assert load_model(path).summary == {"epochs": 3, "iou": {"gland": 0.5}}
    assert model.summary == {"epochs": 3, "iou": {"gland": 0.5}}


def test_an_older_file_is_replaced(path, model):
    shutil.copy(path, path.with_name("copy.safetensors"))
    save_model(model, path, {"epochs": 4})
    assert load_model(path).summary == {"epochs": 4}
    assert sorted(os.listdir(path.parent)) == ["copy.safetensors", "m.safetensors"]


def test_a_changed_weight_is_found_and_a_file_without_checksum_opens(path):
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    changed = path.with_name("changed.safetensors")
    changed.write_bytes(data)
    with pytest.raises(ModelError, match="checksum is not that of its contents"):
        load_model(changed)
    with safe_open(path, framework="pt") as file:
        header = {name: value for name, value in file.metadata().items() if name != "checksum"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path.with_name("before.safetensors"), header)
    load_model(path.with_name("before.safetensors"))
