"""What a run shows: its outputs by window, lazily, and what is damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.chunks import CHUNK
from napari_msunet.labels.damage import Damage, mask_of
from napari_msunet.labels.files import read_json
from napari_msunet.labels.lazy import WindowArray
from napari_msunet.labels.ledger import Ledgers
from napari_msunet.labels.metadata import StoreInfo
from napari_msunet.labels.run_chunks import RunChunks
from napari_msunet.labels.run_outputs import check_outputs, decode_values, plane_count
from napari_msunet.stopping import check

if TYPE_CHECKING:
    import dask.array as da


class RunView:
    """The reading half of `Run`, which see."""

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

    def find_damage(self, outputs: Sequence[str] | None = None, window: Window | None = None) -> list[Damage]:
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
                    found.append(Damage(path, pixels, 0, wrong))
        lines = self._ledgers.damaged_lines
        if lines and self.complete:
            text = f"{lines} lines of its ledger cannot be read"
            found.append(Damage(self._ledgers.file(), Window(0, 0, 0, 0), 0, text))
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
