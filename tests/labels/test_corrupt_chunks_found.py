"""Damage is looked for before anything is made of a store: found whatever it is, and never taken for background."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

import napari_msunet as ms
from napari_msunet.config import PostprocessJob
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.runs.run import Run
from napari_msunet.labels.store import check_run, check_store

SHAPE = (1000, 700)
WHOLE = Region(0, 0, *SHAPE)
HERE = "y 512 to 1000, x 0 to 512"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of one level with labels everywhere."""
    values = np.kron(np.random.default_rng(0).integers(1, 3, (10, 7)), np.ones((100, 100))).astype(np.uint8)
    with LabelStore.create(tmp_path / "labels.ome.zarr", SHAPE, 0.5, ("a", "b")) as store:
        store.write(WHOLE, values)
        return store.path


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


WAYS = {"cut": cut, "emptied": emptied, "changed": changed, "deleted": os.unlink}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("plane", ["labels", "edited"])
@pytest.mark.parametrize("writing", [False, True])
def test_every_way(path: Path, way: str, plane: str, writing: bool) -> None:
    WAYS[way](path / ("edited" if plane == "edited" else "") / "0" / "c" / "1" / "0")
    with open_labels(path) as store:
        if writing:
            store.hold()
        with pytest.raises(StoreError, match=rf"^1 chunk of labels\.ome\.zarr is damaged: {HERE}; copy it again"):
            check_store(store, planes=(plane,))
        text = check_store(store, "skip", (plane,))
        assert text is not None
        assert f"{HERE}; these pixels are left out" in text
        assert check_store(store, planes=(plane,), window=Window(0, 0, 512, 700)) is None
        assert check_store(store, planes=("edited" if plane == "labels" else "labels",)) is None
        if plane == "labels":
            truth = store.truth(WHOLE)
            assert (truth[512:, :512] == 255).all()
            assert (truth != 255).sum() == 1000 * 700 - 488 * 512


def test_what_was_never_written_or_erased_is_no_damage(tmp_path: Path) -> None:
    with LabelStore.create(tmp_path / "labels.ome.zarr", SHAPE, 0.5, ("a",)) as store:
        store.write(Region(0, 0, 100, 700), 1)
        store.flush()
        store.write(Region(0, 0, 100, 700), 0)
        assert not store.find_corrupt_chunks(("labels", "edited"))
    with open_labels(tmp_path / "labels.ome.zarr") as store:
        assert not store.find_corrupt_chunks(("labels", "edited"))
        store.undo()
        assert not store.find_corrupt_chunks(("labels", "edited"))


def test_many_places_in_few_words(tmp_path: Path) -> None:
    with LabelStore.create(tmp_path / "labels.ome.zarr", (512, 4096), 0.5, ("a",)) as store:
        store.write(Region(0, 0, 512, 4096), np.random.default_rng(0).integers(0, 2, (512, 4096)))
    for n in range(8):
        cut(tmp_path / "labels.ome.zarr" / "0" / "c" / "0" / str(n))
    with pytest.raises(StoreError, match=r"^8 chunks of .* are damaged: y 0 to 512, x 0 to 512; .*; and 4 more; copy"):
        check_store(open_labels(tmp_path / "labels.ome.zarr"))


def test_a_store_from_before_there_were_checksums(path: Path) -> None:
    """It opens, is written on as it was, and what does not decode is found."""
    import json

    for metadata in [path / "0" / "zarr.json", path / "edited" / "0" / "zarr.json"]:
        note = json.loads(metadata.read_text())
        assert note["codecs"].pop() == {"name": "crc32c"}
        metadata.write_text(json.dumps(note))
        for chunk in metadata.parent.glob("c/*/*"):
            os.truncate(chunk, chunk.stat().st_size - 4)
    checkpoint = json.loads((path / "checkpoint.json").read_text())
    del checkpoint["chunks"]
    (path / "checkpoint.json").write_text(json.dumps(checkpoint))
    with open_labels(path) as store:
        values = store.read(WHOLE)
        assert values.min() == 1
        assert not store.find_corrupt_chunks()
        store.write(Region(10, 10, 5, 5), 1)
    values[10:15, 10:15] = 1
    np.testing.assert_array_equal(zarr.open_array(str(path / "0"), mode="r")[:], values)
    os.unlink(path / "0" / "c" / "0" / "1")  # from the first writing on, files are known
    with open_labels(path) as store:
        assert [d.window for d in store.find_corrupt_chunks()] == [Window(0, 512, 512, 512)]


def test_any_reader_opens_what_has_checksums(path: Path) -> None:
    with open_labels(path) as store:
        expected = store.read(WHOLE)
    np.testing.assert_array_equal(zarr.open_group(str(path), mode="r")["0"][:], expected)
    cut(path / "0" / "c" / "0" / "0")
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_group(str(path), mode="r")["0"][:]


def test_a_damaged_chunk_that_is_painted_over_in_part_stays_damaged_where_it_was_not(path: Path) -> None:
    cut(path / "0" / "c" / "1" / "0")
    with open_labels(path) as store:
        store.write(Region(600, 100, 20, 20), 2)
        store.flush()
        (damage,) = store.find_corrupt_chunks()
        assert "only a part of it was painted over" in damage.message
        edited = store.read_edited(WHOLE)
        assert edited[512:, :512].sum() == 400  # what a person had edited there is lost
        store.write(Region(512, 0, 488, 512), 1)
        assert not store.find_corrupt_chunks()


def run_of(path: Path) -> Run:
    with open_labels(path) as store:
        run = store.create_run("k", {}, ("a", "b"), {"labels": "uint8", "probabilities": "float16"})
        rng = np.random.default_rng(1)
        with run.writing():
            for number, window in enumerate([Window(0, 0, 512, 700), Window(512, 0, 488, 700)]):
                values = {"labels": rng.integers(1, 3, window.shape).astype(np.uint8)}
                values["probabilities"] = (0.2 * rng.random((3, *window.shape)) + 0.4).astype(np.float16)
                run.write(window, values)
                run.finish(number, window)
            run.complete_run()
        return run


@pytest.mark.parametrize("way", WAYS)
def test_chunks_of_a_run(path: Path, way: str) -> None:
    run = run_of(path)
    WAYS[way](run.path / "probabilities" / "0" / "c" / "2" / "1" / "0")
    again = Run(run.path)
    with pytest.raises(StoreError, match=rf"its run k\) is damaged: {HERE}; predict again"):
        check_run(again)
    assert check_run(again, outputs=("labels",)) is None
    assert again.lost(Window(0, 0, *SHAPE)).sum() == 488 * 512
    assert again.lost(Window(0, 0, *SHAPE), ("labels",)) is None


def test_a_damaged_line_of_the_ledger_of_a_complete_run(path: Path) -> None:
    run = run_of(path)
    ledger = run.path / "ledger.jsonl"
    lines = ledger.read_bytes().split(b"\n")
    ledger.write_bytes(b"\n".join([lines[0][:-9], *lines[1:]]))
    with pytest.raises(StoreError, match="1 lines of its ledger cannot be read"):
        check_run(Run(run.path))
    assert not Run(run.path).sound


@pytest.mark.parametrize("way", WAYS)
def test_merging_a_damaged_run_changes_nothing_there(path: Path, way: str) -> None:
    run = run_of(path)
    WAYS[way](run.path / "labels" / "0" / "c" / "1" / "0")
    with open_labels(path) as store:
        before = store.read(WHOLE)
        store.release(WHOLE)
        store.undo()
        store.release(Region(0, 0, 1000, 700))
        store.merge(store.run("k"))
        after = store.read(WHOLE)
        np.testing.assert_array_equal(after[:512], run.read(Window(0, 0, 512, 700)))
        assert not after[512:, :512].any()  # released: it shows what was below
    assert before.all()


def test_merging_leaves_alone_where_nobody_knows_what_was_edited(path: Path) -> None:
    run_of(path)
    cut(path / "edited" / "0" / "c" / "1" / "0")
    with open_labels(path) as store:
        before = store.read(WHOLE)
        store.merge(store.run("k"))
        np.testing.assert_array_equal(store.read(WHOLE), before)


def test_the_jobs(path: Path, tmp_path: Path) -> None:
    """They refuse; told to skip, they leave the pixels out of what they say, and say which."""
    cut(path / "0" / "c" / "1" / "0")
    lost = [512, 0, 488, 512]
    with pytest.raises(StoreError, match=HERE):
        list(ms.run(ms.MeasureJob(labels=path, out=tmp_path / "m.csv")))
    assert not list(tmp_path.glob("m*"))
    *_, result = ms.run(ms.MeasureJob(labels=path, out=tmp_path / "m.csv", damaged="skip"))
    assert result.values["damaged"] == [lost]
    assert result.values["damaged_um2"] == 488 * 512 / 4
    assert result.values["area_um2"] == (1000 * 700 - 488 * 512) / 4
    assert sum(row["share"] for row in result.values["classes"]) == pytest.approx(1)
    assert "damaged: not measured,62464,," in (tmp_path / "m.classes.csv").read_text()
    for name in ("e.ome.tif", "e.png", "e.ome.zarr", "e.geojson"):
        with pytest.raises(StoreError, match=HERE):
            list(ms.run(ms.ExportJob(labels=path, out=tmp_path / name)))
        *_, result = ms.run(ms.ExportJob(labels=path, out=tmp_path / name, damaged="skip"))
        assert result.values["damaged"] == [lost]
    import json

    import tifffile
    from PIL import Image

    zarray = zarr.open_group(str(tmp_path / "e.ome.zarr"), mode="r")["0"][:]
    for values in (tifffile.imread(tmp_path / "e.ome.tif"), np.asarray(Image.open(tmp_path / "e.png")), zarray):
        assert (values[512:, :512] == 255).all()
        assert values.max(where=values < 255, initial=0) == 2
    features = json.loads((tmp_path / "e.geojson").read_text())["features"]
    assert [f["properties"]["classification"]["name"] for f in features].count("Ignore*") == 1


def test_agreement(path: Path, tmp_path: Path) -> None:
    from napari_msunet.training.agreement import agreement

    shutil.copytree(path, tmp_path / "other.ome.zarr")
    cut(path / "0" / "c" / "1" / "0")
    for pair in [(path, tmp_path / "other.ome.zarr"), (tmp_path / "other.ome.zarr", path)]:
        with pytest.raises(StoreError, match=HERE):
            agreement(*pair)
        found = agreement(*pair, damaged="skip")
        assert found["pixels"] == 1000 * 700 - 488 * 512
        assert found["kappa"] == pytest.approx(1)
        assert HERE in found["left_out"][0]


def test_postprocessing(path: Path) -> None:
    run = run_of(path)
    with open_labels(path) as store:
        store.release(WHOLE)
        store.merge(store.run("k"))
        before = store.read(WHOLE)
    cut(run.path / "probabilities" / "0" / "c" / "2" / "1" / "0")
    with pytest.raises(StoreError, match=HERE):
        list(ms.run(PostprocessJob(labels=path)))
    *_, result = ms.run(PostprocessJob(labels=path, damaged="skip"))
    assert result.values["damaged"] == [[512, 0, 488, 512]]
    with open_labels(path) as store:
        after = store.read(WHOLE)
    np.testing.assert_array_equal(after[512:, :512], before[512:, :512])
    assert (after[:512] != before[:512]).any()


def test_a_run_that_cannot_be_opened_may_be_the_newest(path: Path) -> None:
    run = run_of(path)
    shutil.copytree(run.path, run.path.with_name("newer"))
    (run.path.with_name("newer") / "run.json").write_text("{")
    with pytest.raises(StoreError, match=r"newer/run\.json is damaged: .* or name another run"):
        list(ms.run(PostprocessJob(labels=path)))
    list(ms.run(PostprocessJob(labels=path, run="k")))
    list(ms.run(PostprocessJob(labels=path, damaged="skip")))


def test_review_and_truth(path: Path) -> None:
    from napari_msunet.review import review_truth
    from napari_msunet.review.queue import survey

    run = run_of(path)
    with open_labels(path) as store:
        store.merge(store.run("k"))
    cut(run.path / "probabilities" / "0" / "c" / "2" / "1" / "0")
    with open_labels(path) as store:
        with pytest.raises(StoreError, match=HERE):
            survey(store, "entropy")
        assert HERE in survey(store, "entropy", damaged="skip").left_out[0]
        with pytest.raises(StoreError, match=HERE):
            review_truth(store, store)
        found = review_truth(store, store, damaged="skip")
        assert (found.pixels, found.unpredicted) == (1000 * 700 - 488 * 512, 488 * 512)


def test_a_mask_that_says_where(path: Path) -> None:
    from napari_msunet.config import InClasses
    from napari_msunet.labels.area import where_mask

    slide = ms.slide_from_array(np.zeros((*SHAPE, 3), np.uint8), mpp=0.5)
    cut(path / "0" / "c" / "1" / "0")
    with pytest.raises(StoreError, match=HERE):
        where_mask(slide, InClasses(labels=path, classes=("a",)))
