"""Runs: filled block by block, resumed, completed; merged into what people see."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from labels.reference import vote

from napari_msunet.errors import StoreError, StoreLockedError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, open_labels, session
from napari_msunet.labels.runs.merge import joined
from napari_msunet.labels.runs.run import Run

SHAPE = (1101, 1300)
CLASSES = ("gland", "stroma")
BLOCKS = [
    Window(y, x, min(400, SHAPE[0] - y), min(500, SHAPE[1] - x))
    for y in range(0, 1101, 400)
    for x in range(0, 1300, 500)
]
LABELS = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 3, (111, 130), dtype=np.uint8), 10, 0), 10, 1)[:1101]
PROBABILITIES = np.stack([c == LABELS for c in range(3)]).astype(np.float32) * 0.5 + 1 / 6


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    made = LabelStore.create(tmp_path / "labels.ome.zarr", SHAPE, 0.5, CLASSES)
    yield made
    made.close()


def fill(run: Run, blocks: range | list[int], complete: bool = False) -> Run:
    with run.writing():
        for block in blocks:
            place = BLOCKS[block].slices()
            values = {"labels": LABELS[place], "probabilities": PROBABILITIES[:, *place]}
            run.write(BLOCKS[block], {name: values[name] for name in run.outputs})
            run.finish(block, BLOCKS[block])
        if complete:
            run.complete_run()
    return run


def chunk_bytes(run: Run) -> dict[str, bytes]:
    return {str(f.relative_to(run.path)): f.read_bytes() for f in run.path.rglob("c/**/*") if f.is_file()}


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_a_complete_run_is_ngff(store: LabelStore, dtype: str) -> None:
    run = store.create_run("a1", {"model": "x"}, CLASSES, {"labels": "uint8", "probabilities": dtype})
    assert not run.complete
    assert run.done == {}
    fill(run, range(9), complete=True)
    assert run.complete
    assert Run(run.path).complete
    assert list(run.done.values()) == BLOCKS
    for name in ("labels", "probabilities"):
        yaozarrs.validate_zarr_store(str(run.path / name))
    labels = zarr.open_group(str(run.path / "labels"), mode="r")
    np.testing.assert_array_equal(labels["0"][:], LABELS)
    np.testing.assert_array_equal(labels["1"][:], vote(LABELS))
    stored = zarr.open_group(str(run.path / "probabilities"), mode="r")
    assert stored["0"].dtype == dtype
    assert stored["0"].shape == (3, *SHAPE)
    omero = stored.attrs["ome"]["omero"]["channels"]
    assert [c["label"] for c in omero] == ["background", *CLASSES]
    step = 1 / 255 if dtype == "uint8" else 1e-3
    lazy = run.probabilities
    assert lazy.shape == (*SHAPE, 3)
    np.testing.assert_allclose(lazy.compute(), PROBABILITIES.transpose(1, 2, 0), atol=step)
    scale = 255 if dtype == "uint8" else 1
    means = PROBABILITIES[:, :1100].reshape(3, 550, 2, 650, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(stored["1"][:, :550] / scale, means, atol=1.01 * step)
    np.testing.assert_array_equal(run.labels[30:700:3, 5].compute(), LABELS[30:700:3, 5])
    assert run.read(Window(-2, -2, 4, 4))[:2].max() == 0


def test_a_run_that_was_resumed_has_the_same_bytes(store: LabelStore) -> None:
    outputs = {"labels": "uint8", "probabilities": "float16"}
    whole = fill(store.create_run("whole", {}, CLASSES, outputs), range(9), complete=True)
    run = store.create_run("cut", {}, CLASSES, outputs)
    fill(run, [4, 2])
    with run.writing():  # killed between a block's chunks and its line in the ledger, and while writing the line
        zeros = np.zeros((3, *BLOCKS[5].shape))
        run.write(BLOCKS[5], {"labels": np.full(BLOCKS[5].shape, 2, np.uint8), "probabilities": zeros})
    with (run.path / "ledger.jsonl").open("a") as ledger:
        ledger.write('{"block": 5, "win')
    (run.path / "aside" / "left.partial").write_bytes(b"half")
    run = Run(run.path)
    assert list(run.done) == [4, 2]
    fill(run, [n for n in reversed(range(9)) if n not in run.done], complete=True)
    assert sorted(Run(run.path).done) == list(range(9))
    assert chunk_bytes(run) == chunk_bytes(whole)
    assert not [path for path in (run.path / "aside").rglob("*") if path.is_file()]


def test_only_one_fills_a_run(store: LabelStore) -> None:
    run = store.create_run("r", {}, CLASSES, {"labels": "uint8"})
    with pytest.raises(StoreError, match=r"with run\.writing"):
        run.write(BLOCKS[0], {"labels": LABELS[BLOCKS[0].slices()]})
    code = "import pathlib, sys; from napari_msunet.labels.runs.run import Run\n"
    code += "with Run(pathlib.Path(sys.argv[1])).writing(): pass"
    with run.writing():
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()}"), Run(run.path).writing():
            pass
        other = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=False)
        assert "StoreLockedError" in other.stderr
        assert str(os.getpid()) in other.stderr
    with Run(run.path).writing():
        pass


def test_a_run_is_made_once_and_needs_no_lock_of_the_store(store: LabelStore) -> None:
    run = store.create_run("r", {"job": 1}, CLASSES, {"labels": "uint8"})
    assert not (store.path / "writer.lock").exists()
    fill(run, [0])
    again = store.create_run("r", {"job": 1}, CLASSES, {"labels": "uint8"})
    assert list(again.done) == [0]
    assert again.description == {"job": 1}
    assert [r.key for r in store.runs] == ["r"]
    with pytest.raises(StoreError, match="no run 'x'"):
        store.run("x")
    with pytest.raises(StoreError, match="no probabilities"):
        _ = run.probabilities


@pytest.mark.parametrize(
    ("key", "outputs", "says"),
    [
        ("../x", {"labels": "uint8"}, "cannot name"),
        ("x", {"labels": "float32"}, "cannot hold"),
        ("x", {}, "needs labels"),
    ],
)
def test_refuses_runs(store: LabelStore, key: str, outputs: dict[str, str], says: str) -> None:
    with pytest.raises(StoreError, match=says):
        store.create_run(key, {}, CLASSES, outputs)
    assert not store.runs


def test_refuses_blocks_that_do_not_fit(store: LabelStore) -> None:
    run = store.create_run("r", {}, CLASSES, {"labels": "uint8", "probabilities": "float16"})
    with run.writing():
        for window, name, values in (
            (Window(-1, 0, 4, 4), "labels", np.zeros((4, 4), np.uint8)),
            (Window(0, 0, 4, 4), "labels", np.zeros((4, 5), np.uint8)),
            (Window(0, 0, 4, 4), "labels", np.zeros((4, 4), np.int64)),
            (Window(0, 0, 4, 4), "probabilities", np.zeros((2, 4, 4), np.float32)),
            (Window(0, 0, 4, 4), "probabilities", np.zeros((3, 4, 4), np.uint8)),
            (Window(0, 0, 4, 4), "entropy", np.zeros((4, 4), np.float32)),
        ):
            with pytest.raises(StoreError):
                run.write(window, {name: values})


def test_merging_maps_by_name_and_leaves_edits_alone(store: LabelStore) -> None:
    store.write(Region(100, 100, 300, 300), 1)
    run = fill(store.create_run("r", {}, ("stroma", "vessel"), {"labels": "uint8"}), range(4))
    store.merge(run)
    assert store.classes == ("gland", "stroma", "vessel")
    expected = np.zeros(SHAPE, np.uint8)
    for block in BLOCKS[:4]:
        expected[block.slices()] = np.array([0, 2, 3], np.uint8)[LABELS[block.slices()]]
    machine = expected.copy()
    expected[100:400, 100:400] = 1
    np.testing.assert_array_equal(store.levels[0].compute(), expected)
    np.testing.assert_array_equal(store.levels[1].compute(), vote(expected))
    store.undo()
    np.testing.assert_array_equal(store.levels[0].compute(), machine)
    assert not store.edited.any().compute()
    assert store.undo() is None


def test_merging_an_older_run_takes_a_merge_back(store: LabelStore) -> None:
    outputs = {"labels": "uint8", "probabilities": "float16"}
    old, new = (store.create_run(key, {}, CLASSES, outputs) for key in ("old", "new"))
    fill(old, range(9))
    with new.writing():
        whole = {"labels": np.full(SHAPE, 1, np.uint8), "probabilities": np.ones((3, *SHAPE))}
        new.write(Window(0, 0, *SHAPE), whole)
        new.finish(0, Window(0, 0, *SHAPE))
    with pytest.raises(StoreError, match="no run that kept"):
        _ = store.probabilities
    store.merge(old)
    store.merge(new, [Window(0, 0, 700, 1300), Window(300, 300, 500, 500)])
    assert store.probabilities[0, 0, 0].compute() == 1
    expected = LABELS.copy()
    expected[:700] = 1
    expected[300:800, 300:800] = 1
    np.testing.assert_array_equal(store.levels[0].compute(), expected)
    store.merge(old)
    assert store.probabilities[0, 0, 0].compute() < 1
    np.testing.assert_array_equal(store.levels[0].compute(), LABELS)
    store.close()
    store = open_labels(store.path)
    store.write(Region(0, 0, 50, 50), 2)
    store.release(Region(10, 10, 20, 20))
    np.testing.assert_array_equal(store.read(Region(10, 10, 20, 20)), LABELS[10:30, 10:30])
    store.close()


def test_a_merge_in_small_steps_is_one_run_in_the_end(store: LabelStore) -> None:
    run = fill(store.create_run("r", {}, CLASSES, {"labels": "uint8"}), range(9))
    for block in BLOCKS:
        store.merge(run, [block])
    store.close()
    store = open_labels(store.path)
    np.testing.assert_array_equal(store.levels[0].compute(), LABELS)
    assert (store.path / "checkpoint.json").read_text().count('"run"') == 1
    assert joined(BLOCKS) == [Window(0, 0, *SHAPE)]


def test_strokes_and_a_kill_in_the_middle_of_a_merge(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fill(store.create_run("r", {}, CLASSES, {"labels": "uint8"}), range(9))
    store.write(Region(900, 900, 50, 50), 1)
    real, copy = session.merge_chunks, store.path.with_name("killed.ome.zarr")

    def interrupted(*arguments: Any) -> Iterator[None]:
        for number, _ in enumerate(real(*arguments)):
            if number == 2:
                store.write(Region(0, 0, 40, 40), 2)  # where the merge has been
                store.write(Region(1000, 1200, 40, 40), 2)  # where it has yet to come
                store.undo()
                store.flush()
                store.write(Region(800, 0, 40, 40), 1)
                shutil.copytree(store.path, copy)
            yield

    monkeypatch.setattr(session, "merge_chunks", interrupted)
    store.merge(run)
    monkeypatch.undo()
    expected = LABELS.copy()
    expected[900:950, 900:950] = 1
    expected[:40, :40] = 2
    expected[800:840, :40] = 1
    with open_labels(copy) as again:
        for each in (store, again):
            np.testing.assert_array_equal(each.levels[0].compute(), expected)
            np.testing.assert_array_equal(each.levels[1].compute(), vote(expected))
            assert each.edited.sum().compute() == 2500 + 2 * 1600
    store.close()
    np.testing.assert_array_equal(open_labels(store.path).levels[0].compute(), expected)


def test_refuses_runs_of_other_stores(store: LabelStore, tmp_path: Path) -> None:
    for name, shape, mpp, kind, says in (
        ("a", SHAPE, 1.0, "labels", "pixels of 1 µm and .* of 0.5 µm|pixels of 0.5 µm and .* of 1 µm"),
        ("e", SHAPE, None, "labels", "image pixels"),
        ("b", (50, 60), 0.5, "labels", "pixels and"),
        ("c", SHAPE, 0.5, "labels", "belongs to"),
    ):
        other = LabelStore.create(tmp_path / name, shape, mpp, CLASSES, kind)
        with pytest.raises(StoreError, match=says):
            store.merge(other.create_run("r", {}, CLASSES, {"labels": "uint8"}))
    annotation = LabelStore.create(tmp_path / "d", SHAPE, 0.5, CLASSES, "annotation")
    with pytest.raises(StoreError, match="annotation"):
        annotation.merge(annotation.create_run("r", {}, CLASSES, {"labels": "uint8"}))


def test_a_damaged_run_says_what_to_do(store: LabelStore) -> None:
    run = fill(store.create_run("r", {}, CLASSES, {"labels": "uint8"}), [0])
    (run.path / "run.json").write_text("{}")
    with pytest.raises(StoreError, match=r"run\.json is damaged"):
        Run(run.path)
