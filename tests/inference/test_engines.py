"""ONNX Runtime and OpenVINO as engines of a prediction: in float32 the probabilities are PyTorch's, tiling and
resuming are exact; and the fastest precision, with how far off it is."""

import hashlib
import sys

import numpy as np
import pytest
import torch

from napari_msunet.config import ModelConfig, PredictOptions, UNetConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Window
from napari_msunet.inference import budget, network
from napari_msunet.inference.network import openvino_has_bfloat16
from napari_msunet.inference.predict import predict, prediction
from napari_msunet.labels import open_labels
from napari_msunet.models import MSUNet, build_model
from napari_msunet.models.onnx_export import branch_onnx
from napari_msunet.slide import slide_from_array

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("openvino")

ENGINES = pytest.mark.parametrize("engine", ["onnx", "openvino"])


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
@ENGINES
def test_agrees_with_torch_and_tiles_exactly(engine, slide, model, tmp_path):
    torch_maps = maps(slide, model, tmp_path / "torch.zarr")
    whole = maps(slide, model, tmp_path / "whole.zarr", engine=engine)
    tiled = maps(slide, model, tmp_path / "tiled.zarr", engine=engine, tile=100, batch_size=2)
    short = maps(slide, model, tmp_path / "short.zarr", engine=engine, tile=100, margin=4)
    assert torch_maps.std() > 0.05
    assert np.abs(whole - torch_maps).max() < 1e-4
    assert np.abs(tiled - whole).max() < 1e-4
    assert np.abs(short - whole).max() > 1e-3
    assert not np.array_equal(whole, torch_maps)  # so it was another engine


@pytest.mark.slow
@ENGINES
def test_valid_convolutions_on_a_mirrored_slide_agree_with_torch(engine, slide, tmp_path):
    torch.manual_seed(0)
    branch = UNetConfig(depth=2, width=4, padding="mirror", norm="none")
    made = build_model(ModelConfig(classes=("a",), mpp=1.0, scales=(1.0,), fusion="mean", branch=branch)).eval()
    with torch.no_grad():
        made.branches[0].head.weight.mul_(5)
    torch_maps = maps(slide, made, tmp_path / "torch.zarr")
    tiled = maps(slide, made, tmp_path / "tiled.zarr", engine=engine, tile=100)
    assert torch_maps.std() > 0.05
    assert np.abs(tiled - torch_maps).max() < 1e-4


def chunks(out):
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob("runs/*/*/*/c/**/*"))
        if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "precision"),
    [("onnx", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"), ("torch", "bfloat16"), ("torch", "fast")],
)
def test_resumed_gives_the_same_bytes(engine, precision, slide, model, tmp_path):
    if (engine, precision) == ("openvino", "bfloat16") and not openvino_has_bfloat16():
        pytest.skip("this processor has no bfloat16")
    options = PredictOptions(engine=engine, precision=precision, tile=100, outputs=("labels", "probabilities"))
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


def test_openvino_that_is_not_installed_is_told_in_a_sentence(slide, model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    network._openvino_core.cache_clear()
    with pytest.raises(ModelError, match=r"needs openvino.*napari-msunet\[openvino\]"):
        predict(slide, model, tmp_path / "x.zarr", engine="openvino")
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.parametrize(
    ("engine", "options", "words"),
    [
        ("onnx", {"precision": "bfloat16"}, "engine='onnx' computes in float32"),
        ("onnx", {"compile": True}, "ONNX Runtime compiles the network itself"),
        ("openvino", {"precision": "float16"}, "float32 or bfloat16"),
        ("openvino", {"compile": True}, "OpenVINO compiles the network itself"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(engine, options, words, slide, model, tmp_path):
    with pytest.raises(ModelError, match=words):
        predict(slide, model, tmp_path / "x.zarr", engine=engine, **options)


# ----------------------------------------------------------------------------------------------------------------------
# precision="fast"


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """A folder of measured speeds of its own."""
    monkeypatch.setattr(budget, "_folder", lambda: tmp_path / "speed")
    return tmp_path / "speed"


def of_kind(events, kind):
    return [event for event in events if event.event == kind]


@pytest.mark.slow
def test_the_fastest_is_measured_once_and_its_difference_is_kept(slide, model, own_cache, tmp_path):
    chosen = budget.fastest(model, torch.device("cpu"), PredictOptions(precision="fast"))
    assert len(list(own_cache.glob("fastest-*.json"))) == 1
    assert budget.fastest(model, torch.device("cpu"), PredictOptions(precision="fast")) == chosen
    events = list(prediction(slide, [model], tmp_path / "x.zarr", PredictOptions(precision="fast")))
    assert chosen.words in [event.text for event in of_kind(events, "message")]
    (result,) = of_kind(events, "result")
    if chosen.options["precision"] == "float32":
        assert "precision" not in result.values
    else:
        assert result.values["precision"]["pixels"] > 0
    labels = open_labels(tmp_path / "x.zarr")
    (run,) = labels.runs
    assert {name: run.description["options"][name] for name in ("engine", "precision")} == chosen.options


def test_what_is_not_faster_is_not_taken_and_that_is_said(model, own_cache, monkeypatch):
    seconds = {"torchfloat32": 1.0, "torchbfloat16": 2.0, "openvinofloat32": 0.95, "openvinobfloat16": 0.97}
    monkeypatch.setattr(budget.Speeds, "once", lambda self: seconds[self.what])
    chosen = budget.fastest(model, torch.device("cpu"), PredictOptions(precision="fast"))
    assert chosen.options == {"engine": "torch", "precision": "float32"}
    assert "Nothing is faster" in chosen.words


@pytest.mark.slow
def test_how_far_bfloat16_is_off_is_measured_on_the_slide(slide, model, tmp_path):
    options = PredictOptions(precision="bfloat16", tile=128)
    (result,) = of_kind(prediction(slide, [model], tmp_path / "x.zarr", options), "result")
    found = result.values["precision"]
    exact, half = (
        maps(slide, model, tmp_path / f"{name}.zarr", precision=name, tile=128) for name in ("float32", "bfloat16")
    )
    assert 0 < found["largest"] <= np.abs(exact - half).max() + 1e-6
    assert 0 <= found["changed"] < 0.2
