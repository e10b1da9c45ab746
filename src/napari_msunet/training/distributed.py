"""Training one model in several processes, one for each device: their ranks, their start, and what they agree on."""

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
# The rank of this process, and starting the other processes.
#
# On one machine, the process that runs the job starts the others with the same job file. On several machines a
# launcher (`srun`, `torchrun`) starts `napari-msunet run job.json` once for each device, and Lightning gets the ranks
# from it.

_RANK, _PORT, _READY = "NAPARI_MSUNET_RANK", "NAPARI_MSUNET_PORT", "NAPARI_MSUNET_READY"
"""Environment variable for a process that is started here: its rank, the port, and the file that it makes when
ready."""

_PATIENCE = 30.0
"""Seconds that the other processes have to end after the training."""


@dataclass(frozen=True)
class Rank:
    """The rank of this process among those that train together.

    Attributes
    ----------
    rank, world : int
        Number of this process, and the number of processes.
    port : int, optional
        The port on this machine at which they connect; None: a launcher connects them.
    """

    rank: int = 0
    world: int = 1
    port: int | None = None

    @property
    def starts_others(self) -> bool:
        """Whether this process is to start the others."""
        return self.world > 1 and self.rank == 0 and self.port is not None


def rank_of(job: TrainJob) -> Rank:
    """The rank of this process in the training of a job.

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
    """Refuse more devices than there are, and options that work on one device only.

    Raises
    ------
    MsunetError
        If the devices cannot train this job together.
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
    """Lightning's environment of torchrun or SLURM; None where neither has started this process."""
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
    """Start the other processes on this machine, if this one has to, and end them at the end of the block.

    Raises
    ------
    MsunetError
        If one of them ended with an error before this one; the message is that of the process.
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
        except RuntimeError as error:  # the connection to a process that has ended
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
    """Wait until all processes have read their images, so that none is late when they connect."""
    while len(list(folder.glob("*.ready"))) < len(running):
        if any(process.poll() is not None for process in running):
            raise _ended(str(folder))
        check_stop()
        time.sleep(0.05)


def tell_ready() -> None:
    """Tell the process that has started this one that this one is ready."""
    if _READY in os.environ:
        Path(os.environ[_READY]).touch()


def _ended(folder: str) -> MsunetError:
    return MsunetError(f"One of the processes that train together has ended: {_last_words(folder)}")


def _start(file: Path, rank: int, place: Rank) -> subprocess.Popen[bytes]:
    """Start one of the other processes; its error stream is kept in a file beside the job file."""
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
    """The last line on the error stream of one of the other processes."""
    for path in sorted(Path(folder).glob("*.txt")):
        lines = path.read_text(encoding="utf8", errors="replace").split("\n")
        if said := [line.strip() for line in lines if line.strip()]:
            return said[-1]
    return "it said nothing"


def threads(place: Rank) -> int:
    """CPU threads of each process, so that all together have as many as one process would have alone."""
    return max(1, torch.get_num_threads() // place.world)


@contextmanager
def fewer_threads(place: Rank) -> Iterator[None]:
    """A context that leaves the other processes their share of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads(place) if place.starts_others else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def leave_group() -> None:
    """End the connection to the other processes, so that this process can train again."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


# ----------------------------------------------------------------------------------------------------------------------
# Lightning's view of the processes that this one has started, and what all processes agree on.


class OnThisMachine(ClusterEnvironment):
    """Tells Lightning the rank of this process, where `others` has started the processes."""

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
        """Does nothing, because it is known from the start."""

    def global_rank(self) -> int:
        return self.place.rank

    def set_global_rank(self, rank: int) -> None:
        """Does nothing, because it is known from the start."""

    def local_rank(self) -> int:
        return self.place.rank

    def node_rank(self) -> int:
        return 0


def many_devices(job: TrainJob, device: torch.device, place: Rank) -> dict[str, Any]:
    """The arguments of Lightning's Trainer for the devices, and for how they work together."""
    # with one loss on the combined output, the heads of some fusions get no gradient
    automatic = "ddp_find_unused_parameters_true" if job.loss.branch_mode == "off" else "ddp"
    return {
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "devices": job.devices,
        "num_nodes": job.nodes,
        "strategy": automatic if job.strategy == "auto" else job.strategy,
        "plugins": [] if place.port is None else [OnThisMachine(place)],
        "use_distributed_sampler": False,
    }


class SharedCounts(pl.Callback):
    """Adds up the training's counts over all processes before they are read."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(pl_module, Training):
            pl_module.gather("train")


class AgreeingOnStop(pl.Callback):
    """After each step, all processes get from the first one whether to stop, and which fraction of the training is
    over.

    With a time limit, schedules follow the clock, and the clocks of the processes differ.
    """

    def __init__(self, fraction: Callable[[], float]) -> None:
        self._own = fraction
        self._agreed: float | None = None

    def fraction(self) -> float:
        """The fraction of the training that is over, the same in all processes."""
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
    """The counterpart of `ProgressCallback` in the other processes: the same steps, but nothing is written."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(pl_module, Training):
            pl_module.restart_tallies()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Only the first process writes the file, but all take part in saving. It includes the optimiser's state, and is
        # only ever read with weights_only=True.
        trainer.save_checkpoint(self.folder.checkpoint, weights_only=False)
