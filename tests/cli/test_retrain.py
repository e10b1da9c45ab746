"""The verb `retrain`, and the options of `train` that go on from a model."""

from pathlib import Path

import pytest

import napari_msunet as ms
from napari_msunet.cli import execute
from napari_msunet.jobs.run import parse_job

CONFIG = ms.ModelConfig(classes=("disc",), mpp=1.0, scales=(1.0,), branch=ms.UNetConfig(depth=1, width=2))


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of an earlier training."""
    folder = tmp_path / "run"
    folder.mkdir()
    source = ms.FolderSource(images=tmp_path / "images", masks=tmp_path / "masks")
    job = ms.TrainJob(model=CONFIG, sources=(source,), out=tmp_path / "where it was", epochs=7)
    (folder / "job.json").write_text(job.model_dump_json())
    ms.save_model(ms.build_model(CONFIG), folder / "model.safetensors")
    return folder


def test_the_job_is_that_of_retraining_job(run, tmp_path, capsys):
    words = ["retrain", str(run), "--slide", "s.svs", "--labels", "l.ome.zarr", "--out", str(tmp_path / "next")]
    more = ["--time-limit", "60", "--replay", "0.25", "--learning-rate", "0.0005", "--classes", "disc, spot"]
    assert execute([*words, *more, "--print-job"]) == 0
    job = parse_job(capsys.readouterr().out)
    corrected = ms.SlideSource(slide=Path("s.svs"), labels=Path("l.ome.zarr"), edited_only=True)
    expected = ms.retraining_job(
        run, [corrected], tmp_path / "next", classes=("disc", "spot"), replay=0.25, time_limit=60
    )
    assert job.optimiser.learning_rate == 0.0005
    assert job.model_copy(update={"optimiser": expected.optimiser}) == expected
    assert job.start == run / "model.safetensors"
    assert job.epochs == 7
    assert execute([*words, "--fresh", "--print-job"]) == 0
    fresh = parse_job(capsys.readouterr().out)
    assert fresh.start is None
    assert fresh.replaces == job.replaces


def test_bad_input_is_one_sentence(run, tmp_path, capsys):
    words = ["--slide", "s.svs", "--labels", "l.ome.zarr", "--out", str(tmp_path / "next")]
    assert execute(["retrain", str(tmp_path), *words]) == 2
    assert "There is no job.json of a training" in capsys.readouterr().err
    assert execute(["retrain", str(run), *words, "--labels", "m.ome.zarr"]) == 2
    assert "--slide was given 1 times and --labels 2 times" in capsys.readouterr().err


def test_train_takes_a_start(run, tmp_path, capsys):
    model = run / "model.safetensors"
    words = ["train", "--images", "i", "--masks", "m", "--classes", "disc", "--mpp", "1", "--out", "o"]
    options = ["--start", str(model), "--replaces", str(model), "--replay", "0.3"]
    assert execute([*words, *options, "--print-job"]) == 0
    job = parse_job(capsys.readouterr().out)
    assert (job.start, job.replaces, job.replay) == (model, model, 0.3)
