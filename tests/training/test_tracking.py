"""What a run leaves in its folder, and what others are told of it."""

import json
import os

import pytest
from data.making import CONFIG, write_folder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from napari_msunet.config import FolderSource, TrainJob
from napari_msunet.errors import MsunetError
from napari_msunet.models import load_model
from napari_msunet.training.fit import train_events
from napari_msunet.training.tracking import tag


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("tracked")
    images, masks = write_folder(root, 5, (64, 80))
    source = FolderSource(images=images, masks=masks, mpp=1.0, group="name(.)")
    job = TrainJob(
        model=CONFIG, sources=(source,), out=root / "run", size=32, batch_size=2, epochs=2, steps=2, device="cpu",
        track=("tensorboard", "mlflow"), track_uri=str(root / "mlruns"),
    )  # fmt: skip
    events = list(train_events(job))
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    return job, events[-1], root


def test_the_folder(run):
    job, result, _ = run
    environment = json.loads((job.out / "environment.json").read_text())
    assert environment["versions"]["torch"]
    assert json.loads((job.out / "job.json").read_text())["seed"] == 0
    assert (job.out / "panels.png").read_bytes().startswith(b"\x89PNG")
    best, last = load_model(job.out / "model.safetensors"), load_model(job.out / "last.safetensors")
    assert last.summary["kept"] == "last"
    assert best.config == last.config
    assert set(result.files) >= {"model", "last", "metrics", "curves", "panels", "environment", "job"}


def test_tensorboard_has_each_epoch(run):
    job, _, _ = run
    events = EventAccumulator(str(job.out / "tensorboard"))
    events.Reload()
    rows = (job.out / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3
    columns = rows[0].split(",")
    for column in ("learning_rate", "train_loss_fused", "validation_iou_scale 1-2".replace("1-2", "1/2")):
        scalars = events.Scalars(tag(column))
        assert [s.step for s in scalars] == [1, 2]
        assert scalars[-1].value == pytest.approx(float(rows[2].split(",")[columns.index(column)]), rel=1e-4)
    assert [s.step for s in events.Scalars("accuracy/validation mean of scales")] == [1, 2]
    assert [s.step for s in events.Scalars("loss by step/scale 1-2")] == [1, 2, 3, 4]


def test_mlflow_has_the_run(run, monkeypatch):
    from mlflow import MlflowClient

    _, _, root = run
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=(root / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("napari-msunet")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["model.fusion"] == CONFIG.fusion
    assert [m.step for m in client.get_metric_history(found.info.run_id, "loss/train fused")] == [1, 2]
    assert [m.step for m in client.get_metric_history(found.info.run_id, "loss by step/fused")] == [1, 2, 3, 4]
    assert client.get_metric_history(found.info.run_id, "memory_mb")[0].value > 50
    assert {"curves.png", "model.safetensors"} <= {a.path for a in client.list_artifacts(found.info.run_id)}


def test_a_server_that_is_not_there(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    job = run[0].model_copy(update={"out": tmp_path / "run", "track": ("mlflow",), "track_uri": "http://127.0.0.1:9"})
    with pytest.raises(MsunetError, match="track_uri"):
        list(train_events(job))
