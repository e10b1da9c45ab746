"""Runs: unedited predictions, which are filled tile by tile, can be resumed, and are read by window."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_msunet._io import folder_aside, output_errors, read_json, write_json
from napari_msunet.constants import CHUNK
from napari_msunet.errors import OutputError, StoreError
from napari_msunet.events import check
from napari_msunet.geometry import Window
from napari_msunet.labels.cache import pieces
from napari_msunet.labels.chunks import WindowArray
from napari_msunet.labels.corrupt_chunks import CorruptChunk, mask_of
from napari_msunet.labels.lock import RunLock
from napari_msunet.labels.metadata import StoreInfo
from napari_msunet.labels.runs.ledger import Ledgers
from napari_msunet.labels.runs.outputs import (
    Pending,
    Plane,
    RunChunks,
    check_outputs,
    create_output,
    decode_values,
    make_levels,
    plane_count,
)

if TYPE_CHECKING:
    import dask.array as da
# ----------------------------------------------------------------------------------------------------------------------
# Reading a run: its outputs by window, lazily, and its damaged chunks.


class RunView:
    """The methods of `Run` that read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key = path.name
        try:
            note = read_json(path / "run.json")
            self.info = StoreInfo.model_validate(note["store"])
            self.classes: tuple[str, ...] = tuple(note["classes"])
            self.description: dict[str, Any] = dict(note["description"])
            self.outputs: dict[str, str] = dict(note["outputs"])
            check_outputs(self.outputs)
        except (StoreError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path / 'run.json'} is damaged: delete the folder {path} and predict again.") from error
        self.messages: list[str] = []
        self._complete = bool(note.get("complete"))
        self._chunks = RunChunks(path, self.info.shapes, self.outputs, len(self.classes) + 1)
        self._ledgers = Ledgers(path, self.info.shape)

    @property
    def complete(self) -> bool:
        """Whether all tiles are finished and the coarser levels made."""
        if not self._complete:
            self._complete = bool(read_json(self.path / "run.json").get("complete"))
        return self._complete

    @property
    def done(self) -> dict[int, Window]:
        """The finished tiles, in the order in which each writer finished them."""
        return self._ledgers.done

    @property
    def failed(self) -> dict[int, str]:
        """The tiles that could not be computed, and why."""
        return self._ledgers.failed

    def read(self, window: Window, level: int = 0, output: str = "labels") -> npt.NDArray[Any]:
        """Values of a window of pixels of a level; outside, and where nothing was written: 0.

        Returns
        -------
        (h, w) array, of probabilities (K+1, h, w)
            Of the type that is stored; numbers stored as uint8 come as float32 of 0..1.
        """
        self._need(output)
        return self._chunks.read(output, level, window)

    def read_plane(self, output: str, level: int, window: Window, channel: int | None = None) -> npt.NDArray[Any]:
        """As `read`, of probabilities one channel only: `(h, w)`."""
        self._need(output)
        key = () if channel is None else (channel,)
        return decode_values(self._chunks.read_plane((output, level, key), window), self._chunks.scaled(output))

    def chunk(self, cy: int, cx: int) -> npt.NDArray[Any] | None:
        """A whole chunk of the labels, not to be changed; None where nothing but background was written."""
        return self._chunks.chunk(("labels", 0, ()), cy, cx)

    @property
    def labels(self) -> da.Array:
        """The labels, lazy, `y x`."""
        return self.lazy("labels")

    @property
    def probabilities(self) -> da.Array:
        """The probabilities, lazy, `y x K+1`, background first; those kept as uint8 come as float32 in 0..1."""
        self._need("probabilities")

        def read(window: Window) -> npt.NDArray[Any]:
            return np.moveaxis(self.read(window, 0, "probabilities"), 0, -1)

        shape = (*self.info.shape, len(self.classes) + 1)
        return WindowArray(shape, self._chunks.values_dtype("probabilities"), read).dask()

    def lazy(self, output: str) -> da.Array:
        """The finest level of an output: `y x`, of probabilities `c y x`."""
        return self._lazy(output, 0)

    def levels(self, output: str) -> list[da.Array]:
        """The levels of an output as `lazy`, the finest first; the coarser are whole once the run is complete."""
        return [self._lazy(output, level) for level in range(len(self.info.shapes))]

    def _lazy(self, output: str, level: int) -> da.Array:
        self._need(output)
        import dask.array as da  # takes a second: not before it is needed

        def plane(channel: tuple[int, ...]) -> da.Array:
            def read(window: Window) -> npt.NDArray[Any]:
                values = self._chunks.read_plane((output, level, channel), window)
                return decode_values(values, self._chunks.scaled(output))

            return WindowArray(self.info.shapes[level], self._chunks.values_dtype(output), read).dask()

        planes = [plane(channel) for channel in self._chunks.channels(output)]
        if plane_count(output, self.classes) is None:
            return planes[0]
        stacked: da.Array = da.stack(planes)  # type: ignore[no-untyped-call]
        return stacked

    def damaged(self, look: bool = False) -> dict[Path, Window]:
        """Chunk files that do not decode or are missing, and the pixels of level 0 that show 0 because of that.

        Parameters
        ----------
        look : bool
            Go through all that the finished tiles need, by their files' first bytes; False: what reading met so far.
        """
        found = self._chunks.damaged
        if look:
            for _, chunks in self._broken().items():
                found.update(chunks)
        return found

    def find_corrupt_chunks(
        self, outputs: Sequence[str] | None = None, window: Window | None = None
    ) -> list[CorruptChunk]:
        """Read all chunks of the finest level of some outputs, or those of a window; what is damaged or gone.

        Parameters
        ----------
        outputs : sequence of str, optional
            None: all.
        window : Window, optional
            In level-0 pixels; None: all.
        """
        names = tuple(self.outputs if outputs is None else outputs)
        whole = Window(0, 0, *self.info.shape) if window is None else window
        chunks = {chunk for tile in self._ledgers.needed().values() for chunk in tile if chunk[0] in names}
        for name in names:
            chunks |= {(name, key) for key in self._chunks.files(name, 0).present()}
        found = []
        for chunk in sorted(chunks):
            path, pixels = self._chunks.place(chunk)
            if not pixels.intersection(whole).empty:
                check()
                if (wrong := self._chunks.wrong(chunk)) is not None:
                    self._chunks.damaged[path] = pixels
                    found.append(CorruptChunk(path, pixels, 0, wrong))
        lines = self._ledgers.damaged_lines
        if lines and self.complete:
            text = f"{lines} lines of its ledger cannot be read"
            found.append(CorruptChunk(self._ledgers.file(), Window(0, 0, 0, 0), 0, text))
        return found

    def lost(self, window: Window, outputs: Sequence[str] | None = None) -> npt.NDArray[np.bool_] | None:
        """Which pixels of a window of level 0 lie in damaged chunks, of some outputs or of any; None: none known of."""
        found = {
            (pixels.y // CHUNK, pixels.x // CHUNK)
            for path, pixels in list(self._chunks.damaged.items())
            if self._chunks.is_finest(path, outputs)
        }
        return mask_of(found, window) if found else None

    @property
    def sound(self) -> bool:
        """Whether all files that the finished tiles need are there in their full length, and the ledger is whole."""
        return not self._broken() and not self._ledgers.damaged_lines

    def _broken(self) -> dict[int, dict[Path, Window]]:
        """The finished tiles whose chunk files are missing or cut short, and these."""
        checked: dict[Any, bool] = {}
        broken: dict[int, dict[Path, Window]] = {}
        for tile, chunks in self._ledgers.needed().items():
            for chunk in chunks:
                if chunk not in checked:
                    checked[chunk] = self._chunks.whole(chunk)
                if not checked[chunk]:
                    path, window = self._chunks.place(chunk)
                    broken.setdefault(tile, {})[path] = window
        return broken

    def _need(self, output: str) -> None:
        if output not in self.outputs:
            raise StoreError(
                f"The run {self.key} of {self.path.parent.parent} kept no {output}; predict with "
                f'outputs=("labels", "{output}").'
            )


# ----------------------------------------------------------------------------------------------------------------------
# A run: one prediction, in a folder of a label store.

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Run(RunView):
    """One prediction, in a folder of a label store.

    Any process may read it; `writing` gives the right to fill it.

    Parameters
    ----------
    path : Path
        Folder with ``run.json``, the ledgers of finished tiles, and an OME-Zarr pyramid for each output.

    Attributes
    ----------
    outputs : dict
        What it holds, and the type that is stored: "labels", "raw" (labels before post-processing), "instances",
        "probabilities" (background first), "disagreement" and "entropy" (0..1).
    description : dict
        The values that were given when it was made, and those that were noted since.
    messages : list of str
        Sentences about damage that was found when it was opened for writing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = RunLock(path, f"The run {self.key} of {path.parent.parent}")
        self._pending = Pending(self.info.shapes, self.outputs)
        self._writing, self._coarsening = threading.Lock(), threading.Lock()
        self._needed: list[tuple[Window, str, str]] = []

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
        check_outputs(outputs)
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
                        create_output(aside / name, info.changed(name=f"{info.name} {name}"), classes, dtype)
                    (aside / "ledger.jsonl").touch()
                    write_json(aside / "run.json", {**note, "outputs": dict(outputs), "complete": False})
            except OutputError:
                if not (path / "run.json").exists():  # else: another process made the same run meanwhile
                    raise
        return cls(path)

    # ------------------------------------------------------------------------------------------------------- writing

    @contextmanager
    def writing(self, part: str | None = None) -> Iterator[Run]:
        """The right to fill this run.

        What a killed writer has left is repaired first, with a sentence in `messages`: an incomplete line of the
        ledger, or a finished tile whose chunk is missing or cut short, which then counts as not done.

        Parameters
        ----------
        part : str, optional
            A name, for several processes that fill one run at once: each notes its tiles in a ledger of its own,
            ``ledger.<part>.jsonl``, and no two may write into one chunk. None: alone.

        Raises
        ------
        StoreLockedError
            If another process or thread fills it; a sole writer excludes all others.
        """
        with self._lock.gate():
            alone = self._lock.acquire(part)
            try:
                with output_errors(self.path):
                    if alone:
                        shutil.rmtree(self.path / "aside", ignore_errors=True)
                        self._mend()
                    self._ledgers.open(part)
                    self._chunks.begin(self.path / "aside" / (part or "sole"))
                self._begin()
            except BaseException:
                self._lock.release()
                raise
        try:
            yield self
        finally:
            self._lock.release()

    def _begin(self) -> None:
        self._needed = []
        self._pending = Pending(self.info.shapes, self.outputs)
        for window in self.done.values():
            self._pending.finished(window)
            for output in self.outputs:
                self._pending.changed(output, window)

    def _mend(self) -> None:
        """Make the chunks and the ledgers agree."""
        lines, broken = self._ledgers.damaged_lines, self._broken()
        self._ledgers.mend(without=broken)
        if lines:
            self.messages.append(
                f"{lines} damaged lines were left out of the ledger of {self.path}; their tiles are computed again."
            )
        if lines:
            self._set_complete(False)
        if broken:
            first = next(iter(next(iter(broken.values()))))
            self.messages.append(
                f"{len(broken)} finished tiles of {self.path} had lost pixels ({first} is missing or cut short); they "
                "are computed again."
            )
            self._set_complete(False)

    def write(self, window: Window, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write results into the chunks.

        Parameters
        ----------
        window : Window
            In level-0 pixels of the store, inside it.
        values : mapping
            For each output (not necessarily all of the run's) an `(h, w)` array, for probabilities `(K+1, h, w)`.
            Numbers are floats of 0..1, stored as the run's type says; given as float16 where that is stored, they
            need no conversion.

        Raises
        ------
        StoreError
            If something does not fit; then nothing is written.
        OutputError
            If the disk refuses: tiles that were finished before are intact.
        """
        self._check(window, values)
        with output_errors(self.path), self._writing:
            for output, array in values.items():
                self._pending.changed(output, window)
                planes = array if array.ndim == 3 else array[np.newaxis]
                for channel, plane in zip(self._chunks.channels(output), planes, strict=True):
                    self._write_plane((output, 0, channel), window, plane)

    def _write_plane(self, plane: Plane, window: Window, values: npt.NDArray[Any]) -> None:
        for cy, cx, inner, outer in pieces(window):
            key = (*plane[2], cy, cx)

            def drop(key: tuple[int, ...] = key) -> None:
                self._ledgers.drop(self._lock.part, (plane[0], key))

            if self._chunks.put(plane, (cy, cx), inner, values[outer], drop):
                place = Window(outer[0].start + window.y, outer[1].start + window.x, *values[outer].shape)
                self._needed.append((place, plane[0], "/".join(map(str, key))))

    def finish(self, tile: int, window: Window, failed: str | None = None) -> None:
        """Note a tile as finished, once its chunks are on the disk.

        Parameters
        ----------
        tile : int
        window : Window
            Its pixels, written before.
        failed : str, optional
            Why it could not be computed: it is listed in `Run.failed`, not in `done`.
        """
        self._need_lock()
        with output_errors(self.path), self._writing:
            self._chunks.sync()
            files: dict[str, list[str]] = {}
            rest = []
            for place, output, key in self._needed:
                if place.intersection(window).empty:
                    rest.append((place, output, key))
                elif key not in files.setdefault(output, []):
                    files[output].append(key)
            self._needed = rest
            named = {output: " ".join(keys) for output, keys in files.items()}
            self._ledgers.finish(self._lock.part, int(tile), window, named, failed)
            self._pending.finished(window)

    def expect(self, windows: Iterable[Window]) -> None:
        """Set the windows, without overlaps, that will be finished, so that `coarsen` knows where no more tiles come.

        Without this, `coarsen` waits for the whole level.
        """
        self._need_lock()
        with self._writing:
            self._pending.expect(windows)
            for window in self.done.values():
                self._pending.finished(window)

    def coarsen(self, windows: Iterable[Window]) -> None:
        """Make the coarser levels above finished windows where nothing more is expected below; others come later.

        May run beside `write` in another thread. In a part it does nothing: what lies above may belong to two parts.
        """
        self._need_lock()
        if self._lock.part is None:
            self._make_levels(list(windows))

    def complete_run(self) -> None:
        """Make the remaining coarser levels, and mark the run complete."""
        self._need_lock()
        if self._lock.part is not None:
            raise StoreError(f"The run {self.key} is open for a part only; complete it inside `with run.writing():`.")
        self._make_levels(None)
        with output_errors(self.path), self._writing:
            self._chunks.sync()
        with self._lock.gate():
            self._set_complete(True)

    def note(self, **values: Any) -> None:
        """Keep plain JSON values in the description, such as measurements."""
        self._need_lock()
        with self._lock.gate():
            saved = read_json(self.path / "run.json")
            saved["description"] = {**saved["description"], **values}
            write_json(self.path / "run.json", saved)
            self.description = dict(saved["description"])

    def _make_levels(self, windows: list[Window] | None) -> None:
        def save(output: str, level: int, channel: tuple[int, ...], cy: int, cx: int, values: Any) -> None:
            self._chunks.replace((output, level, channel), (cy, cx), values)

        def read(output: str, level: int, channel: tuple[int, ...], cy: int, cx: int) -> npt.NDArray[Any] | None:
            return self._chunks.chunk((output, level, channel), cy, cx)

        planes = {output: self._chunks.channels(output) for output in self.outputs}
        with output_errors(self.path), self._coarsening:
            make_levels(self._pending, planes, (read, save), self.info.shapes, windows)

    def _set_complete(self, complete: bool) -> None:
        write_json(self.path / "run.json", {**read_json(self.path / "run.json"), "complete": complete})
        self._complete = complete

    def _check(self, window: Window, values: Mapping[str, npt.NDArray[Any]]) -> None:
        self._need_lock()
        inside = window.intersection(Window(0, 0, *self.info.shape))
        if window.empty or inside != window:
            raise StoreError(f"{window} is not inside the run's {self.info.shape} pixels; cut it to them.")
        for output, array in values.items():
            self._need(output)
            count = plane_count(output, self.classes)
            expected = window.shape if count is None else (count, *window.shape)
            if array.shape != expected or not self._chunks.accepts(output, array.dtype):
                raise StoreError(
                    f"{output} of shape {array.shape}, {array.dtype} do not fit {window} of the run {self.key}; give "
                    f"{expected} to be stored as {self.outputs[output]}."
                )

    def _need_lock(self) -> None:
        if not self._lock.held:
            raise StoreError(f"The run {self.key} is not open for writing; write inside `with run.writing():`.")
