"""Promise 4: a killed prediction goes on where it stopped and ends with the same bytes."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import napari_msunet
from napari_msunet.config import ModelConfig, PredictJob, UNetConfig
from napari_msunet.errors import ModelError, MsunetError, StoreError
from napari_msunet.events import Message, Progress, RegionDone, Result
from napari_msunet.geometry import Region
from napari_msunet.inference.predict import predict, predict_events
from napari_msunet.labels import open_labels
from napari_msunet.models import build_model, save_model

SLIDE = Path(napari_msunet.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"
CHILD = (
    "import sys\nfrom napari_msunet.config import PredictJob\n"
    "from napari_msunet.inference.predict import predict_events\n"
    "for event in predict_events(PredictJob.model_validate_json(sys.argv[1])): pass"
)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(3)
    config = ModelConfig(classes=("a",), mpp=1.3, branch=UNetConfig(depth=2, width=4))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(build_model(config), path)
    return path


def job_of(model_file: Path, out: Path, **changes) -> PredictJob:
    given = {
        "slide": SLIDE,
        "model": model_file,
        "out": out,
        "region": (300.0, 400.0, 1400.0, 1300.0),
        "tile": 128,
        "batch_size": 2,
        "outputs": ("labels", "probabilities"),
    }
    return PredictJob(**{**given, **changes})


def chunks(run: Path) -> dict[str, str]:
    """A hash of each chunk of a run, all levels."""
    return {
        str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest()
        for name in ("labels", "probabilities")
        for p in sorted((run / name).glob("*/c/**/*"))
        if p.is_file()
    }


def run_folder(out: Path) -> Path:
    (found,) = [p for p in (out / "runs").iterdir() if p.is_dir()]
    return found


def finished(out: Path) -> int:
    """Lines in the ledger of the only run, 0 while there is none."""
    return sum(p.read_bytes().count(b"\n") for p in out.glob("runs/[!.]*/ledger*"))


def killed_once(job: PredictJob, after: int) -> int:
    """Run the job in a process, kill it once `after` tiles are in the ledger; how many were."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, job.model_dump_json()])
    deadline = time.monotonic() + 120
    while finished(job.out) < after and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    return finished(job.out)


@pytest.mark.slow
def test_killed_and_continued_gives_the_same_bytes(model_file, tmp_path):
    straight = job_of(model_file, tmp_path / "straight.ome.zarr")
    list(predict_events(straight))
    broken = job_of(model_file, tmp_path / "broken.ome.zarr")
    counts = [killed_once(broken, after) for after in (1, 5, 9)]
    assert counts == sorted(counts)
    assert 0 < counts[0] < counts[-1]
    events = list(predict_events(broken))
    assert any(isinstance(e, Message) and "Going on" in e.text for e in events)
    total = next(e.total for e in events if isinstance(e, Progress))
    assert sum(isinstance(e, RegionDone) for e in events) < total
    assert chunks(run_folder(broken.out)) == chunks(run_folder(straight.out))


def test_a_complete_run_returns_at_once_and_a_closed_one_goes_on(model_file, tmp_path):
    job = job_of(model_file, tmp_path / "labels.ome.zarr")
    events = predict_events(job)
    for event in events:
        if isinstance(event, RegionDone):
            break
    events.close()
    done = finished(job.out)
    assert done >= 1
    first = list(predict_events(job))
    assert isinstance(first[-1], Result)
    again = list(predict_events(job))
    assert not any(isinstance(e, RegionDone) for e in again)
    assert again[-1].values["run"] == first[-1].values["run"]


def test_other_settings_are_another_run_and_edits_stay(model_file, tmp_path):
    out = tmp_path / "labels.ome.zarr"
    list(predict_events(job_of(model_file, out)))
    labels = open_labels(out)
    region = Region(100, 200, 40, 50)
    flipped = 1 - labels.read(region)
    labels.write(region, flipped)
    list(predict_events(job_of(model_file, out, margin="fast")))
    assert len(labels.runs) == 2
    assert (labels.read(region) == flipped).all()
    labels.close()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"region": (1e6, 0.0, 10.0, 10.0)}, "holds no pixel of the slide"),
        ({"device": "toaster"}, "is no device"),
    ],
)
def test_bad_settings_are_told_in_a_sentence(changes, sentence, model_file, tmp_path):
    with pytest.raises(MsunetError, match=sentence):
        list(predict_events(job_of(model_file, tmp_path / "x.ome.zarr", **changes)))
    assert not (tmp_path / "x.ome.zarr").exists()


def test_a_store_of_another_resolution_is_refused(model_file, tmp_path):
    out = tmp_path / "labels.ome.zarr"
    list(predict_events(job_of(model_file, out)))
    config = ModelConfig(classes=("a",), mpp=2.0, branch=UNetConfig(depth=2, width=4))
    with pytest.raises(StoreError, match=r"pixels of \S+ µm, this model and slide give 2 µm"):
        predict(SLIDE, build_model(config), out)


def test_channels_must_match(tmp_path):
    config = ModelConfig(classes=("a",), mpp=2.0, channels=2, branch=UNetConfig(depth=2, width=4))
    with pytest.raises(ModelError, match="has 3 channels"):
        predict(SLIDE, build_model(config), tmp_path / "labels.ome.zarr")


def test_classes_are_matched_by_name(model_file, tmp_path):
    out = tmp_path / "labels.ome.zarr"
    list(predict_events(job_of(model_file, out)))
    torch.manual_seed(3)
    other = build_model(ModelConfig(classes=("b", "a"), mpp=1.3, branch=UNetConfig(depth=2, width=4)))
    labels = predict(SLIDE, other, out)
    assert labels.classes == ("a", "b")
    machine = labels.runs[-1] if labels.runs[-1].classes == ("b", "a") else labels.runs[0]
    values = machine.labels.compute()
    expected = np.array([0, 2, 1], np.uint8)[values]
    assert (labels.levels[0].compute() == expected).all()
    labels.close()
