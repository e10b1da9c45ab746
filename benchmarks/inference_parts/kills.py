"""Predictions that are killed at random moments and go on."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .process import HERE, command
from .report import Row, row
from .setting import Setting

KILLS = 10

ENGINES = {
    "PyTorch, float32": {},
    "PyTorch, bfloat16": {"precision": "bfloat16"},
    "ONNX Runtime": {"engine": "onnx"},
    "OpenVINO, float32": {"engine": "openvino"},
    "OpenVINO, bfloat16": {"engine": "openvino", "precision": "bfloat16"},
}


def kills(setting: Setting) -> list[Row]:
    """Ten kills with each engine and precision that is installed."""
    rows = []
    for name, how in ENGINES.items():
        package = {"onnx": "onnxruntime", "openvino": "openvino"}.get(how.get("engine", ""), "torch")
        rows += _kills(setting, name, how) if find_spec(package) else [row(f"{name}: not installed", "-")]
    return rows


def _kills(setting: Setting, name: str, how: dict[str, str]) -> list[Row]:
    """One run that is never killed; others that are killed until there were ten kills, and then end by themselves.

    The moments are drawn from the time of the prediction: while Python starts, there is nothing to lose.
    """
    rng, folder = random.Random(1), setting.folder
    straight = folder / "kills-straight.zarr"
    shutil.rmtree(straight, ignore_errors=True)
    child = _start(setting, straight, how)
    begin = time.monotonic()
    child.wait()
    longest = time.monotonic() - begin
    expected = chunks(straight)
    done, same, runs, tiles = 0, 0, 0, []
    wanted = 2 if setting.quick else KILLS
    while done < wanted:
        out = folder / "kills-broken.zarr"
        shutil.rmtree(out, ignore_errors=True)
        runs += 1
        while True:
            child = _start(setting, out, how)
            if done >= wanted:
                child.wait()
                break
            try:
                child.wait(rng.uniform(0, longest))
                break  # it was faster
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                done += 1
                tiles.append(finished(out))
        same += chunks(out) == expected
    return [
        row(f"{name}: kills at random moments", done),
        row(f"{name}: tiles finished at each kill, of all of them", f"{tiles}/{finished(straight)}"),
        row(f"{name}: kills after the first tile and before the last", sum(0 < n < finished(straight) for n in tiles)),
        row(f"{name}: of {runs} runs that were killed and went on, those with the same bytes", same, "", at_least=runs),
        row(f"{name}: chunks compared in each", len(expected)),
    ]


def _start(setting: Setting, out: Path, how: dict[str, str]) -> Any:
    """A process that is about to predict."""
    side = 512 if setting.quick else 2048
    given = {"slide": setting.slide(side), "model": setting.model(), "out": out, "how": how}
    child = subprocess.Popen(
        command("kills:predicting", given, sys.executable), env=setting.env(), cwd=HERE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    return child


def predicting(slide: str, model: str, out: str, how: dict[str, str]) -> None:
    """Small tiles, so that a kill falls between some of them."""
    import napari_msunet as ms

    loaded = ms.load_model(Path(model))
    print("begun", flush=True)
    options = {"tile": 256, "outputs": ("labels", "probabilities"), **how}
    ms.predict(Path(slide), loaded, Path(out), **options).close()


def chunks(out: Path) -> dict[str, str]:
    """A hash of each chunk of the only run of a store, of all its outputs and levels."""
    (run,) = [path for path in (out / "runs").iterdir() if path.is_dir()]
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.glob("*/*/c/**/*"))
        if path.is_file()
    }


def finished(out: Path) -> int:
    """Lines in the ledgers of a store's run; 0 while there is none."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob("runs/[!.]*/ledger*"))
