"""Stores that were damaged: what is said, what still works, and how painting over repairs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from labels.reference import any_of, vote

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, open_labels

SHAPE = (1301, 700)


def written(folder: Path, dtype: str = "uint8") -> tuple[Path, np.ndarray]:
    """A closed store full of labels, and the labels."""
    values = np.random.default_rng(0).integers(0, 3, SHAPE).astype(dtype)
    with LabelStore.create(folder / "labels.ome.zarr", SHAPE, 0.5, ("a", "b"), dtype=dtype) as store:
        store.write(Region(0, 0, *SHAPE), values)
        return store.path, values


def cut(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: min(99, len(data) // 2)])
    return path


@pytest.mark.parametrize("writing", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
def test_a_chunk_that_does_not_decode(tmp_path: Path, writing: bool, dtype: str) -> None:
    path, values = written(tmp_path, dtype)
    chunk = cut(path / "0" / "c" / "1" / "0")
    torn = chunk.read_bytes()
    with open_labels(path) as store:
        if writing:
            store.hold()
        assert not store.damaged
        expected = values.copy()
        expected[512:1024, :512] = 0
        with pytest.warns(UserWarning, match=r"1 chunk of labels\.ome\.zarr is damaged: y 512 to 1024, x 0 to 512"):
            np.testing.assert_array_equal(store.read(Region(0, 0, *SHAPE)), expected)
        (damage,) = store.damaged
        assert (damage.path, damage.level, damage.window) == (chunk, 0, Window(512, 0, 512, 512))
        assert str(chunk) in damage.message
        store.write(Region(600, 100, 20, 20), 2)  # painting over it repairs it
        expected[600:620, 100:120] = 2
        np.testing.assert_array_equal(store.read(Region(0, 0, *SHAPE)), expected)
        store.flush()
        assert not store.damaged
    assert (path / "damaged" / "labels" / "0-c-1-0").read_bytes() == torn  # put by, not lost
    np.testing.assert_array_equal(zarr.open_group(str(path), mode="r")["0"][:], expected)
    with open_labels(path) as store:
        np.testing.assert_array_equal(store.read(Region(0, 0, *SHAPE)), expected)
        assert not store.damaged


@pytest.mark.parametrize("writing", [False, True])
@pytest.mark.parametrize("plane", ["", "edited/"])
def test_a_damaged_coarser_chunk_is_made_again(tmp_path: Path, writing: bool, plane: str) -> None:
    path, values = written(tmp_path)
    cut(path / plane / "1" / "c" / "0" / "0")
    expected = any_of(np.ones(SHAPE, bool)) if plane else vote(values)
    with open_labels(path) as store:
        if writing:
            store.hold()
        level = (store.edited_levels if plane else store.levels)[1]
        np.testing.assert_array_equal(level.compute(), expected)
        assert [damage.level for damage in store.damaged] == [1]
        if not writing:
            return
        store.flush()
        assert not store.damaged
    np.testing.assert_array_equal(zarr.open_group(str(path), mode="r")[f"{plane}1"][:], expected)


def test_one_value_over_a_damaged_chunk(tmp_path: Path) -> None:
    """Also zero, which is what the damaged chunk seems to hold, is written."""
    path, values = written(tmp_path)
    cut(path / "0" / "c" / "0" / "0")
    with open_labels(path) as store:
        store.write(Region(0, 0, 512, 512), 0)
    values[:512, :512] = 0
    np.testing.assert_array_equal(zarr.open_group(str(path), mode="r")["0"][:], values)


@pytest.mark.parametrize("name", ["zarr.json", "1/zarr.json", "1", "edited", "edited/0/zarr.json", "checkpoint.json"])
def test_a_store_cut_short_names_what_is_missing(tmp_path: Path, name: str) -> None:
    import shutil

    path, _ = written(tmp_path)
    missing = path / name
    shutil.rmtree(missing) if missing.is_dir() else missing.unlink()
    with pytest.raises(StoreError, match=str(missing)) as caught:
        open_labels(path)
    assert str(caught.value).count(". ") == 0  # one sentence


def test_a_missing_journal_costs_the_undo_only(tmp_path: Path) -> None:
    import shutil

    path, values = written(tmp_path)
    shutil.rmtree(path / "journal")
    with open_labels(path) as store:
        np.testing.assert_array_equal(store.levels[0].compute(), values)
        assert store.undo() is None
        store.write(Region(0, 0, 5, 5), 1)
        assert store.undo() == Region(0, 0, 5, 5)
        np.testing.assert_array_equal(store.levels[0].compute(), values)


def test_a_damaged_record_costs_the_undo_of_one_stroke(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with LabelStore.create(tmp_path / "labels.ome.zarr", SHAPE, 0.5, ("a", "b")) as store:
        ends = []
        for step in range(3):
            store.write(Region(step * 100, 0, 50, 50), rng.integers(0, 3, (50, 50)))
            ends.append((store.path / "journal" / "00000001.log").stat().st_size)
        expected = store.levels[0].compute()
    log = store.path / "journal" / "00000001.log"
    data = bytearray(log.read_bytes())
    data[ends[1] - 9] ^= 8
    log.write_bytes(bytes(data))
    with open_labels(store.path) as store:
        np.testing.assert_array_equal(store.levels[0].compute(), expected)  # it was in the chunks
        assert store.undo() == Region(200, 0, 50, 50)
        with pytest.raises(StoreError, match=r"stroke 2 is damaged.*those before it still can"):
            store.undo()
        assert store.undo() == Region(0, 0, 50, 50)
        assert store.undo() is None


def test_labels_of_another_image(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    with open_labels(path) as store:
        store.fits(SHAPE, "slide.svs")
        with pytest.raises(StoreError, match=r"1301 x 700 pixels and slide.svs has 1300 x 700"):
            store.fits((1300, 700), "slide.svs")
