"""Reads thumbnails in a thread; only the latest request counts."""

from __future__ import annotations

import threading

from qtpy.QtCore import QObject, Signal

from napari_msunet.errors import MsunetError
from napari_msunet.slide import Slide
from napari_msunet.slide.appearance import shows_colours
from napari_msunet.widgets.fields import FieldOfView, as_colours, thumbnail
from napari_msunet.widgets.fields_panel import size_text

Request = tuple[Slide, list[FieldOfView]]


class ThumbnailReader(QObject):
    """One thread that reads what was asked for last; `ready` gives `(scale, picture, text)` on the GUI thread."""

    ready = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._request: Request | None = None
        self._closed = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="napari-msunet thumbnails", daemon=True)
        self._thread.start()

    def ask(self, slide: Slide, fields: list[FieldOfView]) -> None:
        """Read these next; what was asked before and not begun is dropped."""
        with self._condition:
            self._request = (slide, fields)
            self._condition.notify()

    def close(self) -> None:
        """End the thread once what it reads now is done."""
        with self._condition:
            self._closed, self._request = True, None
            self._condition.notify()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._request is None and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                request, self._request = self._request, None
            if request is not None:
                self._read(request)

    def _read(self, request: Request) -> None:
        slide, fields = request
        colour = shows_colours(slide)
        pictures = []
        for field in fields:
            if self._request is not None or self._closed:
                return
            try:
                pixels = as_colours(thumbnail(slide, field), colour, slide.value_range)
            except (MsunetError, OSError):  # the slide's layer says it, once
                return
            pictures.append((field.name, pixels, size_text(field.window.shape, field.resolution)))
        try:
            self.ready.emit(pictures)
        except RuntimeError:  # Qt has gone
            self._closed = True
