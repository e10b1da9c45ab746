"""The cache of models and slides between the jobs of one process, so that a prediction of the view begins at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_msunet.events import Cancelled
from napari_msunet.models import MSUNet, load_model
from napari_msunet.slide import Slide, open_slide

Stamp = tuple[tuple[str, int, int], ...]


def stamp(path: Path) -> Stamp:
    """Name, modification time and size of a file, or of a folder and its metadata; empty where the path does not
    exist."""
    parts = [path, path / "zarr.json", path / ".zattrs"] if path.is_dir() else [path]
    found = []
    for part in parts:
        try:
            status = part.stat()
        except OSError:
            continue
        found.append((str(part.absolute()), status.st_mtime_ns, status.st_size))
    return tuple(found)


class ModelCache:
    """The most recently used models and slides; those whose file has changed are loaded again.

    It is for one job at a time. By default it keeps nothing, because a library must not hold files open.

    Parameters
    ----------
    models, slides : int
        How many of each are kept.
    """

    def __init__(self, models: int = 0, slides: int = 0) -> None:
        self.models = models
        self.slides = slides
        self._models: OrderedDict[Hashable, MSUNet] = OrderedDict()
        self._slides: OrderedDict[Hashable, Slide] = OrderedDict()

    def model(self, path: Path) -> MSUNet:
        """The model in a file; see `load_model`."""
        key = stamp(path)
        model = self._models.pop(key, None) or load_model(path)
        if self.models and key:
            self._models[key] = model
            while len(self._models) > self.models:
                self._models.popitem(last=False)
        return model

    @contextmanager
    def slide(self, path: Path, mpp: Any = None, kind: Any = None, value_range: Any = None) -> Iterator[Slide]:
        """A context with an open slide, see `open_slide`. Outside the context it may be closed at any time."""
        key = (stamp(path), mpp, kind, value_range)
        slide = self._slides.pop(key, None) or open_slide(path, mpp, kind, value_range)
        usable = False
        try:
            yield slide
            usable = True
        except (GeneratorExit, Cancelled):
            usable = True
            raise
        finally:
            # a slide that failed is opened again the next time
            if usable and self.slides and key[0] == stamp(path):
                self._slides[key] = slide
            else:
                slide.close()
            while len(self._slides) > self.slides:
                self._slides.popitem(last=False)[1].close()

    def clear(self) -> None:
        """Drop all models and slides."""
        self._models.clear()
        while self._slides:
            self._slides.popitem()[1].close()


MODEL_CACHE = ModelCache()
"""The cache of this process, which keeps nothing unless the process is a worker."""
