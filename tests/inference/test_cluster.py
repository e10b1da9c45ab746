"""Workers of Dask fill one run: the bytes of one process, also after a worker was killed or the client stopped."""

import hashlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import napari_msunet as ms
from napari_msunet.config import Cluster, PredictJob, PredictManyJob, PredictSettings
from napari_msunet.config.prediction import GivenSlide
from napari_msunet.errors import MsunetError
from napari_msunet.events import Message, Progress, RegionDone, Result, Stop, stoppable
from napari_msunet.inference import cluster as worker
from napari_msunet.inference import cluster as workers
from napari_msunet.inference.cluster import Workers, predict_on, slurm_cluster, workers_of
from napari_msunet.inference.many_slides import predict_many_events
from napari_msunet.inference.network import exact_arithmetic
from napari_msunet.inference.predict import fill, open_run, options_of
from napari_msunet.inference.setup import set_up
from napari_msunet.labels.runs.run import Run
from napari_msunet.own_process import environment

SLIDE = Path(ms.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"
UNIT = 1024


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    with workers_of(Cluster(at="local:2")) as found:
        yield found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    branch = ms.UNetConfig(depth=1, width=4)
    config = ms.ModelConfig(classes=("nucleus",), mpp=0.499, scales=(1, 0.5), branch=branch, fusion="mean")
    return ms.save_model(ms.build_model(config), tmp_path_factory.mktemp("model") / "model.safetensors")


def job_for(model: Path, out: Path, **changes: object) -> PredictJob:
    given = {"outputs": ("labels", "probabilities"), "tile": 256, "device": "cpu", "slide": SLIDE, "model": model}
    return PredictJob(**{**given, "out": out, **changes})


def chunks(run: Run) -> dict[str, str]:
    """What is in each chunk file at level 0."""
    files = [p for name in run.outputs for p in (run.path / name / "0" / "c").rglob("*") if p.is_file()]
    return {p.relative_to(run.path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The chunks that one process makes of the same plan."""
    out = tmp_path_factory.mktemp("alone") / "labels.ome.zarr"
    network = ms.load_model(model)
    with ms.open_slide(SLIDE) as slide:
        with exact_arithmetic(1):
            setup = set_up(slide, [network], options_of(job_for(model, out)))
            _, run = open_run(setup, out, UNIT)
        with run.writing():
            for _ in fill(run, setup):
                pass
    return chunks(run)


def finished(run: Run) -> list[int]:
    """The tiles in all ledgers, as often as they are there."""
    lines = [line for ledger in run.path.glob("ledger*.jsonl") for line in ledger.read_text().splitlines()]
    entries = [json.loads(line) for line in lines]
    return [e.get("tile", e.get("block")) for e in entries if "tile" in e or "block" in e]


@pytest.mark.slow
def test_the_environment_of_this_process_stays_and_workers_keep_freed_memory(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)  # a user's own would stay
    before = dict(os.environ)
    with workers_of(Cluster(at="local:1", threads=2)) as found:
        theirs = found.client.submit(lambda: dict(os.environ)).result()
    assert dict(os.environ) == before
    assert theirs["OMP_NUM_THREADS"] == "2"
    assert theirs.items() >= environment().items()


@pytest.mark.slow
def test_two_workers_make_the_bytes_of_one_process(two: Workers, model: Path, alone: dict[str, str], tmp_path: Path):
    events = list(predict_on(job_for(model, tmp_path / "labels.ome.zarr"), two))
    assert isinstance(events[-1], Result)
    done = [e for e in events if isinstance(e, RegionDone)]
    with ms.open_labels(tmp_path / "labels.ome.zarr") as store:
        run = store.run(events[-1].values["run"])
        assert run.complete
        assert run.description["plan"]["threads"] == 1
        assert sum(e.height * e.width for e in done) == run.info.shape[0] * run.info.shape[1]
        assert len({p.name for p in run.path.glob("ledger.worker-*.jsonl")}) == 2  # both had a part in it
        assert chunks(run) == alone
        assert store.read(ms.Region(0, 0, 600, 600)).any()
        again = list(predict_on(job_for(model, tmp_path / "labels.ome.zarr"), two))
    assert not any(isinstance(e, RegionDone) for e in again)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_killed_worker_costs_its_unfinished_tiles_only(
    two: Workers, model: Path, alone: dict[str, str], tmp_path: Path
):
    (first, *_) = two.client.run(os.getpid).values()
    seen: list[RegionDone] = []
    for event in predict_on(job_for(model, tmp_path / "labels.ome.zarr"), two):
        if isinstance(event, RegionDone):
            seen.append(event)
            if len(seen) == 20:
                os.kill(first, signal.SIGKILL)
    assert isinstance(event, Result)
    with ms.open_labels(tmp_path / "labels.ome.zarr") as store:
        run = store.run(event.values["run"])
        assert run.complete
        assert chunks(run) == alone
        tiles = finished(run)
    assert len({(e.y, e.x) for e in seen}) == len(seen) == event.values["tiles"]
    assert sorted(tiles) == sorted(set(tiles))  # none was computed twice
    assert len(tiles) == len(seen)
    assert first not in two.client.run(os.getpid).values()


@pytest.mark.slow
def test_stopped_it_goes_on_with_what_is_there_and_leaves_no_task(
    two: Workers, model: Path, alone: dict[str, str], tmp_path: Path
):
    job = job_for(model, tmp_path / "labels.ome.zarr")
    stop = Stop()
    stop.look((2000.0, 1500.0, 200.0, 200.0))
    seen = []
    with stoppable(stop):
        events = predict_on(job, two)
        for event in events:
            if isinstance(event, RegionDone):
                seen.append(event)
            if len(seen) == 10:
                break
        events.close()
    assert seen[0].y // UNIT == 2100 // UNIT  # where somebody looked came first; row 0 otherwise
    assert (2100 // UNIT, 1600 // UNIT) in {(e.y // UNIT, e.x // UNIT) for e in seen}
    assert not any(two.client.processing().values())
    rest = list(predict_on(job, two))
    (text,) = [e.text for e in rest if isinstance(e, Message) and "Going on" in e.text]
    assert int(text.split(": ")[1].split()[0]) >= 10
    assert sum(isinstance(e, RegionDone) for e in rest) + 10 <= rest[-1].values["tiles"]
    with ms.open_labels(job.out) as store:
        assert chunks(store.run(rest[-1].values["run"])) == alone


@pytest.mark.slow
def test_an_address_and_a_slide_that_a_worker_does_not_see(two: Workers, model: Path, tmp_path: Path):
    address = two.client.scheduler.address
    slide = shutil.copy(SLIDE, tmp_path / "gone.svs")
    settings = PredictSettings(model=model, tile=256, device="cpu", cluster=address, region=(0, 0, 500, 500))
    given = {"a": Path(slide), "b": SLIDE}
    items = tuple(GivenSlide(slide=path, out=tmp_path / f"{name}.ome.zarr") for name, path in given.items())
    events = []
    for event in predict_many_events(PredictManyJob(slides=items, out=tmp_path, settings=settings)):
        if isinstance(event, Progress) and not events:
            two.client.run(_hide, str(slide))
        events.append(event)
    (failed,) = [e.text for e in events if isinstance(e, Message) and e.level == "error"]
    assert "it does not see" in failed or "cannot be read" in failed
    assert events[-1].values == {"slides": 2, "done": 1, "skipped": 0, "failed": 1}


def _hide(path: str) -> None:
    """On a worker: from now on this file is not there for it."""
    real = os.path.exists
    os.path.exists = lambda p: False if str(p) == path else real(p)


# ----------------------------------------------------------------------------------------------------------- bad input


def test_nothing_at_the_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 0.5)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    nowhere = Cluster(at=f"tcp://127.0.0.1:{port}")
    with pytest.raises(MsunetError, match="No Dask scheduler answers at tcp"), workers_of(nowhere):
        pass


@pytest.mark.parametrize("at", ["local", "local:0", "tcp://host", "http://host:80", "slurm:0", "pbs:3", ""])
def test_what_is_no_cluster(at: str):
    with pytest.raises(ValueError, match="is no cluster; give local:2"):
        Cluster(at=at)


def test_options_of_slurm_only():
    with pytest.raises(ValueError, match="options are for SLURM"):
        Cluster(at="local:2", options={"queue": "gpu"})
    with pytest.raises(ValueError, match="no option colour"):
        Cluster(at="slurm", options={"colour": "red"})
    with pytest.raises(ValueError, match="whole number"):
        Cluster(at="slurm", options={"cores": "many"})


@pytest.mark.skipif(shutil.which("sbatch") is not None, reason="there is a SLURM")
def test_without_slurm():
    with pytest.raises(MsunetError, match="sbatch is not on this machine"), workers_of(Cluster(at="slurm:3")):
        pass


def test_another_version_or_no_file_is_said(tmp_path: Path):
    task = {"version": "0.0", "job": {"slide": str(tmp_path), "model": str(tmp_path)}, "run": str(tmp_path)}
    with pytest.raises(MsunetError, match=r"the client has 0\.0; install the same on both"):
        worker._check(task)
    missing = {**task, "version": worker.version(), "run": str(tmp_path / "no")}
    with pytest.raises(MsunetError, match=r"does not see .*no; put it on a file system that all workers share"):
        worker._check(missing)


def test_names_of_ledgers():
    assert worker.part_name(0) == "worker-0"
    assert worker.part_name("tcp://10.0.0.7:4711") == "worker-tcp-10-0-0-7-4711"
    assert len(worker.part_name("x" * 500)) <= 64


# --------------------------------------------------------------------------------------------------------------- SLURM


def test_the_script_of_a_slurm_job():
    options = {
        **{"queue": "gpu", "account": "histology", "walltime": "04:00:00", "cores": "8", "memory": "32 GB"},
        **{"directives": "--gres=gpu:1,--nice=10", "setup": "module load cuda;source env.sh", "interface": "lo"},
    }
    cluster = slurm_cluster(Cluster(at="slurm:20", options=options))
    try:
        script = cluster.job_script()
    finally:
        cluster.close()
    lines = script.splitlines()
    for line in ("-p gpu", "-A histology", "-t 04:00:00", "--cpus-per-task=8", "--gres=gpu:1", "--nice=10"):
        assert f"#SBATCH {line}" in lines
    assert "#SBATCH --mem=30G" in lines  # 32 GB, in SLURM's units of 1024
    assert lines.index("module load cuda") < lines.index("source env.sh")
    (start,) = [line for line in lines if "distributed" in line]
    assert "--nthreads 1" in start  # one network at a time, which takes all cores
    assert "tcp://" in start
