"""A model keeps what the numbers of its images meant: training, evaluation and prediction over types of numbers."""

import numpy as np
import pytest
import tifffile
from data.making import plain_optimiser
from PIL import Image

import napari_msunet as ms
from napari_msunet.cli import execute
from napari_msunet.config import EvaluateJob, FolderSource, ModelConfig, TrainedOn, TrainJob, UNetConfig
from napari_msunet.events import Message
from napari_msunet.models import load_model, save_model
from napari_msunet.training.evaluate import evaluate_events
from napari_msunet.training.fit import train_events

TINY = ModelConfig(classes=("disc",), mpp=0.5, scales=(1.0,), channels=1, branch=UNetConfig(depth=1, width=4))
TYPES = {"u1": (np.uint8, 255), "u2": (np.uint16, 65535), "12": (np.uint16, 4095), "f": (np.float32, 65535.0)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same three images in several types, masks, and one with NaN."""
    root = tmp_path_factory.mktemp("types")
    (root / "m").mkdir()
    for number in range(3):
        rng = np.random.default_rng(number)
        mask = np.zeros((48, 64), np.uint8)
        mask[10:30, 15 + 3 * number : 40] = 1
        values = (rng.gamma(2, 12, mask.shape) + mask * 150).clip(0, 255).round()
        values[0, :20] = 255
        for name, (dtype, top) in TYPES.items():
            (root / name).mkdir(exist_ok=True)
            scaled = values * (top / 255)
            tifffile.imwrite(root / name / f"{number}.tif", scaled.round().astype(dtype))
        bad = (values / 255).astype(np.float32)
        bad[:, :10] = np.nan
        (root / "nan").mkdir(exist_ok=True)
        tifffile.imwrite(root / "nan" / f"{number}.tif", bad)
        Image.fromarray(mask).save(root / "m" / f"{number}.png")
    return root


def job(root, name, out, **options):
    source = FolderSource(images=root / name, masks=root / "m", mpp=0.5, **options)
    given = {"size": 32, "batch_size": 4, "epochs": 2, "steps": 4, "validation": 0.34, "device": "cpu", "model": TINY}
    return TrainJob(sources=(source,), out=out, optimiser=plain_optimiser(), seed=1, **given)


@pytest.fixture(scope="module")
def models(folders, tmp_path_factory):
    """A model for each type of images, with what was said."""
    found = {}
    for name in ("u1", "f"):
        out = tmp_path_factory.mktemp("run") / name
        said = [e for e in train_events(job(folders, name, out)) if isinstance(e, Message)]
        found[name] = (out / "model.safetensors", said)
    return found


def test_the_same_pixels_learn_the_same_and_the_model_keeps_their_meaning(models):
    eight, floats = (load_model(models[name][0]) for name in ("u1", "f"))
    assert eight.config.trained_on == TrainedOn(kind="fluorescence", ranges={"uint8": (0, 255)})
    assert floats.config.trained_on == TrainedOn(kind="fluorescence", ranges={"float32": (0, 65535)})
    for one, other in zip(eight.state_dict().values(), floats.state_dict().values(), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-3, atol=1e-4)
    assert not [e.text for e in models["u1"][1] if "range" in e.text and e.level == "warning"]
    assert [e.text for e in models["f"][1] if "does not say the range" in e.text and e.level == "warning"]


@pytest.mark.parametrize("name", list(TYPES))
def test_a_prediction_is_the_same_in_any_type(folders, models, tmp_path, name):
    model = models["u1"][0]
    right = ms.predict(ms.open_slide(folders / "u1" / "0.tif", mpp=0.5), model, tmp_path / "right.ome.zarr")
    whole = ms.Region(0, 0, *right.shape)
    given = ms.open_slide(folders / name / "0.tif", mpp=0.5, value_range=(0, TYPES[name][1]))
    labels = ms.predict(given, model, tmp_path / "given.ome.zarr")
    assert (labels.read(whole) == right.read(whole)).mean() >= 0.999
    out = tmp_path / "guessed.ome.zarr"
    events = list(ms.run(ms.PredictJob(slide=folders / name / "0.tif", slide_mpp=0.5, model=model, out=out)))
    doubts = [e.text for e in events if isinstance(e, Message) and "range" in e.text]
    assert (ms.open_labels(out).read(whole) == right.read(whole)).mean() >= 0.999 or doubts
    assert bool(doubts) == (name in ("12", "f"))


def test_scores_do_not_depend_on_the_type(folders, models):
    scores = []
    for name, value_range in (("u1", None), ("12", (0, 4095))):
        source = FolderSource(images=folders / name, masks=folders / "m", mpp=0.5, value_range=value_range)
        scored = EvaluateJob(model=models["u1"][0], sources=(source,), device="cpu")
        scores.append(list(evaluate_events(scored))[-1].values["pooled"]["fused"]["dice"])
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)


def test_a_model_file_of_before_predicts_as_before(folders, models, tmp_path):
    model = load_model(models["u1"][0])
    before = model.config.model_copy(update={"trained_on": None})
    model.config = before
    save_model(model, tmp_path / "old.safetensors")
    assert load_model(tmp_path / "old.safetensors").config.trained_on is None
    slide = folders / "12" / "0.tif"
    job = ms.PredictJob(slide=slide, slide_mpp=0.5, model=tmp_path / "old.safetensors", out=tmp_path / "l.ome.zarr")
    said = [e.text for e in ms.run(job) if isinstance(e, Message) and e.level == "warning"]
    assert any("does not say which range of values it was trained on" in text for text in said)


@pytest.mark.parametrize("verb", ["train", "evaluate", "crossval", "predict"])
def test_nan_is_one_sentence_and_exit_code_2(folders, models, tmp_path, capsys, verb):
    pairs = ["--images", str(folders / "nan"), "--masks", str(folders / "m"), "--mpp", "0.5"]
    small = ["--classes", "disc", "--channels", "1", "--scales", "1", "--depth", "1", "--width", "2", "--size", "32"]
    small += ["--epochs", "1", "--steps", "1", "--batch-size", "2", "--device", "cpu"]
    given = {
        "train": [*pairs, *small, "--out", str(tmp_path / "run")],
        "crossval": [*pairs, *small, "--folds", "2", "--out", str(tmp_path / "folds")],
        "evaluate": [*pairs, "--model", str(models["u1"][0]), "--device", "cpu"],
        "predict": [str(folders / "nan" / "0.tif"), "--slide-mpp", "0.5", "--model", str(models["u1"][0])],
    }[verb]
    if verb == "predict":
        given += ["--out", str(tmp_path / "n.ome.zarr"), "--device", "cpu"]
    assert execute([verb, *given]) == 2
    said = capsys.readouterr().err
    assert "has values that are no numbers" in said
    assert ".tif" in said
    assert "Traceback" not in said


def test_a_training_that_starts_from_a_model_keeps_its_range(folders, models, tmp_path):
    """Fluorescence of the same type that seems dimmer is read as the model's images were."""
    start = job(folders, "u2", tmp_path / "first")
    list(train_events(start.model_copy(update={"epochs": 1, "steps": 1})))
    out = tmp_path / "second"
    again = job(folders, "12", out).model_copy(
        update={"epochs": 1, "steps": 1, "start": tmp_path / "first" / "model.safetensors"}
    )
    said = [e.text for e in train_events(again) if isinstance(e, Message) and e.level == "warning"]
    assert load_model(out / "model.safetensors").config.trained_on.ranges == {"uint16": (0, 65535)}
    assert any("which was taken" in text for text in said)
