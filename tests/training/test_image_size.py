"""Images brought to one size: training, evaluation, and predictions that are brought back to the image's own pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data.making import disc, plain_optimiser
from PIL import Image
from pydantic import ValidationError

from napari_msunet.config import (
    AutoModel,
    EvaluateJob,
    FolderSource,
    ModelConfig,
    PredictJob,
    TrainJob,
    UNetConfig,
)
from napari_msunet.data import load_sources
from napari_msunet.errors import SlideError
from napari_msunet.events import Message, Metric
from napari_msunet.geometry import Grid, Window
from napari_msunet.inference.image import predict_image
from napari_msunet.inference.own_grid import on_grid
from napari_msunet.inference.predict import describe_plan, predict
from napari_msunet.models import load_model
from napari_msunet.slide import open_slide, slide_from_array
from napari_msunet.training.evaluate import evaluate_events
from napari_msunet.training.fit import train_events

SHAPES = [(128, 128), (128, 192), (192, 128), (160, 192), (128, 256), (192, 192)]
CONFIG = ModelConfig(
    classes=("disc",), mpp=None, scales=(1.0, 0.5), fusion="mean", image_size=64, branch=UNetConfig(depth=2, width=4)
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Images of six sizes, with masks of their own sizes."""
    root = tmp_path_factory.mktemp("sizes")
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for number, shape in enumerate(SHAPES):
        image, mask = disc(shape, number)
        Image.fromarray(image).save(root / "images" / f"n{number}.png")
        Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / f"n{number}.png")
    return FolderSource(images=root / "images", masks=root / "masks", mpp="px")


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    given = {"batch_size": 4, "epochs": 8, "steps": 6, "optimiser": plain_optimiser(), "validation": 0.2, "seed": 1}
    job = TrainJob(model=CONFIG, sources=(source,), out=out, device="cpu", **given)
    return job, list(train_events(job))


def test_every_image_is_as_large(source):
    items = load_sources((source,), CONFIG)
    assert {item.grid.shape for item in items} == {(64, 64)}
    item = items[1]  # 128 x 192: averages of 2 x 3 pixels
    pixels = item.slide.read_window(item.grid, item.grid.whole)
    own = item.slide.read_window(item.slide.grid(), item.slide.grid().whole).astype(float)
    averages = own.reshape(64, 2, 64, 3, 3).mean((1, 3))
    assert np.abs(pixels - averages).max() <= 0.5 + 1e-6
    truth = item.truth_on_target(item.grid.whole)
    votes = item.truth.mask().reshape(64, 2, 64, 3).mean((1, 3))
    assert (truth == (votes >= 0.5)).all()
    for one in items:
        one.release()


def test_a_smaller_image_is_enlarged_bilinearly():
    pixels = np.random.default_rng(1).integers(0, 255, (40, 200, 3)).astype(np.uint8)
    slide = slide_from_array(pixels, mpp="px")
    grid = slide.grid(CONFIG.target)  # 64 x 64: higher, and narrower by averages of 3.125 pixels
    found = slide.read_window(grid, grid.whole)
    own = slide.read_window(Grid((40, 200), (1.0, 200 / 64)), Window(0, 0, 40, 64)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(own).permute(2, 0, 1)[None], (64, 64), mode="bilinear")[0]
    assert np.abs(found - expected.permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-3
    for window in (Window(10, 20, 7, 9), Window(60, 60, 9, 9), Window(-3, 5, 8, 4)):
        part, inside = slide.read_window(grid, window), window.intersection(grid.whole)
        assert np.array_equal(part[inside.slices((window.y, window.x))], found[inside.slices()])
        assert (part == slide.background).all(-1).sum() >= part.shape[0] * part.shape[1] - inside.height * inside.width


def test_windows_are_whole_images_and_it_learns(trained):
    job, events = trained
    assert '"size": 64' in (job.out / "job.json").read_text() or '"size":64' in (job.out / "job.json").read_text()
    losses = [
        e.value for e in events if isinstance(e, Metric) and (e.name, e.split, e.output) == ("loss", "train", "fused")
    ]
    assert losses[-1] < 0.7 * losses[0]


def test_predictions_are_brought_back(trained, source, tmp_path):
    path = trained[0].out / "model.safetensors"
    model = load_model(path)
    with open_slide(source.images / "n3.png", mpp="px") as slide:
        grid = slide.grid(CONFIG.target)
        small = predict_image(model, slide)["fused"]
        assert small.shape == (2, 64, 64)
        # the network itself on the image as it was brought to one size, with background around it
        around = Window(-64, -64, 192, 192)
        read = [slide.read_window(grid.scaled(r), around.times(r)) for r in CONFIG.ratios]
        with torch.no_grad():
            logits = model([torch.from_numpy(r).permute(2, 0, 1)[None] / 255 for r in read])
        direct = torch.softmax(logits, 1)[0, :, 64:-64, 64:-64].numpy()
        assert np.abs(direct - small).max() < 1e-4
        labels = predict(
            slide,
            path,
            tmp_path / "l.ome.zarr",
            outputs=("labels", "probabilities", "entropy", "disagreement"),
            probability_dtype="float32",
            tile=64,
        )
    assert labels.shape == (160, 192)
    expected = F.interpolate(torch.from_numpy(small)[None], (160, 192), mode="bilinear", align_corners=False)[0].numpy()
    stored = np.moveaxis(labels.probabilities.compute(), -1, 0)
    assert np.abs(stored - expected).max() < 1e-5
    written = labels.read((0, 0, 160, 192))
    assert (written == expected.argmax(0)).mean() > 0.999
    truth = np.asarray(Image.open(source.masks / "n3.png"))
    assert 2 * ((written == 1) & (truth == 1)).sum() / ((written == 1).sum() + truth.sum()) > 0.8
    labels.close()


def test_a_region_is_the_crop_of_the_whole(trained, source, tmp_path):
    path = trained[0].out / "model.safetensors"
    options = {"outputs": ("labels", "probabilities"), "probability_dtype": "float32"}
    with open_slide(source.images / "n1.png", mpp="px") as slide:
        whole = predict(slide, path, tmp_path / "w.ome.zarr", **options)
        part = predict(slide, path, tmp_path / "p.ome.zarr", (30, 50, 60, 70), **options)
        expected = whole.probabilities[30:90, 50:120].compute()
        assert np.array_equal(part.probabilities[30:90, 50:120].compute(), expected)
        assert not part.probabilities[:30].compute().any()
        plan = describe_plan(PredictJob(slide=source.images / "n1.png", slide_mpp="px", model=path, out=tmp_path / "x"))
    assert plan["tiles"] >= 1
    whole.close()
    part.close()


def test_scores_are_those_of_the_masks_own_pixels(trained, source):
    path = trained[0].out / "model.safetensors"
    *_, last = evaluate_events(EvaluateJob(model=path, sources=(source,), device="cpu"))
    pixels = sum(h * w for h, w in SHAPES)
    assert np.sum(last.values["confusion"]) == pixels
    assert last.values["pooled"]["fused"]["dice"] > 0.8
    model = load_model(path)
    counts = np.zeros((2, 2))
    for item in load_sources((source,), model.config):
        maps = predict_image(model, item.slide)["fused"]
        found = on_grid(maps, item.grid.whole, item.grid, item.truth.grid, item.truth.grid.whole).argmax(0)
        np.add.at(counts, (item.truth.mask().ravel(), found.ravel()), 1)
        item.release()
    assert counts.tolist() == np.array(last.values["confusion"]).tolist()


def test_a_model_that_is_chosen_by_itself(source, tmp_path):
    model = AutoModel(classes=("disc",), image_size=32)
    job = TrainJob(model=model, sources=(source,), out=tmp_path / "run", epochs=1, steps=1, batch_size=2, device="cpu")
    said = [e.text for e in train_events(job) if isinstance(e, Message)]
    assert any("brought to 32 x 32 pixels" in text for text in said)
    config = load_model(tmp_path / "run" / "model.safetensors").config
    assert (config.image_size, config.mpp, config.pixel) == (32, None, 1.0)
    assert str(config.resolution) == "images brought to 32 x 32 pixels"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_size": 250}, "cannot be halved as often .* give a multiple of 8, such as 256"),
        ({"image_size": 256, "mpp": 0.5}, "leave out mpp and pixel"),
        ({"image_size": 256, "pixel": 2.0}, "leave out mpp and pixel"),
        ({"image_size": 8}, "greater than or equal to 16"),
    ],
)
def test_a_size_that_cannot_be_is_refused(changes, says):
    with pytest.raises(ValidationError, match=says):
        ModelConfig(**{**dict(CONFIG), **changes})


def test_images_with_a_size_in_micrometres_are_asked_about(source):
    with pytest.raises(SlideError, match='mpp="px"'):
        load_sources((source.model_copy(update={"mpp": 0.5}),), CONFIG)
