"""Where the work of a prediction is done: this process, or the workers of a Dask cluster."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from napari_msunet.config.base import Frozen
from napari_msunet.config.option import Option

_LOCAL = re.compile(r"local:([1-9]\d*)")
_SLURM = re.compile(r"slurm(?::([1-9]\d*))?")
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://\S+:\d+")

_GROUP = "Cluster"


class Cluster(Frozen):
    """The workers of Dask that compute a prediction (extra `cluster`); the result is the same without them."""

    at: Annotated[str, Option(group=_GROUP, flag="--cluster", form=False, example="slurm:20")]
    """Workers of Dask that compute it: local:2 (so many processes on this machine); tcp://host:8786 or tls:// (the
    scheduler of a cluster that runs already); slurm:20 (so many SLURM jobs, submitted for this prediction)."""
    threads: Annotated[
        Annotated[int, Field(ge=1)] | None, Option(group=_GROUP, flag="--cluster-threads", form=False)
    ] = None
    """CPU threads of each worker's network, part of the plan; without it 1 on this machine, else what a worker has."""
    options: Annotated[
        dict[str, str],
        Option(group=_GROUP, flag="--cluster-option", form=False, example="NAME=VALUE, such as queue=gpu"),
    ] = Field(default_factory=dict)
    """For SLURM, such as queue=gpu; can be given several times: queue, account, walltime, cores, memory, interface,
    scheduler_port, directives (more #SBATCH lines, with commas) and setup (shell lines before the worker starts, with
    semicolons). What is not given comes from Dask's own jobqueue.yaml."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"at": value} if isinstance(value, str) else value

    @field_validator("at")
    @classmethod
    def _known(cls, at: str) -> str:
        if not any(pattern.fullmatch(at) for pattern in (_LOCAL, _SLURM, _ADDRESS)):
            raise ValueError(f"{at!r} is no cluster; give local:2, tcp://host:8786, slurm or slurm:20")
        return at

    @model_validator(mode="after")
    def _options_used(self) -> Cluster:
        known = {*("queue", "account", "walltime", "cores", "memory", "interface", "scheduler_port")}
        known |= {"directives", "setup"}
        if self.options and self.kind != "slurm":
            raise ValueError(f"options are for SLURM, not for {self.at}")
        if unknown := sorted(set(self.options) - known):
            raise ValueError(f"SLURM has no option {', '.join(unknown)} here; it has {', '.join(sorted(known))}")
        for name in {"cores", "scheduler_port"} & set(self.options):
            if not self.options[name].isdecimal():
                raise ValueError(f"{name} is a whole number, not {self.options[name]!r}")
        return self

    @property
    def kind(self) -> str:
        """ "local", "slurm" or "address"."""
        return "local" if _LOCAL.fullmatch(self.at) else "slurm" if _SLURM.fullmatch(self.at) else "address"

    @property
    def workers(self) -> int:
        """How many workers are started; 0: none, they are there already."""
        found = _LOCAL.fullmatch(self.at) or _SLURM.fullmatch(self.at)
        return int(found.group(1) or 1) if found else 0
