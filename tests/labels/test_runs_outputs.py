"""What a run holds: each output as it was written, a pyramid that any reader opens, made while it is filled."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr
from labels.reference import vote
from labels.run_filling import CLASSES, SHAPE, TILES, chunk_bytes, make, put, truth

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.runs.outputs import LABELS
from napari_msunet.labels.runs.run import Run

VALUES = truth()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run filled in one go, its levels made in the end."""
    run = make(tmp_path_factory.mktemp("whole"))
    with run.writing():
        put(run, TILES, VALUES)
        run.complete_run()
    return run


def mean(values: np.ndarray) -> np.ndarray:
    """The 2 x 2 mean of the pixels that exist."""
    h, w = values.shape
    padded = np.full((h + h % 2, w + w % 2), np.nan)
    padded[:h, :w] = values
    return np.nanmean(padded.reshape(padded.shape[0] // 2, 2, -1, 2), axis=(1, 3))


@pytest.mark.parametrize("name", list(VALUES))
def test_every_output_reads_as_it_was_written(whole: Run, name: str) -> None:
    step = {"float16": 5e-4, "uint8": 0.51 / 255}.get(whole.outputs[name], 0) if name not in LABELS else 0
    read = whole.read(Window(-3, 0, SHAPE[0] + 5, SHAPE[1]), output=name)
    np.testing.assert_allclose(read[..., 3:-2, :], VALUES[name], atol=step, rtol=0)
    assert not read[..., :3, :].any()
    assert read.dtype == (np.float32 if name in ("probabilities", "entropy") else whole.outputs[name])
    lazy = whole.lazy(name)
    assert lazy.shape == VALUES[name].shape
    np.testing.assert_array_equal(lazy[..., 500:530, 7].compute(), read[..., 503:533, 7])
    levels = whole.levels(name)
    assert [level.shape[-2:] for level in levels] == whole.info.shapes
    np.testing.assert_array_equal(levels[1].compute(), whole.read(Window(0, 0, *levels[1].shape[-2:]), 1, name))


@pytest.mark.parametrize("name", list(VALUES))
def test_every_output_is_a_pyramid_for_any_reader(whole: Run, name: str) -> None:
    yaozarrs.validate_zarr_store(str(whole.path / name))
    group = zarr.open_group(str(whole.path / name), mode="r")
    levels = [group[str(n)][:] for n in range(len(whole.info.shapes))]
    assert levels[0].shape == VALUES[name].shape
    for finer, coarser in pairwise(levels):
        if name in LABELS:
            np.testing.assert_array_equal(coarser, vote(finer))
        else:
            planes = finer.reshape(-1, *finer.shape[-2:]), coarser.reshape(-1, *coarser.shape[-2:])
            for fine, coarse in zip(*planes, strict=True):
                atol = 0.5 if finer.dtype == np.uint8 else 5e-4
                np.testing.assert_allclose(coarse, mean(fine), atol=atol)
    ome = group.attrs["ome"]
    if name in LABELS:
        colours = ome["image-label"].get("colors", [])
        assert [c["label-value"] for c in colours] == ([] if name == "instances" else [1, 2])
    else:
        names = {"probabilities": ["background", *CLASSES], "entropy": ["entropy"]}
        names["disagreement"] = ["disagreement of the scales"]
        assert [c["label"] for c in ome["omero"]["channels"]] == names[name]
        top = 255 if whole.outputs[name] == "uint8" else 1
        assert {(c["window"]["start"], c["window"]["end"]) for c in ome["omero"]["channels"]} == {(0, top)}


def test_chunks_of_zeros_have_no_file(whole: Run) -> None:
    names = chunk_bytes(whole)
    assert "labels/0/c/2/0" in names
    assert not [n for n in names if n.startswith(("labels/0/c/3", "labels/0/c/4", "instances/0/c/4"))]
    assert "raw/1/c/2/0" not in names
    assert [n for n in names if n.startswith("probabilities/0/c/0/4")]


@pytest.mark.parametrize("expected", [False, True])
def test_levels_made_while_running_are_the_same_and_are_not_made_twice(
    whole: Run, tmp_path: Path, expected: bool
) -> None:
    run = make(tmp_path)
    some = [t for t in TILES if t not in (4, 5)]
    with run.writing():
        put(run, [1], VALUES)  # before a stop: its levels are left to the end
    with run.writing():
        if expected:
            run.expect([TILES[t] for t in some])
        for tile in [t for t in some if t != 1]:
            put(run, [tile], VALUES)
            run.coarsen([TILES[tile]])
        early = {k: (run.path / k).stat().st_ino for k in chunk_bytes(run) if "/0/c" not in k}
        if not expected:  # tiles 4 and 5 may still come
            assert ("entropy/1/c/0/0" in early, "entropy/1/c/1/0" in early) == (True, False)
            put(run, [4, 5], VALUES)
            run.coarsen([TILES[4], TILES[5]])
        assert "entropy/1/c/1/0" in chunk_bytes(run)
        made = {k: (run.path / k).stat().st_ino for k in chunk_bytes(run) if "/0/c" not in k}
        put(run, [t for t in (4, 5) if expected], VALUES)
        run.complete_run()
    assert chunk_bytes(run) == chunk_bytes(whole)
    if not expected:
        kept = {k for k, inode in made.items() if (run.path / k).stat().st_ino == inode}
        assert kept == set(made)


def test_an_output_written_again_shows_in_all_levels(tmp_path: Path) -> None:
    run = make(tmp_path, outputs={"labels": "uint8", "raw": "uint8"})
    with run.writing():
        put(run, TILES, VALUES)
        run.complete_run()
    with run.writing():  # as post-processing does
        run.write(Window(100, 100, 1500, 1500), {"labels": np.zeros((1500, 1500), np.uint8)})
        run.coarsen([Window(100, 100, 1500, 1500)])
        run.complete_run()
        run.note(seconds=3.5, seam={"near": 0.01})
    expected = VALUES["labels"].copy()
    expected[100:1600, 100:1600] = 0
    for level in range(len(run.info.shapes)):
        np.testing.assert_array_equal(run.levels("labels")[level].compute(), expected)
        expected = vote(expected)
    assert not (run.path / "labels" / "0" / "c" / "1" / "1").exists()
    again = Run(run.path)
    assert again.description == {"job": 1, "seconds": 3.5, "seam": {"near": 0.01}}
    assert list(again.done) == list(TILES)
    assert not again.damaged(look=True)
    np.testing.assert_array_equal(again.read(Window(0, 0, *SHAPE), output="raw"), VALUES["raw"])


def test_floats_of_other_widths_are_stored_alike(tmp_path: Path) -> None:
    stored = []
    for dtype in (np.float16, np.float32, np.float64):
        run = make(tmp_path, np.dtype(dtype).name, {"labels": "uint8", "probabilities": "float16", "entropy": "uint8"})
        entropy = np.linspace(-1e-7, 1 + 1e-7, 512 * 512).reshape(512, 512).astype(np.float16)
        half = np.broadcast_to(entropy, (3, 512, 512))
        with run.writing():
            run.write(Window(0, 0, 512, 512), {"entropy": entropy.astype(dtype), "probabilities": half.astype(dtype)})
        stored.append(chunk_bytes(run))
    assert len(stored[0]) == 4
    assert stored[0] == stored[1] == stored[2]


def test_a_failed_tile_is_listed_until_it_succeeds(tmp_path: Path) -> None:
    run = make(tmp_path)
    with run.writing():
        put(run, [0], VALUES)
        run.finish(1, TILES[1], failed="the slide cannot be read there")
    assert list(run.done) == [0]
    assert Run(run.path).failed == {1: "the slide cannot be read there"}
    with run.writing():
        put(run, [1], VALUES)
    assert (list(run.done), run.failed) == ([0, 1], {})


def test_outputs_that_are_not_there(whole: Run, tmp_path: Path) -> None:
    run = make(tmp_path, outputs={"labels": "uint8"})
    for call in (lambda: run.read(Window(0, 0, 2, 2), 0, "entropy"), lambda: run.lazy("raw"), lambda: run.levels("x")):
        with pytest.raises(StoreError, match="kept no"):
            call()
    with pytest.raises(StoreError, match="not open for writing"):
        whole.note(x=1)
