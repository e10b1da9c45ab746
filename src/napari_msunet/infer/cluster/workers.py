"""Connecting to the workers of a Dask cluster, and starting them: processes here, or jobs of SLURM."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from uuid import uuid4

from napari_msunet.config import Cluster
from napari_msunet.errors import MsunetError
from napari_msunet.own_process import environment

CONNECT_SECONDS = 20.0
"""How long the scheduler at an address may take to answer."""


@dataclass
class Workers:
    """A connection to the workers of a cluster.

    Attributes
    ----------
    client : distributed.Client
    threads : int
        CPU threads of each worker's network.
    spread : bool
        Whether each worker takes a GPU of its own, by its number: workers started here, on one machine.
    """

    client: Any
    threads: int
    spread: bool
    topic: str = field(default_factory=lambda: f"msunet-{uuid4().hex[:12]}")

    @property
    def names(self) -> list[str]:
        """Addresses of the workers there are now."""
        return list(self.client.scheduler_info(n_workers=-1)["workers"])


@contextmanager
def workers_of(cluster: Cluster) -> Iterator[Workers]:
    """Connect to a cluster, started for this where it is local or of SLURM.

    Raises
    ------
    MsunetError
        If Dask is not installed, or nothing answers at the address.
    """
    with _started(cluster) as where:
        try:
            client = extra("distributed").Client(where, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise MsunetError(
                f"No Dask scheduler answers at {cluster.at}; start one there (`dask scheduler`), or correct --cluster."
            ) from error
        try:
            threads = cluster.threads or _threads(cluster, client)
            yield Workers(client, threads, spread=cluster.kind == "local")
        finally:
            client.close(timeout=5)


def extra(module: str) -> Any:
    """A module of the extra `cluster`, which nothing imports unless it is asked for.

    Raises
    ------
    MsunetError
        If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MsunetError(
            f"A cluster needs {module}, which is not installed; install it: pip install 'napari-msunet[cluster]'."
        ) from error


@contextmanager
def _started(cluster: Cluster) -> Iterator[Any]:
    """What a client connects to; what was started for it ends with it."""
    if cluster.kind == "address":
        yield cluster.at
        return
    if cluster.kind == "slurm" and shutil.which("sbatch") is None:
        raise MsunetError("SLURM's command sbatch is not on this machine; run this where jobs are submitted.")
    with _environment_kept():
        made = local_cluster(cluster) if cluster.kind == "local" else slurm_cluster(cluster)
        try:
            if cluster.kind == "slurm":
                made.scale(jobs=cluster.workers)
            yield made
        finally:
            made.close(timeout=10)


def local_cluster(cluster: Cluster) -> Any:
    """Processes on this machine, each with one task at a time."""
    threads = str(cluster.threads or 1)
    given = {**environment(), **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)}
    distributed = extra("distributed")  # before its settings are changed
    with extra("dask").config.set({"distributed.nanny.pre-spawn-environ": given}):
        return distributed.LocalCluster(
            n_workers=cluster.workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # Dask would kill a worker that it thinks too large; the plan has a limit of its own
            dashboard_address=None,
            silence_logs="ERROR",  # what goes wrong comes back as a sentence
        )


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Dask leaves what it sets for its workers in this process's environment, for good."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


def slurm_cluster(cluster: Cluster) -> Any:
    """A Dask cluster whose workers are SLURM jobs, none of them submitted yet; `job_script()` shows what will be.

    Raises
    ------
    MsunetError
        If dask-jobqueue is not installed, or needs more than was given.
    """
    made = extra("dask_jobqueue").SLURMCluster
    options = dict(cluster.options)
    cores = int(options.pop("cores", 0)) or cluster.threads or 1
    given: dict[str, Any] = {"memory": options.pop("memory", "8 GB"), "python": sys.executable}
    setup = [f"export {name}={value}" for name, value in environment().items()]
    setup += [line.strip() for line in options.pop("setup", "").split(";") if line.strip()]
    directives = [line.strip() for line in options.pop("directives", "").split(",") if line.strip()]
    given["scheduler_options"] = {"dashboard_address": ":0"}
    if port := options.pop("scheduler_port", None):
        given["scheduler_options"]["port"] = int(port)
    try:
        return made(
            cores=1,  # tasks at a time; SLURM gives job_cpu
            processes=1,
            job_cpu=cores,
            job_script_prologue=setup,
            job_extra_directives=directives,
            **given,
            **options,
        )
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise MsunetError(f"The SLURM cluster cannot be set up ({error}); correct --cluster-option.") from error


def _threads(cluster: Cluster, client: Any) -> int:
    """CPU threads for a network on each worker, where nothing was said."""
    if cluster.kind == "address":
        return min(client.nthreads().values(), default=1)
    return int(cluster.options.get("cores", 1))
