"""Several processes that train one model, one for each device: who is who, and what they agree on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

from napari_msunet.config import TrainJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import check as check_stop
from napari_msunet.training.module import Training
from napari_msunet.training.record import RunFolder

# ----------------------------------------------------------------------------------------------------------------------
# Several processes that train one model together, one for each device: who is who, and starting the others.
#
# On one machine, the process that runs the job starts the others with the same job file. On several machines a
# launcher (`srun`, `torchrun`) starts `napari-msunet run job.json` once for each device; Lightning knows who is who
# from it.

_RANK, _PORT, _READY = "NAPARI_MSUNET_RANK", "NAPARI_MSUNET_PORT", "NAPARI_MSUNET_READY"
"""What a process started here is told: who it is, where to meet, and the file to make when it has what it needs."""

_PATIENCE = 30.0
"""Seconds that the others have to end after the training has."""


@dataclass(frozen=True)
class Rank:
    """Which of the processes that train together this one is.

    Attributes
    ----------
    rank, world : int
        Number of this process, and how many there are.
    port : int, optional
        Where they meet on this machine; None: a launcher of its own brings them together.
    """

    rank: int = 0
    world: int = 1
    port: int | None = None

    @property
    def starts_others(self) -> bool:
        """Whether this process is to start the others."""
        return self.world > 1 and self.rank == 0 and self.port is not None


def rank_of(job: TrainJob) -> Rank:
    """The place of this process in the training of a job.

    Raises
    ------
    MsunetError
        If the job asks for several machines, and no launcher has started this process.
    """
    world = job.devices * job.nodes
    if world == 1:
        return Rank()
    if _RANK in os.environ:
        return Rank(int(os.environ[_RANK]), world, int(os.environ[_PORT]))
    environment = _launched()
    if environment is not None:
        if environment.world_size() != world:
            raise MsunetError(
                f"The job asks for {job.nodes} nodes of {job.devices} devices, but {environment.world_size()} "
                f"processes were started; start {world}, one for each device."
            )
        return Rank(environment.global_rank(), world)
    if job.nodes > 1:
        raise MsunetError(
            f"The job asks for {job.nodes} nodes; start it on each of them by a launcher, such as: srun --nodes "
            f"{job.nodes} --ntasks-per-node {job.devices} napari-msunet run job.json (or torchrun)."
        )
    return Rank(0, world, _free_port())


def check_devices(job: TrainJob, device: torch.device) -> None:
    """Refuse more devices than there are, and what only one can do.

    Raises
    ------
    MsunetError
        If they cannot train this job together.
    """
    if job.devices * job.nodes == 1:
        return
    there = {"cuda": torch.cuda.device_count(), "cpu": job.devices}.get(device.type, 1)
    if job.devices > there:
        are = "is" if there == 1 else "are"
        raise MsunetError(
            f"The job asks for {job.devices} devices, but {there} of kind {device.type} {are} here; give fewer, or "
            "device='cpu'."
        )
    if job.sampling.hard:
        raise MsunetError(
            "Taking hard windows again works on one device, which has seen them all; give sampling.hard=0 or devices=1."
        )


def _launched() -> Any:
    """What torchrun or SLURM say of this process; None where neither has started it."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    for kind in (TorchElasticEnvironment, SLURMEnvironment):
        if kind.detect():
            return kind()
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def others(job: TrainJob, place: Rank) -> Iterator[None]:
    """Start the other processes on this machine, where this one is to, and end them with the block.

    Raises
    ------
    MsunetError
        If one of them ended with an error before this one; the message is theirs.
    """
    if not place.starts_others:
        yield
        return
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="napari-msunet-") as folder:
        file = Path(folder) / "job.json"
        file.write_text(job.model_dump_json(), encoding="utf8")
        try:
            for rank in range(1, place.world):
                running.append(_start(file, rank, place))
            _wait_for(running, Path(folder))
            yield
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE)
        except RuntimeError as error:  # the connection to one that has ended
            with suppress(subprocess.TimeoutExpired):
                running[0].wait(2.0)
            if any(process.poll() for process in running):
                raise _ended(folder) from error
            raise
        finally:
            for process in running:
                if process.poll() is None:
                    process.terminate()
            for process in running:
                try:
                    process.wait(5.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _wait_for(running: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Until all have read their images, so that none of them is missed when they meet."""
    while len(list(folder.glob("*.ready"))) < len(running):
        if any(process.poll() is not None for process in running):
            raise _ended(str(folder))
        check_stop()
        time.sleep(0.05)


def tell_ready() -> None:
    """Tell the process that has started this one that it may begin."""
    if _READY in os.environ:
        Path(os.environ[_READY]).touch()


def _ended(folder: str) -> MsunetError:
    return MsunetError(f"One of the processes that train together has ended: {_last_words(folder)}")


def _start(file: Path, rank: int, place: Rank) -> subprocess.Popen[bytes]:
    """One of the others; what it says on its error stream is kept beside the job file."""
    told = {_RANK: str(rank), _PORT: str(place.port), _READY: str(file.with_name(f"{rank}.ready"))}
    told["OMP_NUM_THREADS"] = str(threads(place))
    with (file.parent / f"{rank}.txt").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "napari_msunet", "run", str(file)],
            env=os.environ | told,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )


def _last_words(folder: str) -> str:
    """The last line that one of the others has said."""
    for path in sorted(Path(folder).glob("*.txt")):
        lines = path.read_text(encoding="utf8", errors="replace").split("\n")
        if said := [line.strip() for line in lines if line.strip()]:
            return said[-1]
    return "it said nothing"


def threads(place: Rank) -> int:
    """CPU threads of each process, so that together they have as many as this one would have alone."""
    return max(1, torch.get_num_threads() // place.world)


@contextmanager
def fewer_threads(place: Rank) -> Iterator[None]:
    """Leave the other processes their share of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads(place) if place.starts_others else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def leave_group() -> None:
    """End the connection to the other processes, so that this one can train again."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


# ----------------------------------------------------------------------------------------------------------------------
# What Lightning is told of processes that this one has started.


class OnThisMachine(ClusterEnvironment):
    """Tells Lightning who this process is, where `ranks` has started the others."""

    def __init__(self, place: Rank) -> None:
        super().__init__()
        self.place = place

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self.place.port or 0

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.place.world

    def set_world_size(self, size: int) -> None:
        """It is known from the start."""

    def global_rank(self) -> int:
        return self.place.rank

    def set_global_rank(self, rank: int) -> None:
        """It is known from the start."""

    def local_rank(self) -> int:
        return self.place.rank

    def node_rank(self) -> int:
        return 0


def many_devices(job: TrainJob, device: torch.device, place: Rank) -> dict[str, Any]:
    """Which devices and how they work together, as Lightning's Trainer wants it."""
    return {
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "devices": job.devices,
        "num_nodes": job.nodes,
        "strategy": "ddp" if job.strategy == "auto" else job.strategy,
        "plugins": [] if place.port is None else [OnThisMachine(place)],
        "use_distributed_sampler": False,
    }


class SharedCounts(pl.Callback):
    """Adds up the training's counts over all processes before anybody looks at them."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(pl_module, Training):
            pl_module.gather("train")


class AgreeingOnStop(pl.Callback):
    """After each step, all take over from the first process whether to stop, and how much of the training is over.

    Schedules follow the clock where there is a time limit, and clocks differ.
    """

    def __init__(self, fraction: Callable[[], float]) -> None:
        self._own = fraction
        self._agreed: float | None = None

    def fraction(self) -> float:
        """How much of the training is over, the same in all processes."""
        return 0.0 if self._agreed is None else self._agreed

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._agree(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._agree(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._agree(trainer)

    def _agree(self, trainer: pl.Trainer) -> None:
        mine = torch.tensor([float(trainer.should_stop), self._own()], device=trainer.strategy.root_device)
        torch.distributed.broadcast(mine, 0)
        stop, self._agreed = mine.tolist()
        trainer.should_stop = bool(stop)


class Following(pl.Callback):
    """What the other processes do where the first one has its `Watch`: the same steps, but nothing is written."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(pl_module, Training):
            pl_module.restart_tallies()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # only the first process writes; with the optimiser's state, and only ever read with weights_only=True
        trainer.save_checkpoint(self.folder.checkpoint, weights_only=False)
