"""Ctrl-C and SIGTERM end every verb within two seconds, at whatever time they come, with one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli.given import NUCLEI, SLIDE, SMALL, make_given

import napari_msunet as ms

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="signals of POSIX"),
]

SECONDS = 2.0
BUSY = 5.0
"""How much longer it may take on a machine that other work keeps busy."""

EARLY = ((0.5, signal.SIGINT), (1.5, signal.SIGTERM))
LATE = (4.0, signal.SIGINT)
"""After how many seconds which signal is sent."""

STARTED = ("info", "train", "predict", "worker")
"""Verbs that get the early signals too: they differ in what they import, which is all that has happened by then."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the verbs are given."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "given").mkdir()
    given = make_given(folder / "given")
    (folder / "model.safetensors").write_bytes(given.model.read_bytes())
    values = np.random.default_rng(0).integers(0, 2, (1500, 1500)).astype(np.uint8)
    for name in ("one", "other"):
        with ms.LabelStore.create(folder / f"{name}.ome.zarr", (1500, 1500), 0.5, ("nucleus",)) as store:
            store.write(ms.Region(0, 0, 1500, 1500), values)
    triangles = [[[x, y], [x + 9, y], [x, y + 9], [x, y]] for y in range(0, 2000, 20) for x in range(0, 2000, 20)]
    shapes = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": "nucleus"}},
        }
        for ring in triangles
    ]
    (folder / "shapes.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    return folder


TRAIN = [
    *("--classes", "nucleus", *SMALL, "--values", "instances", "--model-mpp", "1", "--size", "64"),
    *("--images", NUCLEI / "test" / "images", "--masks", NUCLEI / "test" / "masks", "--table", NUCLEI / "nuclei.csv"),
]
EVALUATE = TRAIN[TRAIN.index("--values") : TRAIN.index("--model-mpp")] + TRAIN[TRAIN.index("--images") :]
VERBS: dict[str, list[object]] = {
    "doctor": ["doctor"],
    "info": ["info", SLIDE],
    "pyramid": ["pyramid", SLIDE, "--out", "OUT.ome.zarr"],
    "import": ["import", "shapes.geojson", "--slide", SLIDE, "--labels", "OUT.ome.zarr", "--classes", "nucleus"],
    "train": ["train", *TRAIN, "--out", "OUT", "--epochs", "9999", "--stop-after", "99999"],
    "crossval": ["crossval", *TRAIN, "--out", "OUT", "--epochs", "999"],
    "evaluate": ["evaluate", "--model", "model.safetensors", *EVALUATE],
    "agree": ["agree", "one.ome.zarr", "other.ome.zarr"],
    "predict": ["predict", SLIDE, "--model", "model.safetensors", "--out", "OUT.ome.zarr"],
    "tissue": ["predict", SLIDE, "--model", "model.safetensors", "--out", "OUT.ome.zarr", "--where", "tissue"],
    "plan": ["predict", SLIDE, "--model", "model.safetensors", "--out", "OUT.ome.zarr", "--plan"],
    "measure": ["measure", "one.ome.zarr", "--out", "OUT.csv"],
    "export": ["export", "one.ome.zarr", "--out", "OUT.geojson"],
    "review": ["review", "one.ome.zarr", "--by", "distance", "--out", "OUT.csv"],
    "demo": ["demo", "--out", "OUT", "--no-window"],
    "worker": ["worker"],
}


def ended(words: list[object], folder: Path, number: int, after: float) -> tuple[int, str, float]:
    """Exit code, what was said, and how long it took from the signal on."""
    given = [str(word) for word in words]
    process = subprocess.Popen(
        [sys.executable, "-m", "napari_msunet", *given],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(after)
        process.send_signal(number)
        sent = time.monotonic()
        error = process.communicate(timeout=60)[1]
        return process.returncode, error, time.monotonic() - sent
    finally:
        process.kill()


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_ends(verb: str, folder: Path, tmp_path: Path) -> None:
    for start, number in (*(EARLY if verb in STARTED else ()), LATE):
        if verb == "worker" and number == signal.SIGINT:
            continue  # Ctrl-C in napari's terminal is for napari
        out = tmp_path / f"out{start}"
        words = [str(word).replace("OUT", str(out)) for word in VERBS[verb]]
        code, error, seconds = ended(words, folder, number, start)
        if code == 0:
            break  # it was done before
        if code in (-number, 1) and "napari_msunet/" not in error:
            continue  # Python itself was still starting, and knew nothing of us
        assert code == 128 + number, error
        assert "Traceback" not in error
        assert error.count("Stopped.") == 1, error
        assert seconds < SECONDS * BUSY
        for path in tmp_path.glob("out*.csv"):
            pytest.fail(f"{path} is half-written")


STUBBORN = """
import subprocess, threading, time
from napari_msunet.own_process import ENDING
ENDING.begin()
ENDING.left = lambda: "This is kept."
child = subprocess.Popen(["sleep", "100"])
thread = threading.Thread(target=time.sleep, args=(100,))
thread.start()
waiting = [child.pid]
while True:
    try:
        while waiting:  # inside, so that no signal comes before it is caught
            print(waiting.pop(), flush=True)
        thread.join()
    except BaseException:
        pass
"""


def test_what_does_not_listen_is_ended_with_its_children() -> None:
    words = [sys.executable, "-c", STUBBORN]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=SECONDS * BUSY)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert error == "Stopped. This is kept.\n"
    time.sleep(0.2)
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"
