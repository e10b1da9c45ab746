"""Runs: predictions as the machine made them, filled block by block, resumable."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.cache import pieces
from napari_msunet.labels.chunks import CHUNK, create_array, open_array
from napari_msunet.labels.files import folder_aside, output_errors, read_json, sync_paths, write_all, write_json
from napari_msunet.labels.lazy import WindowArray
from napari_msunet.labels.levels import children, coarsen, coarsen_mean
from napari_msunet.labels.lock import WriterLock
from napari_msunet.labels.metadata import StoreInfo, save_attributes
from napari_msunet.slide.ngff import image_attributes

if TYPE_CHECKING:
    import dask.array as da

_OUTPUTS = {"labels": ("uint8", "uint32"), "probabilities": ("float16", "float32", "uint8")}
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Run:
    """One prediction, in a folder of a label store.

    Anyone may read it; `writing` gives the right to fill it.

    Parameters
    ----------
    path : Path
        Folder with ``run.json``, the ledger of finished blocks, ``labels`` and ``probabilities`` (both OME-Zarr).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key = path.name
        note = read_json(path / "run.json")
        try:
            self.info = StoreInfo.model_validate(note["store"])
            self.classes: tuple[str, ...] = tuple(note["classes"])
            self.description: dict[str, Any] = note["description"]
            self.outputs: dict[str, str] = note["outputs"]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path / 'run.json'} is damaged: delete the folder {path} and predict again.") from error
        self._complete = bool(note.get("complete"))
        self._arrays = {
            (name, level): open_array(path / name / str(level), self._array_shape(name, shape), dtype)
            for name, dtype in self.outputs.items()
            for level, shape in enumerate(self.info.shapes)
        }
        self._lock = WriterLock(path, f"The run {self.key} of {path.parent.parent}")
        self._chunks = threading.Lock()
        self._unsynced: set[Path] = set()
        self._blocks: dict[int, Window] = {}
        self._ledger_size = -1

    @classmethod
    def create(
        cls,
        folder: Path,
        key: str,
        info: StoreInfo,
        description: dict[str, Any],
        classes: Sequence[str],
        outputs: Mapping[str, str],
    ) -> Run:
        """Make an empty run in a folder of runs, or open the one that is there; see `LabelStore.create_run`."""
        if not _KEY.fullmatch(key):
            raise StoreError(f"{key!r} cannot name a run; use up to 64 letters, digits, dots, dashes.")
        for name, dtype in outputs.items():
            if dtype not in _OUTPUTS.get(name, ()):
                raise StoreError(f"A run cannot hold {name} as {dtype}; it can hold {_OUTPUTS}.")
        if "labels" not in outputs:
            raise StoreError(f"A run needs labels among its outputs; got {tuple(outputs)}.")
        path = folder / key
        if (path / "run.json").exists():
            return cls(path)
        classes = tuple(classes)
        note = {"store": info.model_dump(mode="json"), "classes": classes, "description": description}
        with output_errors(folder):
            folder.mkdir(exist_ok=True)
            try:
                with folder_aside(path) as aside:
                    for name, dtype in outputs.items():
                        _create_output(aside / name, info.changed(name=f"{info.name} {name}"), classes, dtype)
                    (aside / "ledger.jsonl").touch()
                    write_json(aside / "run.json", {**note, "outputs": dict(outputs), "complete": False})
            except OSError:
                if not (path / "run.json").exists():  # else: another process made the same run meanwhile
                    raise
        return cls(path)

    def _array_shape(self, name: str, shape: tuple[int, int]) -> tuple[int, ...]:
        return shape if name == "labels" else (len(self.classes) + 1, *shape)

    # ------------------------------------------------------------------------------------------------------- reading

    @property
    def complete(self) -> bool:
        """Whether all blocks are finished and the coarser levels made."""
        if not self._complete:
            self._complete = bool(read_json(self.path / "run.json").get("complete"))
        return self._complete

    @property
    def done(self) -> dict[int, Window]:
        """The finished blocks, in the order in which they were finished; a torn last line of the ledger is no block."""
        path = self.path / "ledger.jsonl"
        try:
            size = path.stat().st_size
            if size != self._ledger_size:
                blocks = {}
                for line in path.read_bytes().split(b"\n")[:-1]:
                    entry = json.loads(line)
                    blocks[int(entry["block"])] = Window(*map(int, entry["window"]))
                self._blocks, self._ledger_size = blocks, size
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is missing or damaged: delete the folder {self.path} and predict again."
            ) from error
        return dict(self._blocks)

    def read(self, window: Window, level: int = 0) -> npt.NDArray[Any]:
        """Labels of a window of pixels of a level; outside: 0."""
        return self._read(("labels", level), window)

    def chunk(self, cy: int, cx: int) -> npt.NDArray[Any] | None:
        """A whole chunk of the labels; None where nothing but background was written."""
        return self._arrays["labels", 0].read(cy, cx)

    @property
    def labels(self) -> da.Array:
        """The labels, lazy, `y x`."""
        return WindowArray(self.info.shape, self.outputs["labels"], self.read).dask()

    @property
    def probabilities(self) -> da.Array:
        """The probabilities, lazy, `y x K+1`, background first; those kept as uint8 come as float32 in 0..1."""
        if "probabilities" not in self.outputs:
            raise StoreError(
                f"The run {self.key} of {self.path.parent.parent} kept no probabilities; predict with "
                'outputs=("labels", "probabilities").'
            )
        stored = np.dtype(self.outputs["probabilities"])
        scaled = stored == np.uint8
        channels = range(len(self.classes) + 1)

        def read(window: Window) -> npt.NDArray[Any]:
            planes = np.stack([self._read(("probabilities", 0), window, c) for c in channels], axis=-1)
            return planes.astype(np.float32) / np.float32(255) if scaled else planes

        shape = (*self.info.shape, len(channels))
        return WindowArray(shape, np.float32 if scaled else stored, read).dask()

    def _read(self, array: tuple[str, int], window: Window, *leading: int) -> npt.NDArray[Any]:
        files = self._arrays[array]
        out = np.zeros(window.shape, files.dtype)
        inside = window.intersection(Window(0, 0, *files.shape[-2:]))
        if inside.empty:
            return out
        view = out[inside.slices((window.y, window.x))]
        for cy, cx, inner, outer in pieces(inside):
            values = files.read(*leading, cy, cx)
            if values is not None:
                view[outer] = values[inner]
        return out

    # ------------------------------------------------------------------------------------------------------- writing

    @contextmanager
    def writing(self) -> Iterator[Run]:
        """The right to fill this run.

        Raises
        ------
        StoreLockedError
            If another process or thread has it.
        """
        self._lock.acquire()
        try:
            with output_errors(self.path):
                self._aside.mkdir(exist_ok=True)
                for leftover in self._aside.iterdir():
                    leftover.unlink()
                self._mend_ledger()
            yield self
        finally:
            self._lock.release()

    def write(self, window: Window, labels: npt.NDArray[Any], probabilities: npt.NDArray[Any] | None = None) -> None:
        """Put a block's result into the chunks.

        Parameters
        ----------
        window : Window
            In level-0 pixels of the store, inside it.
        labels : (h, w)
        probabilities : (K+1, h, w), optional
            0..1, background first; needed if the run holds them.
        """
        self._check(window, labels, probabilities)
        with output_errors(self.path), self._chunks:
            self._put("labels", 0, window, labels)
            if probabilities is not None and "probabilities" in self.outputs:
                stored = np.dtype(self.outputs["probabilities"])
                for channel, plane in enumerate(probabilities):
                    values = np.rint(plane * 255).clip(0, 255) if stored == np.uint8 else plane
                    self._put("probabilities", 0, window, values.astype(stored), channel)

    def finish(self, block: int, window: Window) -> None:
        """Note a block as finished, once its chunks are on the disk."""
        self._need_lock()
        with output_errors(self.path), self._chunks:
            sync_paths(self._unsynced)
            self._unsynced.clear()
            line = json.dumps({"block": int(block), "window": [window.y, window.x, *window.shape]}) + "\n"
            descriptor = os.open(self.path / "ledger.jsonl", os.O_WRONLY | os.O_APPEND)
            try:
                write_all(descriptor, line.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def complete_run(self) -> None:
        """Make the coarser levels, chunk by chunk, and mark the run complete."""
        self._need_lock()
        with output_errors(self.path), self._chunks:
            for level in range(1, len(self.info.shapes)):
                for name in self.outputs:
                    planes = [()] if name == "labels" else [(c,) for c in range(len(self.classes) + 1)]
                    rule = coarsen if name == "labels" else coarsen_mean
                    for leading in planes:
                        self._coarser(name, level, rule, leading)
            sync_paths(self._unsynced)
            self._unsynced.clear()
            write_json(self.path / "run.json", {**read_json(self.path / "run.json"), "complete": True})
            self._complete = True

    def _coarser(self, name: str, level: int, rule: Any, leading: tuple[int, ...]) -> None:
        files, finer = self._arrays[name, level], self._arrays[name, level - 1]
        rows, columns = files.counts
        whole = Window(0, 0, *self.info.shapes[level])
        for cy in range(rows):
            for cx in range(columns):
                below = [(2 * cy + i, 2 * cx + j) for i in (0, 1) for j in (0, 1)]
                if (
                    not any(finer.file(*leading, *key).exists() for key in below)
                    and not files.file(*leading, cy, cx).exists()
                ):
                    continue
                window = whole.intersection(Window(cy * CHUNK, cx * CHUNK, CHUNK, CHUNK))
                source = children(window, self.info.shapes[level - 1])
                self._put(name, level, window, rule(self._read((name, level - 1), source, *leading)), *leading)

    def _put(self, name: str, level: int, window: Window, values: npt.NDArray[Any], *leading: int) -> None:
        files = self._arrays[name, level]
        for cy, cx, inner, outer in pieces(window):
            edge = (min(CHUNK, files.shape[-2] - cy * CHUNK), min(CHUNK, files.shape[-1] - cx * CHUNK))
            whole = inner == (slice(0, edge[0]), slice(0, edge[1]))
            chunk = None if whole else files.read(*leading, cy, cx)
            if chunk is None:
                chunk = np.zeros((CHUNK, CHUNK), files.dtype)
            chunk[inner] = values[outer]
            path = files.commit(files.stage(self._aside, chunk), *leading, cy, cx)
            self._unsynced.update((path, path.parent, path.parent.parent))

    @property
    def _aside(self) -> Path:
        return self.path / "aside"

    def _check(self, window: Window, labels: npt.NDArray[Any], probabilities: npt.NDArray[Any] | None) -> None:
        self._need_lock()
        inside = window.intersection(Window(0, 0, *self.info.shape))
        if window.empty or inside != window:
            raise StoreError(f"{window} is not inside the run's {self.info.shape} pixels; cut it to them.")
        dtype = np.dtype(self.outputs["labels"])
        if labels.shape != window.shape or not np.can_cast(labels.dtype, dtype, "safe"):
            raise StoreError(f"Labels of shape {labels.shape}, {labels.dtype} do not fit {window} of a run of {dtype}.")
        expected = (len(self.classes) + 1, *window.shape)
        if "probabilities" in self.outputs and (probabilities is None or probabilities.shape != expected):
            found = None if probabilities is None else probabilities.shape
            raise StoreError(f"Probabilities of shape {found} do not fit {window}; the run needs {expected}.")

    def _need_lock(self) -> None:
        if not self._lock.held:
            raise StoreError(f"The run {self.key} is not open for writing; write inside `with run.writing():`.")

    def _mend_ledger(self) -> None:
        """Cut a torn last line off, so that the next one begins a line."""
        path = self.path / "ledger.jsonl"
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def _create_output(folder: Path, info: StoreInfo, classes: tuple[str, ...], dtype: str) -> None:
    """An empty pyramid of labels or, where the folder is called so, of probabilities."""
    folder.mkdir()
    if folder.name == "labels":
        attributes = info.changed(kind="labels", classes=(), colours=()).with_classes(classes).ome()
        axes: tuple[str, ...] = ("y", "x")
        shapes: list[tuple[int, ...]] = list(info.shapes)
    else:
        axes, count = ("c", "y", "x"), len(classes) + 1
        shapes = [(count, *shape) for shape in info.shapes]
        attributes = image_attributes(info.name, shapes, axes, info.mpp, ("background", *classes), dtype)
    save_attributes(folder, attributes)
    for level, shape in enumerate(shapes):
        create_array(folder / str(level), shape, dtype, axes)
