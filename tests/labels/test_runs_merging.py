"""A run is merged piece by piece while it is filled by another process and a person paints: every stroke stays."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from labels.reference import vote
from labels.run_filling import SHAPE, TILES, make, truth

from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.runs.run import Run


class Painter(threading.Thread):
    """Paints all over the store until it is told to stop, and remembers what; undoes one stroke in five."""

    def __init__(self, store: LabelStore, seed: int) -> None:
        super().__init__()
        self.store, self.ended = store, threading.Event()
        self.strokes: list[tuple[Window, int, np.ndarray]] = []
        self.errors: list[BaseException] = []
        self.undone = 0
        self._rng = np.random.default_rng(seed)

    def run(self) -> None:
        try:
            while not self.ended.is_set() or len(self.strokes) < 20:
                size = self._rng.integers(5, 200, 2)
                y, x = (int(self._rng.integers(0, n - s)) for n, s in zip(SHAPE, size, strict=True))
                window, value = Window(y, x, *map(int, size)), int(self._rng.integers(0, 3))
                mask = self._rng.random(window.shape) < 0.7
                self.store.write(window, value, mask)
                self.strokes.append((window, value, mask))
                self.ended.wait(0.03)
                if self._rng.random() < 0.2:
                    self.store.undo()
                    self.strokes.pop()
                    self.undone += 1
        except BaseException as error:
            self.errors.append(error)


def expected(strokes: list[tuple[Window, int, np.ndarray]], machine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, edited = machine.copy(), np.zeros(SHAPE, bool)
    for window, value, mask in strokes:
        labels[window.slices()][mask] = value
        edited[window.slices()][mask] = True
    return labels, edited


def same(store: LabelStore, labels: np.ndarray, edited: np.ndarray) -> None:
    np.testing.assert_array_equal(store.levels[0].compute(), labels)
    np.testing.assert_array_equal(store.levels[1].compute(), vote(labels))
    np.testing.assert_array_equal(store.edited.compute(), edited)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_strokes_made_while_a_run_is_filled_and_merged_stay(tmp_path: Path, seed: int) -> None:
    run = make(tmp_path, outputs={"labels": "uint8"})
    machine = truth()["labels"]
    store = open_labels(tmp_path / "r.ome.zarr")
    store.write(Window(0, 0, 300, 300), 2)
    painter = Painter(store, seed)
    painter.strokes.append((Window(0, 0, 300, 300), 2, np.ones((300, 300), bool)))
    filler = Path(__file__).with_name("run_filling.py")
    command = [sys.executable, str(filler), str(run.path), "worker", *map(str, TILES)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    painter.start()
    merged = 0
    for line in process.stdout:  # as the editor hears of finished regions
        if line.strip() != "in":
            store.merge(store.run("r"), [TILES[int(line)]])
            merged += 1
    painter.ended.set()
    painter.join()
    process.stdout.close()
    assert process.wait() == 0
    assert not painter.errors
    assert merged == len(TILES)
    assert painter.undone > 1
    same(store, *expected(painter.strokes, machine))
    for number in range(len(painter.strokes), 0, -1):
        assert store.undo() is not None
        if number % 7 == 0:
            np.testing.assert_array_equal(
                store.read(Window(0, 0, *SHAPE)), expected(painter.strokes[: number - 1], machine)[0]
            )
    assert store.undo() is None
    same(store, machine, np.zeros(SHAPE, bool))
    for _ in painter.strokes:
        assert store.redo() is not None
    store.close()
    with open_labels(store.path) as again:
        same(again, *expected(painter.strokes, machine))


def test_a_run_that_is_damaged_does_not_hide_the_others(tmp_path: Path) -> None:
    run = make(tmp_path, outputs={"labels": "uint8"})
    store = open_labels(tmp_path / "r.ome.zarr")
    other = store.create_run("other", {}, ("gland",), {"labels": "uint8"})
    (other.path / "run.json").write_text('{"sto')
    store.close()
    with open_labels(store.path) as again:
        assert [r.key for r in again.runs] == ["r"]
        assert [r.key for r in again.runs] == ["r"]
        assert len(again.messages) == 1
        assert "run.json is damaged" in again.messages[0]
        assert Run(run.path).done == {}
