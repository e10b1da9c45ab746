"""A label store: making, reading, writing, metadata, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr

from napari_msunet import _io
from napari_msunet.errors import OutputError, StoreError, StoreLockedError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.slide import slide_from_array

SHAPE = (1301, 700)


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    made = LabelStore.create(
        tmp_path / "labels.ome.zarr", SHAPE, 0.5, ("gland", "stroma"), colours=("#ff0000", (0, 9, 0))
    )
    yield made
    made.close()


def test_opens_as_plain_ngff(store: LabelStore) -> None:
    store.write(Region(100, 50, 300, 200), 2)
    store.flush()
    yaozarrs.validate_zarr_store(str(store.path))
    group = zarr.open_group(str(store.path), mode="r")
    ome = group.attrs["ome"]
    assert [d["path"] for d in ome["multiscales"][0]["datasets"]] == ["0", "1"]
    assert ome["multiscales"][0]["datasets"][1]["coordinateTransformations"][0]["scale"] == [1.0, 1.0]
    assert ome["image-label"]["colors"][1] == {"label-value": 2, "rgba": [0, 9, 0, 255]}
    expected = np.zeros(SHAPE, np.uint8)
    expected[100:400, 50:250] = 2
    np.testing.assert_array_equal(group["0"][:], expected)
    np.testing.assert_array_equal(group["1"][:], expected[::2, ::2])
    np.testing.assert_array_equal(group["edited/0"][:], expected > 0)


def test_keeps_what_it_is(store: LabelStore) -> None:
    store.close()
    again = open_labels(store.path)
    assert (again.shape, again.mpp, again.kind, again.dtype) == (SHAPE, (0.5, 0.5), "labels", np.uint8)
    assert (again.classes, again.colours) == (("gland", "stroma"), ((255, 0, 0), (0, 9, 0)))
    assert (again.pixel, again.extent, again.grid.shape) == ((1.0, 1.0), SHAPE, SHAPE)


def test_takes_the_grid_of_a_slide(tmp_path: Path) -> None:
    slide = slide_from_array(np.zeros((401, 303, 3), np.uint8), mpp=0.5)
    with LabelStore.create(tmp_path / "a.ome.zarr", mpp=0.8, classes=("a",), slide=slide) as store:
        assert store.shape == slide.grid((0.8, 0.8)).shape == (251, 190)
        assert store.grid == slide.grid((0.8, 0.8))
        assert store.extent == (401, 303)


def test_one_object_for_each_path(store: LabelStore) -> None:
    assert open_labels(store.path) is store
    assert open_labels(store.path.parent / "." / store.path.name) is store
    store.close()
    with pytest.raises(StoreError, match="was closed"):
        store.read(Window(0, 0, 1, 1))
    assert open_labels(store.path) is not store


def test_reads_outside_as_zero_at_every_level(store: LabelStore) -> None:
    store.write(Region(0, 0, *SHAPE), 1)
    values = store.read(Region(-10.5, 690, 20, 20))
    assert values.shape == (21, 20)
    assert values[:11].max() == 0
    assert values[11:, :10].min() == 1
    assert values[:, 10:].max() == 0
    assert store.read(Region(-4, 0, 8, 8), level=1).tolist() == [[0] * 4] * 2 + [[1] * 4] * 2
    assert not store.read_edited(Region(5000, 5000, 4, 4)).any()
    with pytest.raises(StoreError, match="levels 0 to 1"):
        store.read(Region(0, 0, 1, 1), level=2)


def test_lazy_levels_see_edits_and_take_any_index(store: LabelStore) -> None:
    level = store.levels[0]
    values = np.random.default_rng(0).integers(0, 3, SHAPE, dtype=np.uint8)
    store.write(Region(0, 0, *SHAPE), values)
    np.testing.assert_array_equal(level.compute(), values)
    for index in ((slice(3, 900, 7), slice(600, 20, -3)), (5, slice(None)), (slice(None), [3, 1, 600]), (..., -1)):
        np.testing.assert_array_equal(level[index].compute(), values[index])


def test_edited_follows_the_mask_also_where_nothing_changes(store: LabelStore) -> None:
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = True
    store.write(Region(10, 10, 4, 4), 0, mask)
    assert np.argwhere(store.edited.compute()).tolist() == [[11, 12]]
    assert store.write(Region(10, 10, 4, 4), 1, np.zeros((4, 4), bool)) == 0
    assert store.undo() == Region(10, 10, 4, 4)
    assert not store.edited.any().compute()


def test_any_integers_that_are_classes(store: LabelStore) -> None:
    for dtype in (np.int64, np.uint16, bool):
        store.write(Region(0, 0, 600, 3), np.ones((600, 3), dtype))
        store.undo()
        store.redo()
        assert (store.read(Region(0, 0, 600, 3)) == 1).all()


@pytest.mark.parametrize(
    ("region", "values", "mask", "says"),
    [
        (Region(0, 0, 2, 2), 3, None, "value 3 is no class"),
        (Region(0, 0, 2, 2), -1, None, "value -1 is no class"),
        (Region(0, 0, 2, 2), 255, None, "value 255 is no class"),
        (Region(0, 0, 2, 2), np.full((2, 2), 259), None, "value 259 is no class"),
        (Region(0, 0, 2, 2), 1.0, None, "whole numbers"),
        (Region(0, 0, 2, 2), np.ones((2, 2), np.float32), None, "whole numbers"),
        (Region(0, 0, 2, 2), np.ones((2, 3), np.uint8), None, "do not fill"),
        (Region(0, 0, 2, 2), 1, np.ones((3, 2), bool), "mask"),
        (Region(0, 0, 2, 2), 1, np.ones((2, 2), np.uint8), "mask"),
        (Region(0.5, 0, 2, 2), 1, None, "whole pixels"),
        (Region(-5, 0, 5, 2), 1, None, "outside"),
        (Region(0, 700, 5, 2), 1, None, "outside"),
        (Window(0, 0, 0, 5), 1, None, "empty"),
    ],
)
def test_refuses_what_does_not_fit(store: LabelStore, region: Region, values: object, mask: object, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        store.write(region, values, mask)
    assert not store.edited.any().compute()
    assert store.undo() is None


def test_classes_are_appended_with_colours(store: LabelStore) -> None:
    assert store.add_classes(["stroma", "vessel"]) == {"stroma": 2, "vessel": 3}
    store.write(Region(0, 0, 2, 2), 3)
    store.close()
    again = open_labels(store.path)
    assert again.classes == ("gland", "stroma", "vessel")
    assert len(set(again.colours)) == 3
    yaozarrs.validate_zarr_store(str(again.path))
    with pytest.raises(StoreError, match="at most 254"):
        again.add_classes([f"class {n}" for n in range(252)])


def test_annotation_and_its_truth(tmp_path: Path) -> None:
    with LabelStore.create(tmp_path / "a.ome.zarr", (40, 30), None, ("tumour",), kind="annotation") as store:
        store.write(Region(0, 0, 4, 4), 1)
        store.write(Region(0, 4, 4, 4), 255)
        with pytest.raises(StoreError, match="255 for background"):
            store.write(Region(0, 4, 4, 4), 2)
        store.mark_annotated([(2, 2), (10, 2), (10, 12), (2, 12)])
        store.close()
        store = open_labels(store.path)
        truth = store.truth(Region(0, 0, 40, 30))
        assert (truth[:4, :4] == 1).all()
        assert (truth[:4, 4:8] == 0).all()
        inside = np.zeros((40, 30), bool)
        inside[2:10, 2:12] = True
        np.testing.assert_array_equal(truth == 255, (store.read(Region(0, 0, 40, 30)) == 0) & ~inside)
        np.testing.assert_array_equal(store.truth(Region(1, 3, 9, 7)), truth[1:10, 3:10])
        with pytest.raises(StoreError, match="three corners"):
            store.mark_annotated([(0, 0), (1, 1)])
        yaozarrs.validate_zarr_store(str(store.path))
        store.close()


def test_instances_are_any_number(tmp_path: Path) -> None:
    with LabelStore.create(tmp_path / "i.ome.zarr", (1100, 30), 1.0, dtype="uint32") as store:
        store.write(Region(3, 3, 8, 8), 4_000_000_000)
        store.undo()
        store.redo()
        store.close()
        assert open_labels(store.path).levels[1][4, 4].compute() == 4_000_000_000
        yaozarrs.validate_zarr_store(str(store.path))
        with pytest.raises(StoreError, match="objects"):
            open_labels(store.path).truth(Region(0, 0, 1, 1))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"classes": ("a", "a")}, "all differ"),
        ({"classes": tuple(map(str, range(255)))}, "at most 254"),
        ({"shape": (0, 5)}, "no pixels"),
        ({"shape": None}, "needs a shape"),
        ({"mpp": -1.0}, "above zero"),
        ({"kind": "mask"}, "not known"),
        ({"dtype": "float32"}, "cannot be stored"),
        ({"kind": "annotation", "dtype": "uint32"}, "uint8"),
        ({"colours": ("#12345",)}, "colours"),
    ],
)
def test_creation_refuses(tmp_path: Path, arguments: dict[str, object], says: str) -> None:
    with pytest.raises(StoreError, match=says):
        LabelStore.create(tmp_path / "a.ome.zarr", **{"shape": (5, 5), "classes": ("a",), **arguments})
    assert not list(tmp_path.iterdir())


def test_creation_replaces_only_label_stores(store: LabelStore, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        LabelStore.create(store.path, (5, 5))
    store.write(Region(0, 0, 5, 5), 1)
    new = LabelStore.create(store.path, (7, 7), overwrite=True)
    assert new.shape == (7, 7)
    assert open_labels(store.path) is new
    (tmp_path / "photos").mkdir()
    with pytest.raises(OutputError, match="no label store"):
        LabelStore.create(tmp_path / "photos", (5, 5), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.ome.zarr", "photos"]


def test_a_full_disk_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_io, "write_all", full)
    with pytest.raises(OutputError, match="disk is full"):
        LabelStore.create(tmp_path / "a.ome.zarr", (5, 5))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["zarr.json", "1/zarr.json", "edited/0/zarr.json", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_names_the_file_that_is_missing_or_cut(store: LabelStore, name: str, damage: str) -> None:
    store.close()
    path = store.path / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:40])
    else:
        path.unlink()
    with pytest.raises(StoreError, match=str(path)):
        open_labels(store.path)


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no folder"):
        open_labels(tmp_path / "nothing")
    zarr.create_group(str(tmp_path / "other.zarr"))
    with pytest.raises(StoreError, match="does not say that this is a label store"):
        open_labels(tmp_path / "other.zarr")
    metadata = json.loads((tmp_path / "other.zarr" / "zarr.json").read_text())
    metadata["attributes"] = {"napari_msunet": {"schema_version": 2}}
    (tmp_path / "other.zarr" / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match="newer"):
        open_labels(tmp_path / "other.zarr")


HOLD = """
import sys
from napari_msunet.labels import open_labels
from napari_msunet.geometry import Region
store = open_labels(sys.argv[1])
store.write(Region(0, 0, 9, 9), 1)
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_second_process_reads_but_does_not_write(store: LabelStore) -> None:
    store.write(Region(20, 20, 2, 2), 2)
    store.close()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    mine = open_labels(store.path)
    assert (mine.read(Region(20, 20, 2, 2)) == 2).all()
    with pytest.raises(StoreLockedError, match=rf"process {holder.pid} on \S+ \(user \S+, since 20"):
        mine.write(Region(0, 0, 1, 1), 1)
    with pytest.raises(StoreLockedError):
        mine.undo()
    with pytest.raises(StoreLockedError):
        LabelStore.create(store.path, (5, 5), overwrite=True)
    mine = open_labels(store.path)
    holder.kill()  # a dead process keeps no lock, and its stroke is there
    holder.communicate()
    mine.write(Region(0, 9, 1, 1), 2)
    assert mine.read(Region(0, 0, 9, 9)).min() == 1
    mine.undo()
    assert mine.undo() == Region(0, 0, 9, 9)
    mine.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_copy_does_not_write(store: LabelStore) -> None:
    store.write(Region(0, 0, 1, 1), 1)
    pid = os.fork()
    if pid == 0:
        try:
            store.write(Region(5, 5, 1, 1), 1)
        except StoreLockedError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_threads_write_and_read_at_once(store: LabelStore) -> None:
    store.flush()
    failures: list[BaseException] = []

    def work(row: int) -> None:
        try:
            for step in range(30):
                store.write(Region(row * 100, step * 20, 100, 20), 1 + step % 2)
                if step % 10 == 5:
                    store.flush()
                assert (store.read(Region(row * 100, step * 20, 100, 20)) == 1 + step % 2).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(5)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failures
    store.close()
    again = open_labels(store.path)
    for step in range(30):
        assert (again.read(Region(0, step * 20, 500, 20)) == 1 + step % 2).all()
