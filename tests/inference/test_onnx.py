"""ONNX Runtime as the engine of a prediction: the probabilities are PyTorch's, tiling is exact, resuming too."""

import hashlib
import sys

import numpy as np
import pytest
import torch

from napari_msunet.config import ModelConfig, PredictOptions, UNetConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window
from napari_msunet.inference.predict import predict, prediction
from napari_msunet.models import MSUNet, build_model
from napari_msunet.models.onnx_export import branch_onnx
from napari_msunet.slide import slide_from_array

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def slide():
    rng = np.random.default_rng(0)
    coarse = rng.random((18, 22, 3)).repeat(20, 0).repeat(20, 1)
    return slide_from_array((coarse * 200 + rng.random(coarse.shape) * 55).astype(np.uint8), mpp=1.0)


@pytest.fixture(scope="module")
def model() -> MSUNet:
    """Its output varies: statistics of noise, opinions threefold."""
    torch.manual_seed(0)
    made = build_model(
        ModelConfig(classes=("a",), mpp=1.0, scales=(1.0, 0.5), shared=True, branch=UNetConfig(depth=2, width=4))
    )
    with torch.no_grad():
        for _ in range(5):
            made([torch.rand(2, 3, 64, 64), torch.rand(2, 3, 32, 32)], field="same")
        for name, parameter in made.named_parameters():
            if "head" in name:
                parameter.mul_(3)
    return made.eval()


def maps(slide, model, out, **options):
    labels = predict(slide, model, out, outputs=("labels", "probabilities"), probability_dtype="float32", **options)
    found = labels.probabilities.compute()
    labels.close()
    return found


@pytest.mark.slow
def test_agrees_with_torch_and_tiles_exactly(slide, model, tmp_path):
    torch_maps = maps(slide, model, tmp_path / "torch.zarr")
    whole = maps(slide, model, tmp_path / "whole.zarr", engine="onnx")
    tiled = maps(slide, model, tmp_path / "tiled.zarr", engine="onnx", tile=100, batch_size=2)
    short = maps(slide, model, tmp_path / "short.zarr", engine="onnx", tile=100, margin=4)
    assert torch_maps.std() > 0.05
    assert np.abs(whole - torch_maps).max() < 1e-4
    assert np.abs(tiled - whole).max() < 1e-4
    assert np.abs(short - whole).max() > 1e-3
    assert not np.array_equal(whole, torch_maps)  # so it was another engine


@pytest.mark.slow
def test_valid_convolutions_on_a_mirrored_slide_agree_with_torch(slide, tmp_path):
    torch.manual_seed(0)
    branch = UNetConfig(depth=2, width=4, padding="mirror", norm="none")
    made = build_model(ModelConfig(classes=("a",), mpp=1.0, scales=(1.0,), fusion="mean", branch=branch)).eval()
    with torch.no_grad():
        made.branches[0].head.weight.mul_(5)
    torch_maps = maps(slide, made, tmp_path / "torch.zarr")
    tiled = maps(slide, made, tmp_path / "tiled.zarr", engine="onnx", tile=100)
    assert torch_maps.std() > 0.05
    assert np.abs(tiled - torch_maps).max() < 1e-4


def chunks(out):
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob("runs/*/*/*/c/**/*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_resumed_gives_the_same_bytes(slide, model, tmp_path):
    options = PredictOptions(engine="onnx", tile=100, outputs=("labels", "probabilities"))
    list(prediction(slide, [model], tmp_path / "straight.zarr", options))
    events = prediction(slide, [model], tmp_path / "broken.zarr", options)
    while next(events).event != "region_done":
        pass
    events.close()
    assert len(chunks(tmp_path / "broken.zarr")) > 0
    list(prediction(slide, [model], tmp_path / "broken.zarr", options))
    assert chunks(tmp_path / "broken.zarr") == chunks(tmp_path / "straight.zarr")


@pytest.mark.slow
def test_an_exported_branch_takes_windows_of_any_size(model):
    session = onnxruntime.InferenceSession(branch_onnx(model, 1), providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 4, 12), (3, 3, 40, 20)):
        x = torch.rand(shape)
        (found,) = session.run(None, {"x": x.numpy()})
        with torch.inference_mode():
            expected = model.run_branch(1, x, Window(0, 0, *shape[2:])).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_a_missing_package_is_told_in_a_sentence(package, slide, monkeypatch, tmp_path):
    torch.manual_seed(7)
    fresh = build_model(ModelConfig(classes=("a",), mpp=1.0, scales=(1.0,), branch=UNetConfig(depth=1, width=2)))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"needs {package}.*napari-msunet\[onnx\]"):
        predict(slide, fresh, tmp_path / "x.zarr", engine="onnx")
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"compile": True}])
def test_what_it_cannot_do_is_refused(options, slide, model, tmp_path):
    with pytest.raises(ModelError, match="engine='onnx' computes in float32"):
        predict(slide, model, tmp_path / "x.zarr", engine="onnx", **options)
