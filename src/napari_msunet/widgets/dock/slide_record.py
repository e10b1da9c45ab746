"""What the dock knows of one slide."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from napari_msunet.config import Kind, Role, ValueRange
from napari_msunet.config.prediction import InClasses
from napari_msunet.errors import MsunetError
from napari_msunet.labels import open_labels
from napari_msunet.labels.tissue import TISSUE
from napari_msunet.labels.where import Mask, StoreClasses
from napari_msunet.project import Ring
from napari_msunet.slide.numbers import Numbers
from napari_msunet.slide.units import given_mpp
from napari_msunet.widgets.dock.counts import Counts


@dataclass(eq=False)
class SlideRecord:
    """A slide that the dock works with.

    Attributes
    ----------
    path : Path
    shape : (height, width)
        In level-0 pixels.
    channels : int
    mpp : (y, x), optional
        µm per pixel, from the file or given.
    mpp_given : bool
        Whether a person gave it, so that jobs must say it too.
    numbers : Numbers, optional
        What its values mean, as its file says or as was guessed.
    kind, value_range : optional
        The same as a person gave it here.
    in_pixels : bool
        Whether a person said that the slide is used in its own pixels: it has no size in µm, or that is not to count.
    mpp_note : str
        What the file says of the size of a pixel that is not believed, as a sentence.
    annotation, labels : Path, optional
        Its annotation store, and its predicted and corrected labels.
    tissue : Path, optional
        Where its tissue is: a label store with the class "tissue".
    counts : dict of int
        Annotated pixels by value: 1..K, 255 for background.
    marked : int
        How many regions are marked as fully annotated.
    counted : bool
        Whether `counts` and `marked` are known: until then an annotation may hold anything.
    counter : Counts, optional
        What counts its annotation.
    unreadable : str, optional
        Why its annotation cannot be opened, as a sentence.
    corrections : bool
        Whether corrected pixels of `labels` count as truth in training.
    regions : tuple of rings
        Where to predict, as it was drawn: corners in level-0 pixels, `(y, x)`.
    """

    path: Path
    shape: tuple[int, int]
    channels: int = 3
    mpp: tuple[float, float] | None = None
    mpp_given: bool = False
    numbers: Numbers | None = None
    kind: Kind | None = None
    value_range: ValueRange | None = None
    in_pixels: bool = False
    mpp_note: str = ""
    identity: str | None = None
    role: Role = "auto"
    annotation: Path | None = None
    labels: Path | None = None
    tissue: Path | None = None
    counts: dict[int, int] = field(default_factory=dict)
    marked: int = 0
    counted: bool = False
    counter: Counts | None = None
    unreadable: str | None = None
    corrections: bool = False
    edited: int = 0
    regions: tuple[Ring, ...] = ()

    @property
    def name(self) -> str:
        """The file's name without its endings."""
        return self.path.name.split(".")[0]

    @property
    def job_mpp(self) -> tuple[float, float] | Literal["px"] | None:
        """What a job must be told of the size of a pixel."""
        if self.in_pixels:
            return "px"
        return self.mpp if self.mpp_given else None

    @property
    def job_numbers(self) -> dict[str, Any]:
        """What a job must be told of the meaning of its values."""
        return {"image_kind": self.kind, "value_range": self.value_range}

    @property
    def open_options(self) -> dict[str, Any]:
        """What `open_slide` must be told."""
        told = {"mpp": self.job_mpp, "kind": self.kind, "value_range": self.value_range}
        return {name: value for name, value in told.items() if value is not None}

    @property
    def sized(self) -> bool:
        """Whether it is known what a pixel of it stands for: µm, or itself."""
        return self.in_pixels or self.mpp is not None

    def give_size(self, mpp: float | tuple[float, float] | str) -> None:
        """Take what a person says of the size of a pixel: µm, or "px"."""
        size = given_mpp(mpp)
        self.in_pixels = isinstance(size, str)
        self.mpp = None if isinstance(size, str) else size
        self.mpp_given = not self.in_pixels

    @property
    def within(self) -> InClasses | None:
        """Its tissue, as jobs are told to keep to it."""
        return None if self.tissue is None else InClasses(labels=self.tissue, classes=(TISSUE,))

    @property
    def tissue_mask(self) -> Mask | None:
        """Its tissue as it is corrected now; read when it is first looked at."""
        return None if self.within is None else StoreClasses(open_labels(self.within.labels), self.within)

    @property
    def annotated(self) -> bool:
        """Whether anything is annotated on it, or may be: it was not counted yet."""
        return bool(self.annotation) and (not self.counted or any(self.counts.values()) or self.marked > 0)

    def annotation_counter(self) -> Counts | None:
        """What counts its annotation as it is now; None without one.

        Raises
        ------
        MsunetError
            If the annotation cannot be opened; the sentence names it.
        """
        if self.annotation is None:
            return None
        try:
            store = open_labels(self.annotation)
        except MsunetError as error:
            self.counted, self.counter = False, None
            self.unreadable = f"The annotation of {self.path.name} cannot be opened: {error}"
            raise MsunetError(self.unreadable) from error
        if self.counter is None:  # what is known of a new annotation without counting stays known
            self.counter = Counts(store)
        elif self.counter.store is not store:
            self.counted, self.counter = False, Counts(store)
        self.unreadable = None
        return self.counter
