"""The preview of training windows: what the branches see, unchanged and changed, as the training draws them."""

import numpy as np
import pytest
from data.making import write_folder
from PIL import Image
from training.test_training import make

from napari_msunet.config import Augmentation, LossConfig, PreviewAugmentationJob
from napari_msunet.constants import IGNORED
from napari_msunet.jobs.run import run
from napari_msunet.training.augmentation_preview import augmentation_preview
from napari_msunet.training.record import RunFolder
from napari_msunet.training.setup import prepare


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("discs"), 6)


def test_arrays(folders, tmp_path):
    job = make(folders, tmp_path / "run", augmentation=Augmentation(elastic=4, cutout=0.4))
    found = augmentation_preview(job, 5, 2)
    assert found.scales == ("scale 1", "scale 1/2")
    assert [x.shape for x in found.inputs] == [(5, 3, 32, 32, 3), (5, 3, 16, 16, 3)]
    assert found.truth.shape == (5, 3, 32, 32)
    assert len(found.names) == 5
    fine, half = (x[:, 0].astype(float) for x in found.inputs)
    assert np.abs(fine.reshape(5, 16, 2, 16, 2, 3).mean((2, 4)) - half).mean() < 1.5
    assert not np.array_equal(found.inputs[0][:, 0], found.inputs[0][:, 1])
    assert not np.array_equal(found.inputs[0][:, 1], found.inputs[0][:, 2])
    assert (found.truth[:, 1:] == IGNORED).mean() > (found.truth[:, 0] == IGNORED).mean()
    assert not (tmp_path / "run").exists()


def test_windows_are_those_of_the_training(folders, tmp_path):
    job = make(folders, tmp_path / "run", size=64, loss=LossConfig(own_grid=True), fold=(2, 3))
    job = job.model_copy(update={"model": job.model.model_copy(update={"scales": (0.5, 0.25)})})
    found = augmentation_preview(job, 4, 1)
    session = prepare(job, RunFolder(job))
    session.close()
    assert found.scales == ("scale 1/2", "scale 1/4")
    assert found.truth.shape[-1] == session.windows.size == 32
    assert set(found.names) <= {item.name for item in session.sides.train}


def test_nothing_on_shows_the_same(folders, tmp_path):
    found = augmentation_preview(make(folders, tmp_path, augmentation=Augmentation.none()), 2, 1)
    assert np.array_equal(found.inputs[0][:, 0], found.inputs[0][:, 1])


def test_the_job_writes_a_picture_and_arrays(folders, tmp_path):
    job = PreviewAugmentationJob(training=make(folders, tmp_path / "run"), count=2, variants=2, out=tmp_path / "p")
    result = list(run(job))[-1]
    picture = np.asarray(Image.open(result.files["preview"]).convert("RGB"))
    assert picture.shape[1] > 900
    assert picture.std() > 20
    arrays = np.load(result.files["arrays"], allow_pickle=False)
    assert arrays["input1"].shape == (2, 3, 16, 16, 3)
    assert arrays["truth"].shape == (2, 3, 32, 32)
    assert result.values["scales"] == ["scale 1", "scale 1/2"] or result.values["scales"] == ("scale 1", "scale 1/2")
