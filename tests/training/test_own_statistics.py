"""Normalisation by each image's own statistics: the same from training to prediction, and exact in tiles."""

import numpy as np
import pytest
import torch
from data.making import disc, write_folder
from training.test_training import make, run, values

from napari_msunet.config import EncoderConfig, EvaluateJob, FolderSource, ModelConfig, OwnStatistics, UNetConfig
from napari_msunet.errors import ModelError, SourceError
from napari_msunet.inference import slide_statistics
from napari_msunet.inference.image import predict_image
from napari_msunet.inference.predict import predict
from napari_msunet.inference.slide_statistics import adapted, fit_statistics
from napari_msunet.models import build_model, load_model, save_model
from napari_msunet.slide import slide_from_array
from napari_msunet.training.evaluate import evaluate_events


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("discs"), 6)


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    """A model for each way, trained on few steps."""
    found = {}
    for by, within in (("image-z-score", "whole"), ("image-min-max", "whole"), ("image-z-score", "tissue")):
        out = tmp_path_factory.mktemp("own") / "run"
        events = run(make(folders, out, normalise=by, statistics_of=within, epochs=3))
        found[by, within] = (out / "model.safetensors", values(events))
    return found


def image(shift=0.0, gain=1.0):
    pixels = disc((130, 150), 11)[0].astype(float)
    return slide_from_array((pixels * gain + shift).round().clip(0, 255).astype(np.uint8), mpp=1.0)


def test_the_model_says_how_it_normalises(trained):
    for (by, within), (path, _) in trained.items():
        config = load_model(path).config
        assert config.own_statistics == OwnStatistics(by=by.removeprefix("image-"), within=within)
        assert config.normalisation.mean == (0.0,) * 3
        assert config.normalisation.std == (1.0,) * 3


def test_what_a_network_sees_is_the_image_by_its_own_statistics(trained):
    model, slide = load_model(trained["image-z-score", "whole"][0]), image()
    pixels = torch.from_numpy(slide.read_window(slide.grid(), slide.grid().whole)).permute(2, 0, 1)[None] / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    normal = (pixels - mean[:, None, None]) / std[:, None, None]
    own = adapted(model, fit_statistics(model, [slide]))
    torch.testing.assert_close(own.normalise(pixels), normal, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.normalise(pixels), pixels)
    assert own.fingerprint != model.fingerprint


def test_light_and_exposure_do_not_matter(trained):
    def moved(model):
        plain, other = (predict_image(model, s)["fused"] for s in (image(), image(30, 0.6)))
        assert plain.std() > 0.05
        return np.abs(plain - other).mean()

    for key in (("image-z-score", "whole"), ("image-min-max", "whole")):
        model = load_model(trained[key][0])
        own = moved(model)
        constant = adapted(model, fit_statistics(model, [image()]))  # the same for both images
        constant.config = constant.config.model_copy(update={"own_statistics": None})
        assert own < 0.25 * moved(constant), key


def test_tiles_are_exact_and_the_statistics_are_kept_with_the_run(trained, tmp_path):
    slide_statistics._found.clear()
    model, slide = load_model(trained["image-z-score", "tissue"][0]), image()
    whole = predict_image(model, slide, tile=256)["fused"]
    assert np.abs(predict_image(model, slide, tile=24)["fused"] - whole).max() < 1e-4
    labels = predict(
        slide,
        model,
        tmp_path / "l.ome.zarr",
        (20, 30, 70, 80),
        outputs=("labels", "probabilities"),
        tile=32,
        probability_dtype="float32",
    )
    stored = np.moveaxis(labels.probabilities[20:90, 30:110].compute(), -1, 0)
    assert np.abs(stored - whole[:, 20:90, 30:110]).max() < 1e-4
    assert labels.runs[0].description["statistics"] == [fit_statistics(model, [slide])]
    labels.close()


def test_the_score_of_a_training_is_that_of_an_evaluation(folders, trained):
    path, result = trained["image-z-score", "whole"]
    source = FolderSource(images=folders[0], masks=folders[1], mpp=1.0)
    *_, last = evaluate_events(EvaluateJob(model=path, sources=(source,), device="cpu"))
    assert last.values["pooled"]["fused"]["iou"] > 0.5
    assert result["train"]


def test_an_empty_image_is_one_sentence(trained, tmp_path):
    empty = slide_from_array(np.full((64, 64, 3), 255, np.uint8), mpp=1.0)
    with pytest.raises(SourceError, match="have one value"):
        predict(empty, load_model(trained["image-min-max", "whole"][0]), tmp_path / "l.ome.zarr")


def test_encoders_normalise_by_constants_of_their_own(folders, tmp_path):
    config = ModelConfig(classes=("disc",), mpp=1.0, branch=EncoderConfig())
    with pytest.raises(ModelError, match="constants they were trained with"):
        run(make(folders, tmp_path / "run", model=config, size=64, normalise="image-z-score"))


def test_it_survives_the_file(tmp_path):
    own = OwnStatistics(by="min-max", within="tissue")
    config = ModelConfig(classes=("a",), mpp=1, scales=(1,), branch=UNetConfig(depth=1, width=2), own_statistics=own)
    model = build_model(config)
    save_model(model, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.config == config
    assert loaded.fingerprint == model.fingerprint
