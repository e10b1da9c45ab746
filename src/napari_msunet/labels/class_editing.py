"""The classes of a label store, and the regions of an annotation in which everything is annotated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy.typing as npt
from pydantic import ValidationError

from napari_msunet.errors import StoreError
from napari_msunet.labels import annotated
from napari_msunet.labels.metadata import check_new_classes, explained, parse_colours
from napari_msunet.labels.writer import Writer


class ClassEditing(Writer):
    """What a label store says about itself, changed; `LabelStore` adds the pixels."""

    def add_classes(self, names: Iterable[str]) -> dict[str, int]:
        """Append the classes that are not there yet; the value of each of `names`."""
        names = tuple(names)
        check_new_classes(name for name in names if name not in self.classes)
        return self._append_classes(names)

    def _append_classes(self, names: tuple[str, ...]) -> dict[str, int]:
        """The same for the names of a model, which may be older than the check."""
        if any(name not in self.classes for name in names):
            with self._mutex:
                self._begin()
                self._save(self._info.with_classes(names))
        return {name: self.classes.index(name) + 1 for name in names}

    def mark_annotated(self, polygon: npt.ArrayLike) -> None:
        """Mark a polygon `(n, 2)` of `y, x` (level-0 pixels of the store) of an annotation as fully annotated."""
        if self.kind != "annotation":
            raise StoreError(f'{self.path} holds labels, all of which count; only kind="annotation" has such regions.')
        corners = annotated.checked_polygon(polygon)
        with self._mutex:
            self._begin()
            self._save(self._info.changed(fully_annotated=(*self._info.fully_annotated, corners)))

    def set_annotated(self, polygons: Iterable[npt.ArrayLike]) -> None:
        """Mark these polygons as fully annotated, and no others; see `mark_annotated`."""
        if self.kind != "annotation":
            raise StoreError(f'{self.path} holds labels, all of which count; only kind="annotation" has such regions.')
        corners = tuple(annotated.checked_polygon(polygon) for polygon in polygons)
        with self._mutex:
            self._begin()
            self._save(self._info.changed(fully_annotated=corners))

    def rename_classes(self, names: Sequence[str] | None = None, colours: Any = None) -> None:
        """Give the classes that are there other names or colours (as for `create`); their pixels stay as they are."""
        check_new_classes(name for name in names or () if name not in self.classes)
        with self._mutex:
            self._begin()
            count = len(self._info.classes)
            tints = self._info.colours if colours is None else parse_colours(colours, count)
            try:
                info = self._info.changed(classes=tuple(names or self._info.classes), colours=tints)
            except ValidationError as error:
                raise StoreError(explained(error, "These classes")) from error
            if len(info.classes) != count:
                raise StoreError(f"{self.path} has {count} classes; give as many names, not {len(info.classes)}.")
            self._save(info)
