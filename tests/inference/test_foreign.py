"""Models out (ONNX, torch.export) and in (ONNX, bioimage.io's ONNX weights), over a slide."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter

import napari_msunet as ms
from napari_msunet.config import ExportModelJob, PredictJob
from napari_msunet.errors import ModelError, MsunetError, OutputError
from napari_msunet.events import Message, Result
from napari_msunet.models.foreign_network import load_foreign

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    noise = np.random.default_rng(0).random((3, 500, 620))
    smooth = gaussian_filter(noise, (0, 5, 5))
    values = np.clip(127.5 + 30 * (smooth - smooth.mean()) / smooth.std(), 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    pixels = np.moveaxis(values, 0, -1)
    tifffile.imwrite(path, pixels, photometric="rgb", resolution=(10000, 10000), resolutionunit="CENTIMETER")
    return path


def made(**given: object) -> ms.MSUNet:
    """A network whose output varies, though it is not trained."""
    torch.manual_seed(3)
    branch = ms.UNetConfig(depth=2, width=4)
    config = {"scales": (1.0, 0.5), "fusion": "mean", **given}
    model = ms.build_model(ms.ModelConfig(classes=("gland",), mpp=1.0, branch=branch, **config)).eval()
    with torch.no_grad():
        x = torch.rand(2, 3, 64, 64)
        for b in model.branches:
            b.head.weight *= 8
            z = b.head(b.network((x - 0.5) / 0.25))
            b.head.bias -= z.mean((0, 2, 3))
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ms.MSUNet, Path]:
    model, path = made(), tmp_path_factory.mktemp("model") / "model.onnx"
    found = ms.export_model(model, path)
    assert found.any_size
    assert found.difference < 1e-5
    return model, path


@pytest.mark.slow
def test_an_exported_model_predicts_a_slide_as_the_model_does(exported, slide: Path, tmp_path: Path):
    model, path = exported
    with ms.predict(slide, model, tmp_path / "own.ome.zarr", outputs=("labels", "probabilities")) as labels:
        own, wanted = np.asarray(labels.levels[0]), np.asarray(labels.probabilities)
    with ms.predict(slide, path, tmp_path / "onnx.ome.zarr", outputs=("labels", "probabilities")) as labels:
        found, got = np.asarray(labels.levels[0]), np.asarray(labels.probabilities)
        assert labels.classes == ("gland",)
    assert 0.05 < own.mean() < 0.95
    # the coarse scale is the mean of read pixels here, and read on its own there: half a grey value of 255
    assert np.abs(got - wanted).max() < 0.05
    assert (found != own).mean() < 0.01


@pytest.mark.slow
def test_torch_export(tmp_path: Path):
    model = made(scales=(1.0,))
    found = ms.export_model(model, tmp_path / "m.pt2")
    x = torch.rand(1, 3, 64, 96)
    extra = {"napari_msunet.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    with torch.no_grad():
        np.testing.assert_allclose(program.module()(x), torch.softmax(model([x]), 1), atol=1e-5)
    said = json.loads(extra["napari_msunet.json"])
    assert said["classes"] == ["background", "gland"]
    assert said["multiple"] == found.multiple == model.config.size_multiple
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt2"]


CENTRE = 0.5
"""The mean of the slide, so that about half of it is bright."""


class Blur(torch.nn.Module):
    """Logits that look 20 pixels far, with background first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = torch.nn.functional.avg_pool2d(x.mean(1, keepdim=True), 41, 1, 20, count_include_pad=True)
        return torch.cat((torch.zeros_like(mean), 60 * (mean - CENTRE)), 1)


def foreign(path: Path, **said: object) -> Path:
    """Another program's ONNX file, with what is declared about it."""
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        Blur(), (torch.rand(2, 3, 96, 128),), dynamo=True, dynamic_shapes={"x": free}, verbose=False
    )
    path.write_bytes(program.model_proto.SerializeToString())
    if said:
        path.with_name(f"{path.name}.json").write_text(json.dumps(said))
    return path


SAID = {"classes": ["bright"], "mpp": 1.0, "tile": 128, "output": "logits", "background": True}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_declared_model_and_the_seam_meter(slide: Path, tmp_path: Path):
    wide = foreign(tmp_path / "wide.onnx", **SAID, overlap=24)
    narrow = foreign(tmp_path / "narrow.onnx", **SAID, overlap=0)
    seams, stores = {}, {}
    for path in (wide, narrow):
        job = PredictJob(slide=slide, model=path, out=tmp_path / f"{path.stem}.ome.zarr")
        events = list(ms.run(job))
        result = events[-1]
        assert isinstance(result, Result)
        seams[path.stem] = result.values["seam"]
        assert any("tile borders" in e.text for e in events if isinstance(e, Message))
        stores[path.stem] = np.asarray(ms.open_labels(job.out).levels[0])
        again = list(ms.run(job))
        assert any("complete already" in e.text for e in again if isinstance(e, Message))
    assert seams["wide"] == {"near": 0.0, "elsewhere": 0.0}
    assert seams["narrow"]["near"] > 0.01
    with torch.no_grad(), ms.open_slide(slide) as opened:
        pixels = torch.from_numpy(opened.read(ms.Region(0, 0, 500, 620))).permute(2, 0, 1)[None] / 255
        padded = torch.nn.functional.pad(pixels, (40, 40, 40, 40), value=1.0)  # background is white
        wanted = Blur()(padded).argmax(1)[0, 40:-40, 40:-40].numpy()
    assert (stores["wide"] != wanted).mean() < 1e-3
    assert (stores["narrow"] != wanted).mean() > 0.003


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_bioimageio_package(slide: Path, tmp_path: Path):
    weights = foreign(tmp_path / "weights.onnx")
    axes = [
        {"type": "space", "id": a, "unit": "micrometer", "scale": 1.0, "size": {"min": 64, "step": 32}} for a in "yx"
    ]
    names = {"type": "channel", "channel_names": ["background", "bright"]}
    rdf = {
        "format_version": "0.5.3",
        "type": "model",
        "inputs": [
            {
                "id": "image",
                "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["r", "g", "b"]}, *axes],
                "preprocessing": [{"id": "scale_linear", "kwargs": {"gain": 1 / 255, "offset": 0.0}}],
            }
        ],
        "outputs": [
            {
                "id": "probability",
                "axes": [{"type": "batch"}, names, *({"type": "space", "id": a, "halo": 24} for a in "yx")],
                "postprocessing": [{"id": "softmax", "kwargs": {"axis": "channel"}}],
            }
        ],
        "weights": {"onnx": {"source": "weights.onnx", "opset_version": 18}},
    }
    package = tmp_path / "package.zip"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("rdf.yaml", json.dumps(rdf))
        archive.write(weights, "weights.onnx")
    network = load_foreign(package)
    assert (network.classes, network.mpp, network.overlap, network.multiple) == (("bright",), 1.0, 24, 32)
    same = foreign(tmp_path / "same.onnx", **(SAID | {"tile": network.tile}), overlap=24)
    with (
        ms.predict(slide, package, tmp_path / "a.ome.zarr") as one,
        ms.predict(slide, same, tmp_path / "b.ome.zarr") as two,
    ):
        np.testing.assert_array_equal(np.asarray(one.levels[0]), np.asarray(two.levels[0]))
    rdf["weights"] = {"pytorch_state_dict": {"source": "weights.pt"}}
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("rdf.yaml", json.dumps(rdf))
    with pytest.raises(ModelError, match="no ONNX weights"):
        load_foreign(package)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_read_is_said(slide: Path, tmp_path: Path):
    bare = foreign(tmp_path / "bare.onnx")
    with pytest.raises(ModelError, match=r"bare\.onnx\.json"):
        load_foreign(bare)
    wrong = foreign(tmp_path / "wrong.onnx", **(SAID | {"classes": ["a", "b"]}), overlap=0)
    with pytest.raises(ModelError, match="2 channels in its output, but 3"):
        load_foreign(wrong)
    with pytest.raises(ModelError, match="leaves nothing"):
        load_foreign(foreign(tmp_path / "small.onnx", **SAID, overlap=64))
    good = foreign(tmp_path / "good.onnx", **SAID, overlap=24)
    with pytest.raises(MsunetError, match="has no tta"):
        ms.predict(slide, good, tmp_path / "o.ome.zarr", tta="flips")
    with pytest.raises(ModelError, match="ensemble"):
        ms.predict(slide, [good, good], tmp_path / "o.ome.zarr")
    (tmp_path / "cut.onnx").write_bytes(good.read_bytes()[:500])
    with pytest.raises(ModelError, match="cannot be read as an ONNX"):
        load_foreign(tmp_path / "cut.onnx")
    (tmp_path / "cut.zip").write_bytes(b"PK\3\4 nothing")
    with pytest.raises(ModelError, match="damaged"):
        load_foreign(tmp_path / "cut.zip")
    for name, text in (("m.pt", "weights_only"), ("m.torchscript", "onnx.export")):
        (tmp_path / name).write_bytes(b"\x80\x02")
        with pytest.raises(ModelError, match=text):
            ms.load_model(tmp_path / name)
    assert not (tmp_path / "o.ome.zarr").exists()


def test_what_cannot_be_exported_is_said(tmp_path: Path):
    with pytest.raises(OutputError, match=r"\.pt2"):
        ms.export_model(made(), tmp_path / "m.pkl")
    classical = ms.ModelConfig(classes=("a",), mpp=1.0, scales=(1.0,), fusion="mean", branch=ms.ClassicalConfig())
    with pytest.raises(ModelError, match="classical"):
        ms.export_model(ms.build_model(classical), tmp_path / "m.onnx")
    job = ExportModelJob(model=tmp_path / "none.safetensors", out=tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="no model file"):
        list(ms.run(job))
    assert not list(tmp_path.iterdir())
