"""Layers that have no file, written as pyramids: the worker process and later sessions can then read them."""

from __future__ import annotations

import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Image, Layer
from napari.qt.threading import WorkerBase, WorkerBaseSignals
from napari.utils.notifications import show_error
from napari.utils.progress import progress
from qtpy.QtCore import QTimer, Signal

from napari_msunet.errors import MsunetError, SlideError
from napari_msunet.slide import build_pyramid, slide_from_array
from napari_msunet.widgets.layer_slides import _channels, layer_arrays, layer_pixel_size, remember_file, slide_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.array as da
    import numpy as np
    import numpy.typing as npt


class _Signals(WorkerBaseSignals):  # type: ignore[misc]
    progressed = Signal(int, int)


class _CancelledError(Exception):
    pass


class SlideFileWorker(WorkerBase):  # type: ignore[misc]
    """Writes an image as a pyramid in a thread.

    `returned` gives the path, `errored` an exception, `progressed` the blocks done and of all; `quit()` cancels and
    leaves nothing behind. All signals arrive on the GUI thread.
    """

    def __init__(
        self,
        levels: list[npt.NDArray[np.generic] | da.Array],
        channels: Sequence[str],
        mpp: tuple[float, float] | None,
        out: Path,
    ) -> None:
        super().__init__(SignalsClass=_Signals)
        self._levels, self._channels, self._mpp, self.path = levels, channels, mpp, out

    def work(self) -> Path | None:
        slide = slide_from_array(self._levels, self._mpp, channels=self._channels)
        try:
            return build_pyramid(slide, self.path, progress=self._progress)
        except _CancelledError:
            return None
        finally:
            slide.close()

    def _progress(self, done: int, total: int) -> None:
        if self.abort_requested:
            raise _CancelledError
        self.progressed.emit(done, total)


def as_slide_file(layer: Layer, folder: str | Path) -> SlideFileWorker:
    """Write the image of a layer that has no file as an OME-Zarr pyramid, in a thread.

    The layer's data are only in this process, so no job of the worker could do it. When it is done, `slide_path(layer)`
    is the path.

    Parameters
    ----------
    layer : Image
    folder : path
        Where to write ``NAME.ome.zarr``; a number is added where that is taken.

    Returns
    -------
    SlideFileWorker
        Starts at the next turn of the event loop. Connect `returned` (the path) and `errored`; `quit()` cancels. For a
        layer that has a file `returned` gives that one.

    Raises
    ------
    SlideError
        If the layer is no image.
    """
    if not isinstance(layer, Image):
        raise SlideError(f'"{layer.name}" is no image; choose an image layer.')
    known = slide_path(layer)
    if known is not None:
        worker: SlideFileWorker = _Known(known)
    else:
        worker = SlideFileWorker(
            layer_arrays(layer), _channels(layer), layer_pixel_size(layer)[0], _free_name(layer, folder)
        )
        _show_progress(worker, layer.name)
        owner = weakref.ref(layer)
        worker.returned.connect(lambda path: _written(owner(), path))
        worker.errored.connect(_tell)
    # Not before the caller has connected: a quick answer would be lost. A function, since the timer would not keep the
    # worker of a bound method alive.
    QTimer.singleShot(0, lambda: worker.start())
    return worker


class _Known(SlideFileWorker):
    """Gives a path that is there already."""

    def __init__(self, path: Path) -> None:
        super().__init__([], None, None, path)

    def work(self) -> Path | None:
        return self.path


def _written(layer: Layer | None, path: Path | None) -> None:
    if layer is not None and path is not None:
        remember_file(layer, path)


def _tell(error: Exception) -> None:
    show_error(str(error) if isinstance(error, MsunetError) else f"The layer could not be written as a slide: {error}")


def _show_progress(worker: SlideFileWorker, name: str) -> None:
    """A bar in napari's activity dock, as long as it takes."""
    bar = progress(total=1, desc=f"Writing {name}")

    def progressed(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    worker.progressed.connect(progressed)
    worker.finished.connect(bar.close)


def _free_name(layer: Layer, folder: str | Path) -> Path:
    name = re.sub(r"[^\w.-]+", "_", layer.name).strip("._") or "image"
    number, path = 1, Path(folder) / f"{name}.ome.zarr"
    while path.exists():
        number += 1
        path = Path(folder) / f"{name}-{number}.ome.zarr"
    return path
