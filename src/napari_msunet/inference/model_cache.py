"""Models and slides that stay loaded between the jobs of one process, so that a prediction in view begins at once."""

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
    """Name, time of change and size of a file, or of a folder and the metadata in it; empty where nothing is."""
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
    """The most recently used models and slides; one whose file has changed is loaded again.

    For one job at a time. It keeps nothing until it is told to, because a library must not hold files open.

    Parameters
    ----------
    models, slides : int
        How many of each.
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
        """An open slide; see `open_slide`. Outside the block it may be closed at any time."""
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
            # a slide that failed is opened afresh next time
            if usable and self.slides and key[0] == stamp(path):
                self._slides[key] = slide
            else:
                slide.close()
            while len(self._slides) > self.slides:
                self._slides.popitem(last=False)[1].close()

    def clear(self) -> None:
        """Let everything go."""
        self._models.clear()
        while self._slides:
            self._slides.popitem()[1].close()


MODEL_CACHE = ModelCache()
"""What this process keeps: nothing, unless it is a worker."""
