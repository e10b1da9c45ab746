"""Slide normalisation: one set of statistics for each slide, exact tiles, kept with the run."""

from pathlib import Path

import numpy as np
import pytest
import torch

import napari_msunet
from napari_msunet.config import ModelConfig, PredictOptions, UNetConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Region
from napari_msunet.inference import slide_statistics
from napari_msunet.inference.image import predict_image
from napari_msunet.inference.predict import fill, predict
from napari_msunet.inference.setup import set_up
from napari_msunet.inference.slide_statistics import adapted, fit_statistics, layers_of, sample_windows
from napari_msunet.models import MSUNet, build_model, load_model, save_model
from napari_msunet.slide import open_slide, slide_from_array, tissue_mask
from napari_msunet.slide.numbers import unit_scale

SLIDE = Path(napari_msunet.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def slide():
    with open_slide(SLIDE) as opened:
        yield opened


def made(**changes) -> MSUNet:
    torch.manual_seed(3)
    settings = {"classes": ("a", "b"), "mpp": 2.0, "scales": (1.0, 0.5), "fusion": "mean"}
    branch = UNetConfig(depth=2, width=4, norm="slide")
    model = build_model(ModelConfig(**{**settings, "branch": branch, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "head" in name:
                parameter.mul_(4)
    return model


def whole(model: MSUNet, slide, statistics) -> np.ndarray:
    """Probabilities of all of the slide in one piece."""
    size = max(slide.grid(model.config.mpp).shape)
    return predict_image(model, slide, tile=size + 64, statistics=statistics)["fused"]


def test_tiles_are_exact_and_regions_are_crops(slide, tmp_path):
    model = made()
    expected = whole(model, slide, fit_statistics(model, [slide]))
    assert expected.std(axis=(1, 2)).max() > 0.05
    assert np.abs(predict_image(model, slide, tile=97)["fused"] - expected).max() < 1e-4
    region = Region(600, 900, 800, 700)
    options = {"outputs": ("labels", "probabilities"), "probability_dtype": "float32", "tile": 128}
    labels = predict(slide, model, tmp_path / "part.ome.zarr", region, **options)
    window = labels.grid.centres(region)
    stored = np.moveaxis(labels.probabilities[window.slices()].compute(), -1, 0)
    assert np.abs(stored - expected[(slice(None), *window.slices())]).max() < 1e-4
    labels.close()


def test_another_slide_gives_other_statistics_and_its_stain_does_not_matter(slide):
    model = made()
    height, width = (v // 2 for v in slide.shape[:2])
    pixels = slide.read(Region(200, 300, height, width))
    darker = np.round(pixels * 0.6 + 20).astype(np.uint8)
    one, other = (slide_from_array(p, mpp=slide.mpp) for p in (pixels, darker))
    first, second = (fit_statistics(model, [s]) for s in (one, other))
    assert first.keys() == second.keys() == layers_of(model).keys()
    assert all(first[name] != second[name] for name in first)
    moved = np.abs(whole(model, one, first) - whole(model, other, second)).mean()
    with_the_others = np.abs(whole(model, one, first) - whole(model, other, first)).mean()
    assert moved < 0.5 * with_the_others


def test_statistics_are_those_of_the_batch_in_training(slide):
    model = made(scales=(1.0,))
    statistics = fit_statistics(model, [slide])
    inputs = slide_statistics._sample(model.config, [slide], 256, None, [unit_scale(slide.value_range)])
    trained = made(scales=(1.0,)).train()
    with torch.no_grad():
        difference = (trained(inputs) - adapted(model, statistics).eval()(inputs)).abs().max()
        unfitted = (trained(inputs) - model(inputs)).abs().max()
    assert difference < 5e-3 < 0.1 < unfitted  # variances are kept as of a sample: n - 1
    assert fit_statistics(load_copy(model), [slide]) == statistics


def load_copy(model: MSUNet) -> MSUNet:
    slide_statistics._found.clear()
    return model


def test_they_are_kept_with_the_run_and_used_again(slide, tmp_path, monkeypatch):
    model = made()
    out = tmp_path / "labels.ome.zarr"
    labels = predict(slide, model, out, outputs=("labels", "probabilities"), probability_dtype="float32", tile=200)
    (run,) = labels.runs
    assert run.description["statistics"] == [fit_statistics(model, [slide])]
    assert "statistics" not in run.description["settings"]
    labels.close()
    save_model(model, tmp_path / "m.safetensors")

    def never(*_, **__):
        raise AssertionError("the statistics are fitted again")

    monkeypatch.setattr("napari_msunet.inference.slide_statistics.fit_statistics", never)
    options = PredictOptions(**run.description["options"])
    with run.writing():
        assert list(fill(run, set_up(slide, [load_model(tmp_path / "m.safetensors")], options)))
    again = predict(slide, model, out, outputs=("labels", "probabilities"), probability_dtype="float32", tile=200)
    assert len(again.runs) == 1
    again.close()


def test_a_plain_model_needs_none(slide, tmp_path):
    labels = predict(slide, made(branch=UNetConfig(depth=1, width=2)), tmp_path / "l.ome.zarr", Region(0, 0, 500, 500))
    assert "statistics" not in labels.runs[0].description
    labels.close()


def test_statistics_of_another_model_are_refused(slide):
    with pytest.raises(ModelError, match="another model"):
        adapted(made(), fit_statistics(made(branch=UNetConfig(depth=2, width=5, norm="slide")), [slide]))
    with pytest.raises(ModelError, match="layers"):
        adapted(made(), {})


def test_the_sample_lies_on_tissue(slide):
    grid = slide.grid(2.0)
    windows = sample_windows(slide, grid, 64, 8, 8)
    assert len(set(windows)) == 8
    assert all(w.y % 8 == w.x % 8 == 0 and w.intersection(grid.whole) == w for w in windows)
    mask = tissue_mask(slide)
    found = [mask.on(grid, w).mean() for w in windows]
    assert np.mean(found) > mask.share
    small = slide.grid(60.0)
    assert sample_windows(slide, small, 64, 8, 8) == sample_windows(slide, small, 64, 1, 8)


def test_several_slides_of_a_patient_give_one_set(slide):
    model = made()
    pixels = slide.read(Region(0, 0, 1200, 1200))
    images = [slide_from_array(p, mpp=slide.mpp) for p in (pixels, pixels // 2, pixels // 3)]
    together = fit_statistics(model, images)
    assert all(together != fit_statistics(model, [image]) for image in images)
