"""Each way of combining scales trains for real: the loss goes down, the result beats chance, every output is scored."""

from pathlib import Path

import pytest
from data.making import plain_optimiser, write_folder

from napari_msunet.config import EvaluateJob, FolderSource, ModelConfig, TrainJob, UNetConfig
from napari_msunet.errors import ModelError
from napari_msunet.events import Metric, Result
from napari_msunet.models import branch_model, combine_models, load_model, save_model, with_scales
from napari_msunet.training.evaluate import evaluate_events
from napari_msunet.training.fit import train_events

SMALL = UNetConfig(depth=1, width=4)
WAYS = {
    "multihead": {"fusion": "multihead"},
    "inject": {"fusion": "inject"},
    "inject, concentric": {"fusion": "inject", "field": "concentric"},
    "pyramid": {"fusion": "pyramid"},
    "upscaled": {"upscale": 2, "mpp": 2.0, "scales": (1.0, 0.5)},
    "with a stem": {"scales": (2.0, 1.0), "finest_scale": 1.0, "mpp": 2.0},
    "everything": {"fusion": "inject", "scales": (2.0, 0.5), "finest_scale": 1.0, "upscale": 2, "mpp": 2.0},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    return write_folder(tmp_path_factory.mktemp("discs"), 6)


def job_of(folders, out, model, **options) -> TrainJob:
    source = FolderSource(images=folders[0], masks=folders[1], mpp=1.0, group="name(.)")
    given = {"size": 32, "batch_size": 4, "epochs": 8, "steps": 4, "device": "cpu"} | options
    given = {"optimiser": plain_optimiser(learning_rate=1e-2)} | given
    return TrainJob(**({"model": model, "sources": (source,), "out": out} | given))


def config_of(**changes) -> ModelConfig:
    return ModelConfig(**{"classes": ("disc",), "mpp": 1.0, "scales": (1.0, 0.5), "branch": SMALL, **changes})


def losses(job) -> list[float]:
    events = list(train_events(job))
    return [
        e.value for e in events if isinstance(e, Metric) and (e.name, e.split, e.output) == ("loss", "train", "fused")
    ]


def scores(folders, model: Path) -> dict:
    source = FolderSource(images=folders[0], masks=folders[1], mpp=1.0)
    result = list(evaluate_events(EvaluateJob(model=model, sources=(source,), device="cpu")))[-1]
    assert isinstance(result, Result)
    return {name: pooled["iou"] for name, pooled in result.values["pooled"].items()}


@pytest.mark.parametrize(
    "way", [w if n < 4 else pytest.param(w, marks=pytest.mark.slow) for n, w in enumerate(sorted(WAYS, key=len))]
)
def test_it_learns_and_is_scored(folders, tmp_path, way):
    config = config_of(**WAYS[way])
    found = losses(job_of(folders, tmp_path / "run", config))
    assert found[-1] < 0.7 * found[0]
    pooled = scores(folders, tmp_path / "run" / "model.safetensors")
    assert tuple(pooled) == config.outputs
    assert pooled["fused"] > 0.5  # discs fill less than a third: all disc, or none, is below


def test_branches_trained_alone_then_fused(folders, tmp_path):
    files = []
    for mpp, rate in ((1.0, 1e-2), (2.0, 2e-2)):  # each with its own resolution, learning rate and file
        config = config_of(scales=(1.0,), mpp=mpp)
        job = job_of(folders, tmp_path / f"{mpp}", config, optimiser=plain_optimiser(learning_rate=rate))
        losses(job)
        files.append(job.out / "model.safetensors")
    together = combine_models([load_model(file) for file in files], "attention")
    save_model(together, tmp_path / "together.safetensors")
    alone = plain_optimiser(learning_rate=1e-2, branch_rates=(0, 0))
    job = job_of(
        folders, tmp_path / "fused", together.config, epochs=3, start=tmp_path / "together.safetensors", optimiser=alone
    )
    losses(job)
    fused = load_model(job.out / "model.safetensors")
    before, after = together.state_dict(), fused.state_dict()
    for name, tensor in after.items():
        assert bool((tensor == before[name]).all()) == name.startswith("branches."), name
    found = scores(folders, job.out / "model.safetensors")
    assert min(found.values()) > 0.5
    assert found["fused"] > found["scale 1/2"] - 0.05


def test_a_fusion_without_weights_cannot_learn_alone(folders, tmp_path):
    nothing = plain_optimiser(branch_rates=(0, 0))
    with pytest.raises(ModelError, match="nothing to learn"):
        losses(job_of(folders, tmp_path / "run", config_of(fusion="mean"), optimiser=nothing))


@pytest.mark.slow
def test_a_scale_is_added_to_a_trained_model_and_learns(folders, tmp_path):
    job = job_of(folders, tmp_path / "one", config_of(scales=(1.0,), fusion="mean"), epochs=4)
    losses(job)
    trained = load_model(job.out / "model.safetensors")
    save_model(with_scales(trained, (1.0, 0.5), "attention"), tmp_path / "two.safetensors")
    two = load_model(tmp_path / "two.safetensors")
    only_new = plain_optimiser(learning_rate=1e-2, branch_rates=(0, 1))
    found = job_of(folders, tmp_path / "two", two.config, start=tmp_path / "two.safetensors", optimiser=only_new)
    assert losses(found)[-1] < losses(job_of(folders, tmp_path / "again", two.config, epochs=1))[0]
    final = load_model(tmp_path / "two" / "model.safetensors")
    kept, now = branch_model(trained, 0).state_dict(), branch_model(final, 0).state_dict()
    assert all(bool((now[name] == kept[name]).all()) for name in kept)
