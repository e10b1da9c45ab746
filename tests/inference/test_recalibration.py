"""Slides unlike those of the training: found without labels, and adapted to."""

import numpy as np
import pytest
import torch
from inference.test_instant import SLIDE, TINY, varied

from napari_msunet.config import ModelConfig, Normalisation, RecalibrateJob
from napari_msunet.errors import ModelError
from napari_msunet.inference.recalibration import likeness, recalibrated
from napari_msunet.inference.slide_statistics import sample_inputs
from napari_msunet.jobs.run import run
from napari_msunet.models import load_model, save_model
from napari_msunet.slide import open_slide, slide_from_array


def constants(slide, config):
    """The normalisation of a training on this slide."""
    from napari_msunet.models import build_model

    values = sample_inputs(build_model(config).eval(), slide)[0]
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3))
    return Normalisation(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


@pytest.fixture(scope="module")
def slides():
    """A slide, and the same with another stain."""
    with open_slide(SLIDE) as opened:
        pixels = opened.read_window(opened.grid(1.0), opened.grid(1.0).whole)
    other = 255 - (255 - pixels.astype(float)) * (0.3, 1.0, 2.0)
    return slide_from_array(pixels, mpp=1.0), slide_from_array(other.clip(0, 255).astype(np.uint8), mpp=1.0)


@pytest.fixture(scope="module")
def model(slides):
    config = ModelConfig(classes=("a",), mpp=1.0, scales=(1.0, 0.5), branch=TINY)
    config = config.model_copy(update={"normalisation": constants(slides[0], config)})
    return recalibrated(varied(config, slides[0]), slides[0])


def test_a_slide_of_another_stain_is_unlike_and_can_be_adapted_to(model, slides):
    same, other = (likeness(model, slide) for slide in slides)
    assert same.colours < 0.01
    assert same.features < 0.01
    assert not same.unlike
    assert "is like the training slides" in same.words
    assert other.unlike
    assert other.colours > 1
    assert "unlike the training slides: its colours are" in other.words
    assert len(other.trained) == len(other.here) == 3
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = recalibrated(model, slides[1])
    assert likeness(made, slides[1]).features < 0.01 < other.features
    changed = [name for name, tensor in made.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed
    assert all("running_" in name or "num_batches" in name for name in changed)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_job_compares_and_writes_a_model_of_its_own(model, tmp_path):
    path = save_model(model, tmp_path / "model.safetensors")
    job = RecalibrateJob(model=path, slide=SLIDE)
    *_, result = run(job)
    assert result.values["unlike"] is False
    assert result.files == {}
    *_, result = run(job.model_copy(update={"out": tmp_path / "adapted.safetensors"}))
    made = load_model(result.files["model"])
    assert made.summary["recalibrated"]["model"] == model.fingerprint
    assert load_model(path).fingerprint == model.fingerprint


def test_without_batch_norm_nothing_can_be_adapted(slides):
    from napari_msunet.config import ClassicalConfig
    from napari_msunet.models import build_model

    plain = build_model(ModelConfig(classes=("a",), mpp=1.0, scales=(1.0,), fusion="mean", branch=ClassicalConfig()))
    assert "keeps nothing about its training slides" in likeness(plain.eval(), slides[0]).words
    with pytest.raises(ModelError, match="no batch normalisation"):
        recalibrated(plain.eval(), slides[0])
