"""A model in pixels (`mpp=None`), from training to export, on images that have no size in µm."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from napari_msunet.config import (
    EvaluateJob,
    ExportJob,
    FolderSource,
    MeasureJob,
    ModelConfig,
    Postprocess,
    PostprocessJob,
    PredictJob,
    PredictManyJob,
    PreviewJob,
    TrainJob,
    UNetConfig,
)
from napari_msunet.errors import MissingMppError, MsunetError, SlideError, StoreError
from napari_msunet.events import Message, Result
from napari_msunet.geometry import Resolution
from napari_msunet.inference.predict import predict
from napari_msunet.jobs.run import run
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.models import build_model, load_model, save_model
from napari_msunet.models.compose import combine_models
from napari_msunet.slide import ngff, open_slide, slide_from_array

BRANCH = UNetConfig(depth=1, width=4)
PIXELS = ModelConfig(classes=("disc",), mpp=None, scales=(1.0, 0.5), fusion="mean", channels=1, branch=BRANCH)
MICROMETRES = PIXELS.model_copy(update={"mpp": 1.0})


def picture(seed):
    """Bright discs in noise, and their mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    mask = np.zeros((96, 96), np.uint8)
    for cy, cx, r in zip(rng.integers(12, 84, 5), rng.integers(12, 84, 5), rng.integers(6, 11, 5), strict=True):
        mask[(y - cy) ** 2 + (x - cx) ** 2 < r**2] = 1
    return (50 + 140 * mask + rng.normal(0, 12, mask.shape)).clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, masks, and a model trained on them for a moment."""
    where = tmp_path_factory.mktemp("pixels")
    for name in ("images", "masks"):
        (where / name).mkdir()
    for i in range(4):
        image, mask = picture(i)
        Image.fromarray(image).save(where / "images" / f"{i}.png")
        Image.fromarray(mask).save(where / "masks" / f"{i}.png")
    shape = {"size": 48, "batch_size": 4, "epochs": 4, "steps": 12}
    job = TrainJob(model=PIXELS, sources=(source(where),), out=where / "run", device="cpu", **shape)
    for _ in run(job):
        pass
    return where


def source(where, **options):
    return FolderSource(images=where / "images", masks=where / "masks", **options)


def result_of(job):
    return next(e for e in run(job) if isinstance(e, Result))


def test_trained_predicted_scored_measured_and_exported(folder, tmp_path):
    model = load_model(folder / "run" / "model.safetensors")
    assert (model.config.mpp, model.config.resolution) == (None, Resolution(1.0, "px"))
    scored = result_of(
        EvaluateJob(model=folder / "run/model.safetensors", sources=(source(folder),), out=tmp_path / "e")
    )
    report = json.loads((tmp_path / "e" / "report.json").read_text())
    assert report["model"]["unit"] == "px"
    assert scored.values
    out = tmp_path / "labels.ome.zarr"
    outputs = ("labels", "probabilities", "disagreement")
    job = PredictJob(slide=folder / "images/0.png", model=folder / "run/model.safetensors", out=out, outputs=outputs)
    result_of(job)
    store = open_labels(out)
    assert (store.mpp, store.pixel, store.spacing, store.shape) == (None, (1.0, 1.0), (1.0, 1.0), (96, 96))
    labels = np.asarray(store.levels[0])
    truth = picture(0)[1]
    assert 2 * (labels & truth).sum() / (labels.sum() + truth.sum()) > 0.8
    ngff.validate(out)
    axes = json.loads((out / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["axes"]
    assert [axis.get("unit") for axis in axes] == [None, None]
    measured = result_of(MeasureJob(labels=out, out=tmp_path / "o.csv"))
    assert measured.values["classes"][0]["area_px2"] == labels.sum()
    result_of(ExportJob(labels=out, out=tmp_path / "labels.ome.tif"))
    with tifffile.TiffFile(tmp_path / "labels.ome.tif") as file:
        assert "PhysicalSize" not in file.ome_metadata
    result_of(PostprocessJob(labels=out, postprocess=Postprocess(smallest=60.0, smoothing=1.0)))
    store.close()


def test_many_are_told_in_pixels(folder, tmp_path):
    from napari_msunet.inference.slide_inputs import slide_inputs

    settings = {"model": folder / "run/model.safetensors"}
    slides = slide_inputs([folder / "images"], tmp_path)[:2]
    result_of(PredictManyJob(slides=slides, out=tmp_path, settings=settings))
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    areas = [int((np.asarray(open_labels(one.out).levels[0]) == 1).sum()) for one in slides]
    assert [float(row["px2 disc"]) for row in rows] == areas


def test_the_same_network_gives_the_same_in_pixels_and_in_micrometres(tmp_path):
    torch.manual_seed(0)
    model = build_model(PIXELS)
    other = build_model(MICROMETRES)
    other.load_state_dict(model.state_dict())
    image = picture(1)[0]
    one = predict(slide_from_array(image), model, tmp_path / "a.ome.zarr", outputs=("labels", "probabilities"))
    two = predict(slide_from_array(image, mpp=1.0), other, tmp_path / "b.ome.zarr", outputs=("labels", "probabilities"))
    np.testing.assert_array_equal(np.asarray(one.probabilities), np.asarray(two.probabilities))


def test_finer_and_coarser_than_the_images_own_pixels(tmp_path):
    image = picture(2)[0]
    for changes, shape, pixel in (({"upscale": 2}, (192, 192), 0.5), ({"pixel": 4.0}, (24, 24), 4.0)):
        config = PIXELS.model_copy(update=changes)
        store = predict(slide_from_array(image), build_model(config), tmp_path / f"{pixel}.ome.zarr")
        assert (store.shape, store.pixel, store.extent, store.mpp) == (shape, (pixel, pixel), (96, 96), None)
        scale = json.loads((store.path / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["datasets"][0]
        assert scale["coordinateTransformations"][0]["scale"] == [pixel, pixel]
        values = np.ones(store.shape, np.uint8)
        store.write(replace(store.grid.whole), values)
        store.flush()
        measured = result_of(MeasureJob(labels=store.path, out=tmp_path / f"{pixel}.csv"))
        assert measured.values["classes"][0]["area_px2"] == 96 * 96


def test_an_image_with_micrometres_is_used_in_pixels_only_where_that_is_said(tmp_path):
    image = picture(3)[0]
    metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    path = tmp_path / "image.ome.tif"
    tifffile.imwrite(path, image, photometric="minisblack", ome=True, metadata=metadata)
    save_model(build_model(PIXELS), tmp_path / "model.safetensors")
    job = PredictJob(slide=path, model=tmp_path / "model.safetensors", out=tmp_path / "labels.ome.zarr")
    with pytest.raises(SlideError, match=r"0.5 µm per pixel, but the model works in the images' own pixels.*px"):
        result_of(job)
    assert not job.out.exists()
    result_of(job.model_copy(update={"slide_mpp": "px"}))
    assert open_labels(job.out).shape == image.shape
    preview = PreviewJob(
        slide=path, model=job.model, out=tmp_path / "maps", region=(0.0, 0.0, 32.0, 32.0), slide_mpp="px"
    )
    result_of(preview)


def test_a_model_in_micrometres_refuses_images_without(tmp_path):
    image = picture(3)[0]
    with pytest.raises(MissingMppError, match="use a model that works in pixels"):
        predict(slide_from_array(image), build_model(MICROMETRES), tmp_path / "labels.ome.zarr")
    with pytest.raises(MissingMppError, match="opened in pixels"):
        predict(slide_from_array(image, mpp="px"), build_model(MICROMETRES), tmp_path / "labels.ome.zarr")


def test_training_takes_the_unit_of_its_model(folder, tmp_path):
    job = {"out": tmp_path / "run", "size": 48, "epochs": 1, "steps": 1, "device": "cpu"}
    with pytest.raises(SlideError, match="works in the images' own pixels"):
        list(run(TrainJob(model=PIXELS, sources=(source(folder, mpp=0.5),), **job)))
    with pytest.raises(MissingMppError, match="opened in pixels"):
        list(run(TrainJob(model=MICROMETRES, sources=(source(folder, mpp="px"),), **job)))
    table = folder / "sizes.csv"
    table.write_text("name,mpp\n0,px\n1,px\n2,px\n3,px\n")
    events = run(TrainJob(model=PIXELS, sources=(source(folder, table=table),), **job))
    assert any(isinstance(e, Message) and "Training on" in e.text for e in events)


def test_stores_of_other_units_are_refused(tmp_path):
    slide = slide_from_array(picture(3)[0], mpp="px")
    store = LabelStore.create(tmp_path / "labels.ome.zarr", shape=(96, 96), mpp=1.0, classes=("disc",))
    with pytest.raises(StoreError, match="pixels of 1 µm, this model and slide give 1 image pixels"):
        predict(slide, build_model(PIXELS), store.path)


def test_models_are_put_together_only_of_one_unit():
    one = PIXELS.model_copy(update={"scales": (1.0,)})
    half = one.model_copy(update={"pixel": 2.0})
    together = combine_models([build_model(one), build_model(half)])
    assert (together.config.mpp, together.config.scales) == (None, (1.0, 0.5))
    other = MICROMETRES.model_copy(update={"scales": (1.0,)})
    with pytest.raises(MsunetError, match="in µm and in pixels"):
        combine_models([build_model(one), build_model(other)])


def test_the_config_says_what_it_means():
    with pytest.raises(ValueError, match="mpp"):
        ModelConfig(classes=("disc",))  # a model without a word about its size is none
    with pytest.raises(ValueError, match="models in pixels"):
        ModelConfig(classes=("disc",), mpp=0.5, pixel=2.0)
    assert str(PIXELS.resolution) == "the image's own pixels"
    assert str(MICROMETRES.resolution) == "1 µm per pixel"


def test_tissue_of_an_image_in_pixels(tmp_path):
    from napari_msunet.labels.area import tissue_labels
    from napari_msunet.slide import tissue_mask

    image = np.full((800, 800, 3), 245, np.uint8)
    image[200:400, 300:500] = (190, 90, 160)
    slide = slide_from_array(image, mpp="px")
    mask = tissue_mask(slide, smallest=3000.0)
    assert (mask.grid.mpp, mask.grid.pixel) == (None, (8.0, 8.0))
    assert mask.share == pytest.approx(1 / 16, abs=0.01)
    assert not tissue_mask(slide, smallest=60_000.0).mask.any()
    store = tissue_labels(slide, tmp_path / "tissue.ome.zarr", mask)
    assert (store.mpp, store.pixel, store.shape) == (None, (8.0, 8.0), (100, 100))


def test_a_slide_in_pixels_stays_so_in_another_process(tmp_path):
    import pickle

    metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "image.ome.tif", picture(0)[0], ome=True, metadata=metadata)
    with open_slide(tmp_path / "image.ome.tif", mpp="px") as slide, pickle.loads(pickle.dumps(slide)) as again:
        assert (again.mpp, again.in_pixels) == (None, True)
