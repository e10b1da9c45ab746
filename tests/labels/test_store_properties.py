"""Anything a person and a machine can do to a store, in any order, against a few lines of numpy."""

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from labels.killed import left_behind
from labels.reference import Reference, assert_same

from napari_msunet.geometry import Region, Window
from napari_msunet.labels import Brush, LabelStore, Polygon, open_labels, session
from napari_msunet.labels import session as compaction

SHAPE = (1301, 700)
CLASSES = ("gland", "stroma")
RUN_CLASSES = ("stroma", "vessel")  # 1 is the store's 2, 2 becomes its 3
MEMORY = 7 * 2**19  # less than the store's chunks need
BLOCKS = [Window(y, x, min(500, SHAPE[0] - y), min(300, SHAPE[1] - x)) for y in (0, 500, 1000) for x in (0, 300, 600)]


def blobs(seed: int, shape: tuple[int, int], top: int) -> np.ndarray:
    """Values 0..top in patches of a few pixels."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, top + 1, (-(-shape[0] // 5), -(-shape[1] // 7)), dtype=np.uint8)
    return np.repeat(np.repeat(small, 5, 0), 7, 1)[: shape[0], : shape[1]]


@st.composite
def windows(draw: st.DrawFn) -> Window:
    y, x = draw(st.integers(-40, SHAPE[0] - 1)), draw(st.integers(-40, SHAPE[1] - 1))
    return Window(y, x, draw(st.integers(1 - min(y, 0), 700)), draw(st.integers(1 - min(x, 0), 400)))


class StoreMachine(RuleBasedStateMachine):
    dtype = "uint8"

    def __init__(self) -> None:
        super().__init__()
        self.saved = session.PART, compaction.COMPACT_BYTES
        session.PART, compaction.COMPACT_BYTES = 512, 0  # several parts to a stroke, a compaction whenever it can be
        self.folder = Path(tempfile.mkdtemp())
        self.number = 0
        self.used: set[int] = set()
        LabelStore.create(self.path, SHAPE, 0.5, CLASSES, dtype=self.dtype).close()
        self.store = open_labels(self.path, memory=MEMORY)
        self.reference = Reference(SHAPE, self.dtype)
        for key, seed in (("first", 1), ("second", 2)):
            run = self.store.create_run(key, {}, RUN_CLASSES, {"labels": self.dtype})
            with run.writing():
                for block, window in enumerate(BLOCKS[: 7 + seed]):
                    run.write(window, {"labels": self.machine_labels(seed)[window.slices()]})
                    run.finish(block, window)

    def many(self, values: np.ndarray) -> np.ndarray:
        """0 to 2 as values of the store."""
        return values

    def machine_labels(self, seed: int) -> np.ndarray:
        return blobs(seed, SHAPE, 2)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.number}.ome.zarr"

    def teardown(self) -> None:
        session.PART, compaction.COMPACT_BYTES = self.saved
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(window=windows(), value=st.integers(0, 2), seed=st.integers(0, 9), shaped=st.booleans(), masked=st.booleans())
    def write(self, window: Window, value: int, seed: int, shaped: bool, masked: bool) -> None:
        values = self.many(blobs(seed, window.shape, 2)) if shaped else int(self.many(np.array(value)))
        mask = blobs(seed + 10, window.shape, 1) > 0 if masked else None
        self.store.write(Region(window.y, window.x, *window.shape), values, mask)
        self.reference.stroke(window, values, mask)

    @rule(window=windows(), seed=st.integers(0, 9), masked=st.booleans())
    def release(self, window: Window, seed: int, masked: bool) -> None:
        mask = blobs(seed, window.shape, 1) > 0 if masked else None
        self.store.release(window, mask)
        self.reference.stroke(window, 0, mask, release=True)

    @rule(times=st.integers(1, 3))
    def undo(self, times: int) -> None:
        for _ in range(times):
            assert (self.store.undo() is not None) == bool(self.reference.undo_stack)
            self.reference.undo()

    @rule(times=st.integers(1, 3))
    def redo(self, times: int) -> None:
        for _ in range(times):
            assert (self.store.redo() is not None) == bool(self.reference.redo_stack)
            self.reference.redo()

    @rule(key=st.sampled_from(["first", "second"]), part=st.none() | windows())
    def merge(self, key: str, part: Window | None) -> None:
        run = self.store.run(key)
        self.store.merge(run, None if part is None else [part])
        covered = np.zeros(SHAPE, bool)
        for block in run.done.values():
            covered[block.slices() if part is None else block.intersection(part).slices()] = True
        labels = self.machine_labels({"first": 1, "second": 2}[key])
        labels = labels if self.dtype == "uint32" else np.array([0, 2, 3], np.uint8)[labels]
        self.reference.merge(labels, covered)

    @rule(
        line=st.lists(st.tuples(st.integers(-50, 1350), st.integers(-50, 750)), min_size=1, max_size=4),
        radius=st.sampled_from([3.5, 100.5, 500.5]),
        value=st.integers(0, 2),
        over=st.none() | st.integers(0, 2),
        filled=st.booleans(),
    )
    def draw(self, line: list, radius: float, value: int, over: int | None, filled: bool) -> None:
        shape = Polygon(line) if filled and len(line) > 2 else Brush(line, radius)
        whole = Window(0, 0, *SHAPE)
        if shape.window.intersection(whole).empty:
            return
        mask = np.broadcast_to(shape.on(whole), SHAPE)
        value, over = (None if v is None else int(self.many(np.array(v))) for v in (value, over))
        if over is not None:
            mask = mask & (self.reference.labels == over)
        self.store.write_shape(shape, value, over)
        self.reference.stroke(whole, value, mask)

    @rule()
    def new_number(self) -> None:
        """Never one that was used, whatever was undone, merged, closed or killed meanwhile."""
        if self.dtype == "uint32":
            self.used |= set(np.unique(self.reference.labels).tolist())
            number = self.store.next_id()
            assert number not in self.used
            self.store.write(Window(0, 0, 1, 1), number)
            self.reference.stroke(Window(0, 0, 1, 1), number, None)
            self.used.add(number)

    @rule()
    def flush(self) -> None:
        self.store.flush()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = open_labels(self.path, memory=MEMORY)

    @rule()
    def crash(self) -> None:
        """What is on disk now is all that a killed process leaves behind."""
        old, abandoned = self.path, self.store
        self.number += 1
        left_behind(abandoned, self.path.name)
        abandoned.close()
        shutil.rmtree(old)
        self.store = open_labels(self.path, memory=MEMORY)

    @precondition(lambda self: self.store is not None)
    @invariant()
    def same(self) -> None:
        assert_same(self.store, self.reference)


class ObjectMachine(StoreMachine):
    """The same in a store of objects."""

    dtype = "uint32"

    def many(self, values: np.ndarray) -> np.ndarray:
        return values.astype(np.uint32) * 70_000

    def machine_labels(self, seed: int) -> np.ndarray:
        return blobs(seed, SHAPE, 2).astype(np.uint32) * 900_000


@pytest.mark.parametrize("machine", [StoreMachine, ObjectMachine])
@pytest.mark.parametrize("examples", [2, pytest.param(14, marks=pytest.mark.slow)])
def test_any_order_of_edits_merges_and_crashes(examples: int, machine: type[StoreMachine]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
