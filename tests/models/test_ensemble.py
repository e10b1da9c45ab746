"""Several networks in one model file: the mean of their probabilities, wherever a model can be used."""

import numpy as np
import pytest
import torch

import napari_msunet as ms
from napari_msunet.config import CrossValidateJob, Normalisation
from napari_msunet.errors import ModelError, OutputError
from napari_msunet.jobs.run import cross_validate
from napari_msunet.models.compose import branch_model, ensemble_model, with_scales


def network(seed, **options):
    torch.manual_seed(seed)
    values = {
        "classes": ("a", "b"),
        "mpp": 1.0,
        "scales": (1.0, 0.5),
        "fusion": "attention",
        "branch": ms.UNetConfig(depth=2, width=4),
        "normalisation": Normalisation(mean=(0.4 + 0.1 * seed,) * 3, std=(0.2 + 0.05 * seed,) * 3),
    }
    model = ms.build_model(ms.ModelConfig(**values | options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)  # so that the output varies
    return model


@pytest.fixture(scope="module")
def networks():
    return [network(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def file(networks, tmp_path_factory):
    return ms.save_model(ensemble_model(networks), tmp_path_factory.mktemp("ensemble") / "model.safetensors")


def inputs(side=64):
    image = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0))
    return [image, torch.nn.functional.avg_pool2d(image, 2)]


def test_the_output_is_the_mean_of_all_probabilities(networks, file):
    loaded = ms.load_model(file)
    with torch.no_grad():
        fused, own = loaded.outputs(inputs())
        expected = torch.stack([model(inputs()).softmax(1) for model in networks]).mean(0)
        alone = [model.branch_logits(inputs()) for model in networks]
        branches = [torch.stack(z).softmax(2).mean(0) for z in zip(*alone, strict=True)]
    assert torch.allclose(fused.softmax(1), expected, atol=1e-6)
    assert all(torch.allclose(a.softmax(1), b, atol=1e-6) for a, b in zip(own, branches, strict=True))
    assert (expected - networks[0](inputs()).softmax(1)).abs().max() > 0.02  # no network alone would do
    assert loaded.fingerprint == ensemble_model(networks).fingerprint


def test_its_members_are_the_networks(networks, file):
    members = ms.load_model(file).members
    assert len(members) == 3
    for member, model in zip(members, networks, strict=True):
        assert member.fingerprint == model.fingerprint
        assert member.config.normalisation == model.config.normalisation


def test_a_slide_is_predicted_as_by_the_files_together(networks, file, tmp_path):
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (20, 25, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    slide = ms.slide_from_array(pixels, mpp=1.0)
    options = {"outputs": ("labels", "probabilities"), "tile": 64, "device": "cpu", "probability_dtype": "float32"}
    found = []
    for name, model in (("one", ms.load_model(file)), ("several", networks), ("first", networks[0])):
        labels = ms.predict(slide, model, tmp_path / f"{name}.ome.zarr", **options)
        found.append(np.asarray(labels.probabilities))
        labels.close()
    assert np.abs(found[0] - found[1]).max() < 1e-5
    assert np.abs(found[0] - found[2]).max() > 0.02


def test_what_cannot_be_averaged_is_one_sentence(networks):
    with pytest.raises(ModelError, match="differ in scales"):
        ensemble_model([networks[0], network(1, scales=(1.0,), fusion="mean")])
    with pytest.raises(ModelError, match="at least one model"):
        ensemble_model([])
    ensemble = ensemble_model(networks)
    for action in (
        lambda: branch_model(ensemble, 0),
        lambda: with_scales(ensemble, (1.0,)),
        lambda: ensemble_model([ensemble]),
    ):
        with pytest.raises(ModelError, match="ensemble of 3 networks"):
            action()
    source = ms.FolderSource(images="i", masks="m", mpp=1.0)
    with pytest.raises(ValueError, match="an ensemble is not trained"):
        ms.TrainJob(model=ensemble.config, sources=(source,), out="o")


@pytest.fixture(scope="module")
def crossval(tmp_path_factory):
    from data.making import write_folder

    place = tmp_path_factory.mktemp("folds")
    images, masks = write_folder(place / "discs", 4, (48, 48))
    source = ms.FolderSource(images=images, masks=masks, mpp=1.0)
    config = ms.ModelConfig(
        classes=("disc",), mpp=1.0, scales=(1.0,), fusion="mean", branch=ms.UNetConfig(depth=2, width=4)
    )
    training = ms.TrainJob(
        model=config, sources=(source,), out=place / "x", size=32, batch_size=2, steps=2, epochs=1, device="cpu"
    )
    cross_validate(CrossValidateJob(training=training, folds=2, out=place / "crossval"))
    return place / "crossval", source


def test_one_model_of_all_folds(crossval, tmp_path, capsys):
    from napari_msunet.cli import execute

    folder, source = crossval
    out = tmp_path / "all.safetensors"
    assert execute(["model", "folds", str(folder), "--out", str(out)]) == 0
    assert "the mean of 2 networks" in capsys.readouterr().out
    model = ms.load_model(out)
    assert sorted(model.summary["split"]["train"]) == [f"name{n}" for n in range(4)]
    scores = ms.evaluate(ms.EvaluateJob(model=out, sources=(source,), device="cpu", test_scales=(0.5, 1.0))).scores
    assert 0 <= scores["pooled"]["fused"]["dice"] <= 1
    assert scores["scales"]["train"] == ["fused"]


def test_folders_without_all_folds_are_one_sentence(crossval, tmp_path):
    folder, _ = crossval
    with pytest.raises(OutputError, match="no cross-validation and no experiment"):
        ms.model_of_folds(tmp_path, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="has no variants"):
        ms.model_of_folds(folder, tmp_path / "m.safetensors", "one")
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "crossval.json").write_bytes((folder / "crossval.json").read_bytes())
    with pytest.raises(ModelError, match="0 of its 2 folds"):
        ms.model_of_folds(begun, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()
