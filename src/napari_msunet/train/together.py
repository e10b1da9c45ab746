"""Training in several processes, for Lightning: how they meet, and what they must agree on at each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

from napari_msunet.config import TrainJob
from napari_msunet.train.module import Training
from napari_msunet.train.ranks import Place
from napari_msunet.train.record import RunFolder


class OnThisMachine(ClusterEnvironment):
    """Tells Lightning who this process is, where `ranks` has started the others."""

    def __init__(self, place: Place) -> None:
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


def many_devices(job: TrainJob, device: torch.device, place: Place) -> dict[str, Any]:
    """Which devices and how they work together, as Lightning's Trainer wants it."""
    return {
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "devices": job.devices,
        "num_nodes": job.nodes,
        "strategy": "ddp" if job.strategy == "auto" else job.strategy,
        "plugins": [] if place.port is None else [OnThisMachine(place)],
        "use_distributed_sampler": False,
    }


class Counting(pl.Callback):
    """Adds up the training's counts over all processes before anybody looks at them."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(pl_module, Training):
            pl_module.gather("train")


class Agreeing(pl.Callback):
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
