"""Each measurement in a fresh process, in any of the environments: JSON in, JSON out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from napari_msunet.own_process import PATIENCE, SETTINGS

HERE = Path(__file__).parents[1]
SOURCE = HERE.parent / "src"


def environment(cache: Path | None = None, allocator: bool = True, threads: int | None = 2) -> dict[str, str]:
    """Of a process.

    Parameters
    ----------
    cache : Path, optional
        Folder for the speeds that plans measure, so that they are those of this run.
    allocator : bool
        Whether freed memory is kept and threads wait as those of the worker do; False: as a user has it.
    threads : int, optional
        None: as many as torch takes by itself.
    """
    given = {
        k: v for k, v in os.environ.items() if k not in (*SETTINGS, *PATIENCE, "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    }
    given["PYTHONPATH"] = os.pathsep.join((str(HERE), str(SOURCE)))
    if allocator:
        given |= SETTINGS | PATIENCE
    if threads is not None:
        given |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if cache is not None:
        given["XDG_CACHE_HOME"] = str(cache)
    return given


def command(function: str, arguments: dict[str, Any], python: str | Path = sys.executable) -> Sequence[str]:
    """What calls `inference_parts.MODULE:FUNCTION` with these arguments in a process."""
    return [str(python), "-W", "ignore", "-m", "inference_parts.process", function, json.dumps(arguments, default=str)]


def measured(
    function: str, env: dict[str, str] | None = None, python: str | Path = sys.executable, **arguments: Any
) -> Any:
    """Call a function in a fresh process; what it returns.

    Raises
    ------
    RuntimeError
        With the last lines of what it said, where it fails.
    """
    done = subprocess.run(
        command(function, arguments, python), env=env or environment(), cwd=HERE, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{function} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    module, name = sys.argv[1].split(":")
    result = getattr(import_module(f"inference_parts.{module}"), name)(**json.loads(sys.argv[2]))
    sys.stdout.write("\n" + json.dumps(result) + "\n")
