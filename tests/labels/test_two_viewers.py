"""Two viewers on one store: of one process, and of two."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from labels.reference import Reference, assert_same

from napari_msunet.errors import StoreLockedError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, open_labels

SHAPE = (1301, 700)

OTHER = """
import sys
from napari_msunet.labels import open_labels
from napari_msunet.geometry import Region
store = open_labels(sys.argv[1])
store.hold()
print("held", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Other:
    """A process that holds the store and does what it is told."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._answer() == "held\n"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def does(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self._answer() == "done\n"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[LabelStore, Other]]:
    LabelStore.create(tmp_path / "labels.ome.zarr", SHAPE, 0.5, ("a", "b")).close()
    other = Other(tmp_path / "labels.ome.zarr")
    mine = open_labels(tmp_path / "labels.ome.zarr")
    yield mine, other
    other.process.kill()
    other.process.communicate()
    mine.close()


def news_of(store: LabelStore) -> list[Region]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = store.external_changes()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("nothing was seen")


def test_the_second_process_sees_finished_strokes_and_where_they_are(pair: tuple[LabelStore, Other]) -> None:
    mine, other = pair
    reference = Reference(SHAPE)
    assert mine.external_changes() == []
    for step, y in enumerate((10, 600, 1200)):
        other.does(f"store.write(Region({y}, 500, 100, 200), {1 + step % 2})")
        reference.stroke(Window(y, 500, 100, 200), 1 + step % 2, None)
        assert news_of(mine) == [Region(y, 500, 100, 200)]
        assert_same(mine, reference)
    other.does("store.undo()")
    reference.undo()
    assert news_of(mine) == [Region(1200, 500, 100, 200)]
    assert_same(mine, reference)
    assert mine.external_changes() == []


def test_the_second_writes_once_the_first_has_closed(pair: tuple[LabelStore, Other]) -> None:
    mine, other = pair
    other.does("store.write(Region(0, 0, 9, 9), 1)")
    with pytest.raises(StoreLockedError, match=f"process {other.process.pid}"):
        mine.hold()
    with pytest.raises(StoreLockedError):
        mine.write(Region(20, 20, 9, 9), 2)
    other.does("store.add_classes(['c']); store.close()")
    mine.write(Region(20, 20, 9, 9), 3)  # a class the other one made
    assert mine.read(Region(0, 0, 9, 9)).min() == 1
    assert [mine.undo(), mine.undo()] == [Region(20, 20, 9, 9), Region(0, 0, 9, 9)]
    assert mine.external_changes() == []


def test_after_a_compaction_everything_may_be_new(pair: tuple[LabelStore, Other]) -> None:
    mine, other = pair
    mine.external_changes()
    other.does("from napari_msunet.labels import session as compaction; compaction.COMPACT_BYTES = 0")
    other.does("store.write(Region(0, 0, 9, 9), 1); store.undo(); store.write(Region(0, 0, 5, 5), 2); store.undo()")
    other.does("store.write(Region(99, 0, 5, 5), 2); store.flush(); store._session.compact(); store.flush()")
    found = news_of(mine)
    assert any(r.y <= 99 and r.stop[0] >= 104 for r in found)
    np.testing.assert_array_equal(mine.read(Region(99, 0, 5, 5)), 2)


def test_two_viewers_of_one_process_share_one_store(tmp_path: Path) -> None:
    first = LabelStore.create(tmp_path / "labels.ome.zarr", SHAPE, 0.5, ("a", "b"))
    second = open_labels(tmp_path / "labels.ome.zarr")
    first.write(Region(0, 0, 9, 9), 1)
    assert second is first
    assert second.read(Region(0, 0, 9, 9)).all()
    assert second.undo() == Region(0, 0, 9, 9)
    first.close()
