"""What a training takes of the data room: each option trains, and changes what is trained."""

import pytest
import torch
from data.making import write_folder
from training.test_training import make, run, values

from napari_msunet.config import Augmentation, Sampling
from napari_msunet.models import load_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("discs"), 10)


@pytest.fixture(scope="module")
def plain(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    run(make(folders, out))
    return load_model(out / "model.safetensors")


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()]).detach()


@pytest.mark.parametrize(
    "options",
    [
        {"augmentation": Augmentation(elastic=4, perspective=0.1, shear=5, shift=0.1, saturation=0.3)},
        {"augmentation": Augmentation(blur=1, noise=0.05, jpeg=0.5)},
        {"augmentation": Augmentation(cutout=0.3, cutmix=0.5, mixup=0.4)},
        {"sampling": Sampling(balance=0.5)},
        {"sampling": Sampling(hard=0.9), "epochs": 3},
    ],
    ids=str,
)
def test_each_option_changes_the_weights(folders, plain, tmp_path, options):
    found = values(run(make(folders, tmp_path / "run", **options)))
    assert found["train"]
    assert not torch.equal(weights(load_model(tmp_path / "run" / "model.safetensors")), weights(plain))


@pytest.mark.parametrize("by", ["0-1", "-1-1", "percentile"])
def test_normalisation(folders, plain, tmp_path, by):
    run(make(folders, tmp_path / "run", normalise=by, epochs=1))
    found = load_model(tmp_path / "run" / "model.safetensors").config.normalisation
    assert found != plain.config.normalisation
    if by != "percentile":
        assert set(found.mean) == {0.0 if by == "0-1" else 0.5}


def test_three_sides_and_folds(folders, tmp_path):
    found = values(run(make(folders, tmp_path / "a", validation=0.1, test=0.2, epochs=1)))["split"]
    assert [len(found[side]) for side in ("train", "validate", "test")] == [7, 1, 2]
    first, second = (
        values(run(make(folders, tmp_path / f"f{n}", fold=(n, 5), epochs=1)))["split"]["validate"] for n in (1, 2)
    )
    assert (len(first), len(second)) == (2, 2)
    assert not set(first) & set(second)


@pytest.mark.parametrize("bad", [{"validation": 0.6, "test": 0.5}, {"fold": (0, 5)}, {"fold": (3, 2)}])
def test_sides_that_cannot_be(folders, tmp_path, bad):
    with pytest.raises(ValueError, match=r"leave nothing to train on|is none"):
        make(folders, tmp_path, **bad)
