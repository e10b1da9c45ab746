"""Classical methods through a training, an evaluation and a prediction, by the same jobs as networks."""

import json

import numpy as np
import pytest
from data.making import write_folder
from skimage.filters import threshold_otsu
from training.test_training import make, run, values

import napari_msunet as ms
from napari_msunet.cli import execute
from napari_msunet.config import AutoModel, ClassicalConfig, ModelConfig
from napari_msunet.errors import ModelError, MsunetError
from napari_msunet.events import Message
from napari_msunet.geometry import Region
from napari_msunet.inference.image import predict_image
from napari_msunet.inference.slide_statistics import fit_statistics
from napari_msunet.models import build_model, load_model
from napari_msunet.slide import slide_from_array


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("discs"), 6)


def model(**method) -> AutoModel:
    return AutoModel(classes=("disc",), mpp=1.0, branch=ClassicalConfig(**method))


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    """The job of a k-means that was fitted to the images, its events, and its model file."""
    out = tmp_path_factory.mktemp("run") / "run"
    job = make(folders, out, model=model(method="kmeans", look="colour", parts=2, fit="training"), epochs=9)
    return job, run(job), out / "model.safetensors"


def test_it_is_fitted_in_one_pass_and_scored_like_a_network(trained):
    job, events, path = trained
    found = values(events)
    assert found["epochs"] == 1
    assert found["validation"]["fused"]["iou"] > 0.95
    assert found["train"]["fused"]["iou"] > 0.95
    assert any("fitted once" in e.text for e in events if isinstance(e, Message))
    assert {p.name for p in path.parent.iterdir()} >= {"job.json", "metrics.csv", "curves.png", "panels.png"}
    scores = ms.evaluate(ms.EvaluateJob(model=path, sources=job.sources)).scores
    assert scores["pooled"]["fused"]["dice"] > 0.97
    kept = load_model(path)
    centres = kept.branch(0).network.values.numpy() * 255
    assert np.abs(centres - [(150, 60, 160), (230, 200, 220)]).max() < 3
    assert kept.branch(0).network.group.tolist() == [1, 0]


def test_there_is_nothing_to_go_on_with(trained):
    job, _, path = trained
    before = path.stat().st_mtime_ns
    for changes in ({}, {"epochs": None, "time_limit": 60.0}):
        events = run(job.model_copy(update={"resume": True} | changes))
        assert "is finished after 1 epochs" in events[0].text
    assert path.stat().st_mtime_ns == before


def test_it_predicts_a_slide_by_the_same_engine(trained, tmp_path):
    rng = np.random.default_rng(0)
    pixels = np.where(rng.random((300, 260, 1)) < 0.3, (150, 60, 160), (230, 200, 220)).astype(np.uint8)
    slide = slide_from_array(pixels, mpp=1.0)
    with ms.predict(slide, load_model(trained[2]), out=tmp_path / "l.ome.zarr", tile=64) as labels:
        assert np.array_equal(labels.read(Region(0, 0, 300, 260)), pixels[..., 1] == 60)
        assert len(labels.runs) == 1
        ms.predict(slide, load_model(trained[2]), out=tmp_path / "l.ome.zarr", tile=64)
        assert len(labels.runs) == 1  # it is known, and nothing is computed again


def test_each_slide_has_its_own_threshold_whatever_the_tiles():
    rng = np.random.default_rng(1)
    dark = np.kron(rng.random((20, 22)) < 0.3, np.ones((10, 10)))[..., None] > 0
    config = ModelConfig(
        classes=("a",), mpp=1.0, scales=(1.0,), fusion="mean", branch=ClassicalConfig(look="colour", smooth=1.0)
    )
    made, found = build_model(config).eval(), []
    for low, high in ((40, 120), (130, 230)):
        grey = np.where(dark, low, high) + rng.normal(0, 4, dark.shape)
        slide = slide_from_array(np.repeat(grey, 3, -1).clip(0, 255).astype(np.uint8), mpp=1.0)
        whole = predict_image(made, slide, tile=512)["fused"]
        assert np.abs(predict_image(made, slide, tile=37)["fused"] - whole).max() < 1e-4
        assert (whole[1] > 0.5).mean() == pytest.approx(dark.mean(), abs=0.05)
        found.append(fit_statistics(made, [slide]))
    assert found[0] != found[1]
    assert not made.branch(0).network.fitted  # the model itself stays what it was


def test_the_threshold_of_a_slide_is_otsus():
    rng = np.random.default_rng(2)
    pixels = (90 + 90 * (rng.random((160, 160, 1)) < 0.5) + rng.normal(0, 9, (160, 160, 1))).clip(0, 255)
    slide = slide_from_array(np.repeat(pixels, 3, -1).astype(np.uint8), mpp=1.0)
    config = ModelConfig(
        classes=("a",),
        mpp=1.0,
        scales=(1.0,),
        fusion="mean",
        branch=ClassicalConfig(look="channel1", first="brightest"),
    )
    found = predict_image(build_model(config).eval(), slide)["fused"].argmax(0)
    seen = slide.read(Region(0, 0, 160, 160))[..., 0]
    assert (found == (seen > threshold_otsu(seen))).mean() > 0.999


def test_a_method_fitted_to_nothing_is_not_used(tmp_path):
    config = ModelConfig(classes=("a",), mpp=1.0, scales=(1.0,), fusion="mean", branch=ClassicalConfig(fit="training"))
    slide = slide_from_array(np.zeros((64, 64, 3), np.uint8), mpp=1.0)
    with pytest.raises(ModelError, match="not fitted yet"):
        ms.predict(slide, build_model(config).eval(), out=tmp_path / "l.ome.zarr")
    flat = build_model(config.model_copy(update={"branch": ClassicalConfig()})).eval()
    with pytest.raises(ModelError, match="1 different value of density"):
        ms.predict(slide, flat, out=tmp_path / "l.ome.zarr")


def test_what_a_training_cannot_do_is_one_sentence(folders, tmp_path):
    with pytest.raises(MsunetError, match="on one device"):
        run(make(folders, tmp_path / "two", model=model(), devices=2, device="cpu"))
    grey = tmp_path / "grey"
    images, masks = write_folder(grey, 3, value=0)
    with pytest.raises(ModelError, match="annotate background and each class"):
        run(make((images, masks), tmp_path / "one", model=model()))


def test_by_the_command_line(folders, tmp_path, capsys):
    images, masks = folders
    given = ["--images", str(images), "--masks", str(masks), "--mpp", "1"]
    method = ["--network", "classical", "--method", "otsu", "--look", "haematoxylin", "--smooth-by", "0.5"]
    run_folder = tmp_path / "run"
    command = ["train", *given, "--classes", "disc", "--out", str(run_folder), "--model-mpp", "1", *method]
    assert execute(command) == 0
    capsys.readouterr()
    path = run_folder / "model.safetensors"
    assert execute(["evaluate", "--model", str(path), *given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"]["pooled"]["fused"]["dice"] > 0.97
    assert execute(["info", str(path), "--json"]) == 0
    assert "otsu of haematoxylin" in capsys.readouterr().out
    assert execute([*command, "--epochs", "3", "--print-job"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["branch"]["method"] == "otsu"


def test_a_model_without_training_by_the_command_line(tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    command = ["model", "classical", "--classes", "a,b", "--out", str(out)]
    assert execute([*command, "--model-mpp", "0.5", "--method", "kmeans", "--look", "colour"]) == 0
    made = load_model(out).config
    assert (made.mpp, made.scales, made.branch.method) == (0.5, (1.0,), "kmeans")
    for more, words in (
        (["--model-mpp", "0.5"], "too few for background and 2 classes"),
        (["--method", "kmeans"], "--model-mpp"),
        (["--model-mpp", "1", "--method", "kmeans", "--fit", "training"], "train it"),
        (["--model-mpp", "1", "--network", "unet"], "Only a classical method"),
    ):
        assert execute([*command, *more]) == 2
        assert words in " ".join(capsys.readouterr().err.split())
