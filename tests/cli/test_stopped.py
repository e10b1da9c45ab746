"""The command beside another process that writes, and stopped in the middle."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli.given import NUCLEI, SLIDE, SMALL, Given, command, make_given

import napari_msunet as ms
from napari_msunet.cli import execute

HOLDER = """
import sys, time, napari_msunet as ms
labels = ms.open_labels(sys.argv[1])
labels.write(ms.Region(0, 0, 5, 5), 1)
print("held", flush=True)
time.sleep(120)
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return make_given(tmp_path_factory.mktemp("given"))


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A label store of the slide into which another process writes."""
    with ms.open_slide(SLIDE) as slide:
        store = ms.LabelStore.create(tmp_path / "held.ome.zarr", classes=("nucleus",), slide=slide, mpp=1.0)
    store.close()
    words = [sys.executable, "-c", HOLDER, str(store.path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield store.path
        process.kill()


def test_predicting_into_labels_that_somebody_edits_fills_the_run_and_says_who(
    held: Path, given: Given, capsys: pytest.CaptureFixture[str]
):
    words = ["predict", str(SLIDE), "--model", str(given.model), "--out", str(held), "--region", "0,0,200,200"]
    assert execute(words) == 0
    error = capsys.readouterr().err
    assert re.search(r"Warning: .*not merged.*(held|process)", error), error
    (run,) = ms.open_labels(held).runs
    assert run.complete


@contextmanager
def started(words: list[object]) -> Iterator[subprocess.Popen[str]]:
    """The command, running; killed in the end if it still does."""
    command = [sys.executable, "-m", "napari_msunet", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_keeps_the_best_model_and_says_so(tmp_path: Path):
    words = ["train", "--classes", "nucleus", "--out", tmp_path / "run", *SMALL, "--steps", "2", "--epochs", "100000"]
    words += ["--images", NUCLEI / "test" / "images", "--masks", NUCLEI / "test" / "masks", "--values", "instances"]
    words += ["--table", NUCLEI / "nuclei.csv", "--model-mpp", "1", "--size", "32", "--stop-after", "100000"]
    with started(words) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    assert "The best model so far is" in rest
    assert "Traceback" not in rest
    assert ms.load_model(tmp_path / "run" / "model.safetensors").config.classes == ("nucleus",)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_stopped_prediction_goes_on(tmp_path: Path, given: Given):
    out = tmp_path / "labels.ome.zarr"
    words = ["predict", SLIDE, "--model", given.model, "--out", out, "--tile", "64", "--region", "0,0,1000,1000"]
    with started(words) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and not any(p.stat().st_size for p in out.glob("runs/[!.]*/ledger.jsonl")):
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "the same command goes on where it stopped" in error
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Going on with the run \w+: [1-9]\d* of", done.stderr)
