"""The classes of a label store, and the regions of an annotation in which everything is annotated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy.typing as npt
from pydantic import ValidationError

from napari_msunet.errors import OutputError, StoreError, StoreLockedError
from napari_msunet.labels import annotated
from napari_msunet.labels.metadata import StoreInfo, check_new_classes, explained, load_info, parse_colours
from napari_msunet.labels.writer import Writer
from napari_msunet.names import printable
from napari_msunet.slide import Slide
from napari_msunet.slide.identity import same_pixels


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

    def check_slide(self, slide: Slide, instead: str = "give the labels of this slide") -> None:
        """Refuse a slide other than the one these labels belong to, by its size and its pixels.

        A copy, a moved file and one of another kind with the same pixels are the same slide. A store that does not know
        its slide yet (it was made without one) takes this one, and keeps it.

        Parameters
        ----------
        slide : Slide
        instead : str
            What the message says to do.

        Raises
        ------
        StoreError
            If it is another slide.
        """
        name = "this image" if slide.path is None else printable(slide.path.name)
        self.fits((slide.shape[0], slide.shape[1]), name)
        ours = self.info.fingerprint
        if ours is None:
            self._keep_slide(slide)
        elif not same_pixels(ours, slide.fingerprint):
            known = self.info.slide
            whose = "another slide" if known is None else f"another {known}" if known == name else known
            raise StoreError(
                f"{self.path} holds labels of {whose}, not of {name}: they are of one size, but their pixels differ; "
                f"{instead}."
            )

    def check_same_slide(self, other: StoreInfo, what: str) -> None:
        """Refuse what is of another slide, as far as both know theirs; `what` is how the message calls it.

        Raises
        ------
        StoreError
            If the slides have other pixels.
        """
        one, two = self.info.fingerprint, other.fingerprint
        if one is not None and two is not None and not same_pixels(one, two):
            raise StoreError(
                f"{self.path} belongs to {self.info.slide or 'one slide'} and {what} to "
                f"{other.slide or 'another'}, whose pixels differ; give two of the same slide."
            )

    def _keep_slide(self, slide: Slide) -> None:
        """Remember whose labels these are; where another process writes, or the disk refuses, the next time."""
        with self._mutex, suppress(StoreLockedError, OutputError):
            held = self._lock.held
            if not held:
                self._lock.acquire()
            try:
                info = load_info(self.path)
                name = None if slide.path is None else printable(slide.path.name)
                if info.fingerprint is None:
                    self._save(info.changed(fingerprint=slide.fingerprint, slide=info.slide or name))
            finally:
                if not held:
                    self._lock.release()

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
