"""The half of a label store that is read: what it is, and its pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_msunet.constants import IGNORED
from napari_msunet.errors import OutputError, StoreError
from napari_msunet.geometry import Grid, Region, Window
from napari_msunet.labels import annotated, checks
from napari_msunet.labels.cache import Key, pieces
from napari_msunet.labels.checkpoint import listed_chunks, load_checkpoint, unfinished
from napari_msunet.labels.chunks import CHUNK, DamagedChunkError, open_array
from napari_msunet.labels.damage import Damage, damage_at, mask_of, told
from napari_msunet.labels.lazy import WindowArray
from napari_msunet.labels.levels import rebuilt
from napari_msunet.labels.metadata import Colour, Kind, StoreInfo, load_info
from napari_msunet.labels.news import News
from napari_msunet.labels.session import Session
from napari_msunet.stopping import check

if TYPE_CHECKING:
    import dask.array as da


class LabelView:
    """Reads a label store; `LabelStore` adds writing.

    Parameters
    ----------
    path : Path
        The store's folder, which must be whole: metadata and all levels.

    Attributes
    ----------
    shown : bool
        Whether a window shows what is damaged, so that reading need not warn of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._info = load_info(path)
        self._info_time = 0
        self._planes = {
            "labels": [open_array(path / str(n), s, self._info.dtype) for n, s in enumerate(self._info.shapes)],
            "edited": [open_array(path / "edited" / str(n), s, "bool") for n, s in enumerate(self._info.shapes)],
        }
        self._session: Session | None = None
        self._damaged: dict[Key, str] = {}
        self._lost: dict[str, set[tuple[int, int]]] = {"labels": set(), "edited": set()}
        self._sound: dict[Key, tuple[int, int]] = {}
        self._told: set[Key] = set()
        self.shown = False
        self._news: News | None = None
        self._closed = False

    # ---------------------------------------------------------------------------------------------------- description

    @property
    def info(self) -> StoreInfo:
        """All metadata; read again when another process changed them."""
        if self._session is None:
            changed = (self.path / "zarr.json").stat().st_mtime_ns if (self.path / "zarr.json").exists() else 0
            if changed != self._info_time:
                self._info, self._info_time = load_info(self.path), changed
        return self._info

    @property
    def shape(self) -> tuple[int, int]:
        """`(height, width)` of level 0."""
        return self._info.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 for classes, uint32 for numbers of objects."""
        return np.dtype(self._info.dtype)

    @property
    def mpp(self) -> tuple[float, float] | None:
        """µm per pixel `(y, x)` of level 0, if known."""
        return self._info.mpp

    @property
    def spacing(self) -> tuple[float, float]:
        """Size `(y, x)` of a level-0 pixel in µm; in pixels of the slide where its µm are not known."""
        return self._info.spacing

    @property
    def pixel(self) -> tuple[float, float]:
        """Size `(y, x)` of a level-0 pixel of the store in level-0 pixels of its slide."""
        return self._info.pixel

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the slide in its level-0 pixels."""
        return self._info.extent

    @property
    def grid(self) -> Grid:
        """The store's pixels on its slide."""
        return Grid(self.extent, self.pixel, self.mpp)

    @property
    def kind(self) -> Kind:
        """ "labels" or "annotation"."""
        return self._info.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of classes 1, 2, ..."""
        return self.info.classes

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Red, green and blue of each class, 0 to 255."""
        return self.info.colours

    @property
    def fully_annotated(self) -> list[npt.NDArray[np.float64]]:
        """Polygons `(n, 2)` of `y, x` in which everything is annotated: 0 is background there."""
        return [np.array(polygon) for polygon in self.info.fully_annotated]

    @property
    def damaged(self) -> list[Damage]:
        """Chunks that were read and do not decode: their pixels read as 0 until they are painted over.

        Those of coarser levels are made again from the finer ones. A damaged file that is painted over is put by in the
        store's folder ``damaged``.
        """
        found = self._damaged if self._session is None else self._session.cache.damaged
        return [damage_at(self._planes[key[0]][key[1]].file(*key[2:]), *key[1:], text) for key, text in found.items()]

    def find_damage(self, planes: Sequence[str] = ("labels",), window: Window | None = None) -> list[Damage]:
        """Read all chunks of level 0, or those of a window, and tell which are damaged or gone.

        What was found whole before and has not changed is not read again.

        Parameters
        ----------
        planes : sequence of str
            "labels", "edited".
        window : Window, optional
            In level-0 pixels; None: all.
        """
        if self._session is not None:
            with suppress(OutputError):  # what the disk refuses is in memory, and whole
                self._session.flush()
        checkpoint = None if unfinished(self.path) else load_checkpoint(self.path)
        within = Window(0, 0, *self.shape) if window is None else window
        found: list[Damage] = []
        for plane in planes:
            listed = None if checkpoint is None else listed_chunks(checkpoint, plane)
            files = self._planes[plane][0]
            there = {(key[0], key[1]) for key in files.present()}
            repainted = self._repainted() if plane == "labels" else {}
            lost = self._lost[plane]
            for cy, cx in sorted(there | (listed or set()) | set(repainted)):
                if Window(cy * CHUNK, cx * CHUNK, CHUNK, CHUNK).intersection(within).empty:
                    continue
                check()
                gone = (cy, cx) not in there and (cy, cx) in (listed or ())
                wrong = self._wrong((plane, 0, cy, cx), gone) or repainted.get((cy, cx))
                if wrong is None:
                    lost.discard((cy, cx))
                else:
                    lost.add((cy, cx))
                    found.append(damage_at(files.file(cy, cx), 0, cy, cx, wrong))
        return found

    def _repainted(self) -> dict[tuple[int, int], str]:
        """Chunks that were damaged and of which a part was painted over since; with a sentence."""
        found: dict[tuple[int, int], str] = {}
        for path in sorted((self.path / "damaged" / "labels").glob("0-c-*-*")):
            numbers = path.name.split("-")[2:]
            if not all(number.isdigit() for number in numbers):
                continue
            cy, cx = map(int, numbers)
            whole = Window(cy * CHUNK, cx * CHUNK, CHUNK, CHUNK).intersection(Window(0, 0, *self.shape))
            if not whole.empty and not self._read("edited", 0, whole).all():
                found[cy, cx] = (
                    f"{self.path / '0' / 'c' / str(cy) / str(cx)} was damaged, and only a part of it was painted over: "
                    f"paint the rest, predict again, or delete {path} if it is right as it is."
                )
        return found

    def _wrong(self, key: Key, gone: bool) -> str | None:
        """What is wrong with a chunk of level 0, if anything."""
        files = self._planes[key[0]][0]
        path = files.file(*key[2:])
        if gone:
            return f"{path} is missing: its pixels read as 0; copy it again from where it came from, or paint over it."
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if self._sound.get(key) != stamp:
                files.read(*key[2:])
                self._sound[key] = stamp
        except FileNotFoundError:  # it became all zero meanwhile
            return None
        except DamagedChunkError as error:
            return str(error)
        return None

    def lost(self, window: Window) -> npt.NDArray[np.bool_] | None:
        """Which pixels of a window of level 0 lie in damaged chunks of the labels; None: none that is known of.

        Known are those that `find_damage` found, and those that were met when reading.
        """
        found = self._damaged if self._session is None else self._session.cache.damaged
        met = {key[2:] for key in list(found) if key[:2] == ("labels", 0)}
        return mask_of(self._lost["labels"] | met, window) if met or self._lost["labels"] else None

    def fits(self, extent: tuple[int, int], what: str) -> None:
        """Refuse a slide of another size than the one these labels were made for.

        Parameters
        ----------
        extent : (height, width)
            Of the slide, in its level-0 pixels.
        what : str
            How the message calls the slide.

        Raises
        ------
        StoreError
            If the sizes differ.
        """
        if tuple(extent) != self.extent:
            raise StoreError(
                f"{self.path} belongs to an image of {self.extent[0]} x {self.extent[1]} pixels and {what} has "
                f"{extent[0]} x {extent[1]}; open the image these labels were made on, or make labels for this one."
            )

    # -------------------------------------------------------------------------------------------------------- reading

    def news(self) -> list[Region]:
        """Where another process changed the labels since this was last called (at first: since now).

        Cheap enough to be asked every second. What the other process has finished is there within about a second. A
        store that this process writes into has no news.
        """
        if self._session is not None:
            self._news = None
            return []
        if self._news is None:
            self._news = News(self.path, self.shape)
            return []
        return [Region(w.y, w.x, w.height, w.width) for w in self._news.look()]

    @property
    def levels(self) -> list[da.Array]:
        """The pyramid as lazy arrays `y x`, finest first; edits show at once."""
        return [self._lazy("labels", level) for level in range(len(self._info.shapes))]

    @property
    def edited(self) -> da.Array:
        """Which pixels of level 0 a person changed: lazy, `y x`, bool."""
        return self._lazy("edited", 0)

    @property
    def edited_levels(self) -> list[da.Array]:
        """`edited` as a pyramid: true where any pixel below is."""
        return [self._lazy("edited", level) for level in range(len(self._info.shapes))]

    def read(self, region: Region | Window, level: int = 0) -> npt.NDArray[Any]:
        """Labels of the pixels of a level that a region touches.

        Parameters
        ----------
        region : Region or Window
            In level-0 pixels of the store, also for coarser levels. Outside the store: 0.
        level : int
            0 is the finest.

        Warns
        -----
        UserWarning
            Where a chunk is damaged: `damaged` names it. Its pixels are 0 here; `truth` says that they are not known.
        """
        values = self._read_region("labels", region, level)
        self._warn_of_damage("labels")
        return values

    def read_edited(self, region: Region | Window, level: int = 0) -> npt.NDArray[np.bool_]:
        """Which of the pixels that `read` gives a person changed."""
        values = self._read_region("edited", region, level)
        self._warn_of_damage("edited")
        return values

    def _warn_of_damage(self, plane: str) -> None:
        """Say once of each damaged chunk that reading met it; what a job or a window says itself is left out."""
        found = self._damaged if self._session is None else self._session.cache.damaged
        if not found:
            return
        new = [key for key in list(found) if key[:2] == (plane, 0) and key not in self._told]
        new = [key for key in new if key[2:] not in self._lost[plane]]
        self._told.update(new)
        if new and not self.shown:
            damages = [damage_at(self._planes[plane][0].file(*key[2:]), *key[1:], found[key]) for key in new]
            warnings.warn(f"{told(damages, self.path.name, self.shape)}; these pixels read as 0.", stacklevel=3)

    def truth(self, region: Region | Window) -> npt.NDArray[np.uint8]:
        """What training and scores take as true: 0 background, 1..K classes, 255 ignored; uint8."""
        if self._info.instances:
            raise StoreError(f"{self.path} holds numbers of objects; only labels of classes can be a truth.")
        values = self.read(region)
        window = checks.touched(region)
        found = values if self.kind == "labels" else annotated.truth(values, window, self.fully_annotated)
        lost = self.lost(window)
        if lost is not None:
            found = found.copy()
            found[lost] = IGNORED
        return found

    def _lazy(self, plane: str, level: int) -> da.Array:
        def read(window: Window) -> npt.NDArray[Any]:
            return self._read(plane, level, window)

        return WindowArray(self._info.shapes[level], self._planes[plane][level].dtype, read).dask()

    def _read_region(self, plane: str, region: Region | Window, level: int) -> npt.NDArray[Any]:
        if not 0 <= level < len(self._info.shapes):
            raise StoreError(f"{self.path} has the levels 0 to {len(self._info.shapes) - 1}; got level {level}.")
        window = checks.touched(region)
        for _ in range(level):
            window = window.halved()
        inside = window.intersection(Window(0, 0, *self._info.shapes[level]))
        if inside == window:
            return self._read(plane, level, window)
        out = np.zeros(window.shape, self._planes[plane][level].dtype)
        if not inside.empty:
            out[inside.slices((window.y, window.x))] = self._read(plane, level, inside)
        return out

    def _read(self, plane: str, level: int, window: Window) -> npt.NDArray[Any]:
        """A window inside a level: from memory while this process writes, else from the disk: others may write."""
        if self._closed:
            raise StoreError(f"{self.path} was closed; open it again with open_labels.")
        session = self._session
        if session is not None:
            return session.cache.read(plane, level, window)
        files = self._planes[plane][level]
        out = np.zeros(window.shape, files.dtype)
        for cy, cx, inner, outer in pieces(window):
            try:
                chunk = files.read(cy, cx)
                self._damaged.pop((plane, level, cy, cx), None)
            except DamagedChunkError as error:
                self._damaged[plane, level, cy, cx] = str(error)
                chunk = None
                if level:
                    window = Window(cy * CHUNK, cx * CHUNK, CHUNK, CHUNK)
                    chunk = rebuilt(self._read, self._info.shapes, plane, level, window)
            if chunk is not None:
                out[outer] = chunk[inner]
        return out
