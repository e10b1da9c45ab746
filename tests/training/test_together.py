"""Several processes that train one model: real ones, on the CPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data.making import CONFIG, array_item, write_folder

from napari_msunet.config import FolderSource, Optimiser, Sampling, TrainJob
from napari_msunet.data.loader import Crops, TrainBatches, ValidationBatches
from napari_msunet.data.sampling import Sampler, validation_spots
from napari_msunet.errors import MsunetError
from napari_msunet.events import Metric
from napari_msunet.models import load_model
from napari_msunet.training import distributed
from napari_msunet.training.distributed import Rank, check_devices, rank_of
from napari_msunet.training.fit import train_events


def make(root: Path, out: Path, **options) -> TrainJob:
    source = FolderSource(images=root / "images", masks=root / "masks", mpp=1.0, group="name(.)")
    given = {"size": 32, "batch_size": 2, "epochs": 3, "steps": 6, "device": "cpu", "devices": 2} | options
    fast = Optimiser(learning_rate=1e-2)
    return TrainJob(**({"model": CONFIG, "sources": (source,), "out": out, "optimiser": fast} | given))


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    write_folder(tmp_path, 6)
    job = make(tmp_path, tmp_path / "run")
    events = list(train_events(job))
    losses = [
        e.value for e in events if isinstance(e, Metric) and (e.name, e.split, e.output) == ("loss", "train", "fused")
    ]
    assert len(losses) == 3
    assert losses[-1] < 0.8 * losses[0]
    result = json.loads((job.out / "result.json").read_text())
    assert result["steps"] == 18
    assert {p.name for p in job.out.glob("*.safetensors")} <= {"model.safetensors", "last.safetensors"}
    assert not list(job.out.glob(".*.partial"))
    first = load_model(job.out / "model.safetensors").fingerprint
    assert first == result["fingerprint"]
    again = make(tmp_path, tmp_path / "again")
    assert list(train_events(again))[-1].values["fingerprint"] == first
    longer = job.model_copy(update={"epochs": 4, "resume": True})
    assert list(train_events(longer))[-1].values["epochs"] == 4


@pytest.mark.slow
def test_one_that_ends_is_said_and_the_rest_end_too(tmp_path, monkeypatch):
    write_folder(tmp_path, 6)
    monkeypatch.setattr(
        distributed, "_RANK", "NAPARI_MSUNET_NO_RANK"
    )  # the other does not know who it is: the run is taken
    with pytest.raises(MsunetError, match=r"processes that train together has ended: .*already holds a training run"):
        list(train_events(make(tmp_path, tmp_path / "run", time_limit=60)))


def test_the_parts_of_all_processes_are_the_whole():
    values = np.zeros((40, 56), np.uint8)
    values[10:30, 10:40] = 1
    item = array_item(values)
    crops = Crops(CONFIG.ratios, lambda w: [w] * len(CONFIG.ratios))
    alone = TrainBatches(crops, Sampler([item], 16, 2, 0), 6, 2, (0, 0), 0)
    parts = [TrainBatches(crops, Sampler([item], 16, 2, 0), 3, 2, (0, 0), 0) for _ in range(2)]
    for rank, part in enumerate(parts):
        part.rank, part.world = rank, 2
    for whole, *halves in zip(alone, *parts, strict=True):
        assert np.array_equal(whole.target, np.concatenate([h.target for h in halves]))
        assert len({h.seed for h in halves}) == 2
    spots = validation_spots([item], 16, 2, 64)
    whole = [b.target.numpy() for b in ValidationBatches(crops, spots, 5)]
    shares = [[b.target.numpy() for b in ValidationBatches(crops, spots, 5, rank, 2)] for rank in range(2)]
    assert len(whole) % 2 == 1
    assert len({len(share) for share in shares}) == 1
    counted = sum((t != 255).sum() for share in shares for t in share)
    assert counted == sum((t != 255).sum() for t in whole)


def test_who_is_who(tmp_path, monkeypatch):
    job = make(tmp_path, tmp_path / "run")
    place = rank_of(job)
    assert (place.rank, place.world, place.starts_others) == (0, 2, True)
    assert rank_of(make(tmp_path, tmp_path / "run", devices=1)) == Rank()
    monkeypatch.setenv("NAPARI_MSUNET_RANK", "1")
    monkeypatch.setenv("NAPARI_MSUNET_PORT", "4321")
    assert rank_of(job) == Rank(1, 2, 4321)


def test_more_than_there_is_is_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there are graphics cards here")
    with pytest.raises(MsunetError, match="asks for 2 devices, but 0 of kind cuda are here"):
        check_devices(make(tmp_path, tmp_path / "run", device="cuda"), torch.device("cuda"))
    hard = make(tmp_path, tmp_path / "run", sampling=Sampling(hard=0.5))
    with pytest.raises(MsunetError, match="works on one device"):
        check_devices(hard, torch.device("cpu"))
    check_devices(make(tmp_path, tmp_path / "run"), torch.device("cpu"))


def test_several_machines_need_a_launcher(tmp_path, monkeypatch):
    job = make(tmp_path, tmp_path / "run", nodes=2)
    with pytest.raises(MsunetError, match=r"srun --nodes 2 --ntasks-per-node 2 .* run job.json"):
        rank_of(job)
    for name, value in {
        "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS_PER_NODE": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert rank_of(job) == Rank(3, 4, None)
    monkeypatch.setenv("SLURM_NTASKS", "3")
    with pytest.raises(MsunetError, match="3 processes were started; start 4"):
        rank_of(job)
