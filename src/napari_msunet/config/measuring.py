"""The measuring job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from napari_msunet.config.base import Damaged, GivenRange, Kind, Option, PixelSize, Positive, Versioned
from napari_msunet.config.prediction import REGION

Stain: TypeAlias = Literal["none", "haematoxylin-eosin", "haematoxylin-dab"]

_SLIDE, _WHERE, _STAIN, _AROUND = "The slide", "Where", "Stain", "Around each object"
_Length: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Density: TypeAlias = Annotated[float, Field(gt=0, lt=5)]


class MeasureJob(Versioned):
    """Area of each class, and area, shape, stain, place and neighbours of each object of a label store, as tables.

    Lengths are in pixels of the slide where the labels have no size in µm.
    """

    job: Literal["measure"] = "measure"
    labels: Path
    """The label store."""
    out: Path
    """The table of objects: a name ending in .csv, .parquet, or .geojson (outlines with their measurements)."""
    region: Annotated[tuple[float, float, float, float] | None, Option(group=_WHERE, form=False, example=REGION)] = None
    """y,x,height,width in the store's level-0 pixels; without it, the whole store."""
    regions: Annotated[Path | None, Option("Regions from", _WHERE, example="a file of outlines")] = None
    """File of outlines, such as .geojson, in which each class is measured too: area, share, objects and objects per
    mm² of each outline. An object counts where its centroid lies."""
    instances: Annotated[str | None, Option("Instances of run", _WHERE)] = None
    """Run with instances to measure: its key, or newest. The objects are then its instances, each with the class of
    most of its pixels."""
    slide: Annotated[Path | None, Option(group=_SLIDE, form=False)] = None
    """The slide of the labels, for stain and tissue. With it, shares and densities refer to its tissue too."""
    slide_mpp: Annotated[
        PixelSize | None, Option(group=_SLIDE, also=("--mpp",), form=False, example="µm per pixel, or px")
    ] = None
    """µm per level-0 pixel of the slide, where its file does not give it; px: the slide is used in its own pixels."""
    image_kind: Annotated[Kind | None, Option(group=_SLIDE, form=False)] = None
    """Whether the slide is bright-field or fluorescence, where its file does not say so and a guess would be wrong."""
    value_range: Annotated[GivenRange | None, Option(group=_SLIDE, form=False)] = None
    """The values that are black and white, such as 0 4095 for 12 bits in 16, where the file does not give them."""
    tissue: Annotated[Path | None, Option(group=_SLIDE, form=False)] = None
    """Label store of the tissue, as it was corrected; without it, the tissue is found in the slide."""
    stain: Annotated[
        Stain,
        Option(
            group=_STAIN,
            advanced=False,
            words={
                "none": "none",
                "haematoxylin-eosin": "H and eosin",
                "haematoxylin-dab": "H and DAB",
            },
        ),
    ] = "none"
    """Mean optical density of two stains in each object, of a bright-field slide: haematoxylin-eosin, or
    haematoxylin-dab, with positive and negative objects and the H-score; none."""
    ring: Annotated[_Length, Option("Ring of", _STAIN, False, "µm", 0.5)] = 0.0
    """Width in µm of a ring around each object in which the stains are measured too, for stain in the cytoplasm or the
    membrane: background nearer to this object than to any other. 0: none."""
    positive_by: Annotated[
        Literal["object", "ring"],
        Option("Positive by", _STAIN, False, words={"object": "stain in the object", "ring": "stain in the ring"}),
    ] = "object"
    """Where the DAB counts: in the object, such as a nucleus, or in the ring around it."""
    thresholds: Annotated[
        tuple[_Density, _Density, _Density], Option(group=_STAIN, form=False, example="three numbers with commas")
    ] = (0.2, 0.4, 0.6)
    """Mean optical densities of DAB from which an object is weakly (1+), moderately (2+) and strongly (3+) positive,
    with commas. The H-score is % of 1+, plus 2 x % of 2+, plus 3 x % of 3+."""
    neighbours: Annotated[_Length, Option("Neighbours within", _AROUND, False, "µm", 5)] = 30.0
    """Distance in µm between centroids within which other objects are counted as neighbours; 0: they are not."""
    density: Annotated[Positive | None, Option("Density in discs of", _AROUND, False, "µm", 50, "none")] = None
    """Diameter in µm of the disc in which objects are counted around each place. With it, a density map is written
    (objects per mm², .density.ome.tif), and the hotspots: discs with the most objects (positive ones, where DAB is
    measured) that do not overlap."""
    hotspots: Annotated[int, Option(group=_AROUND)] = Field(5, ge=1, le=1000)
    """How many hotspots of each class are listed, where densities are measured."""
    header: Annotated[bool, Option("Say it in the CSV itself", "The file")] = False
    """Begin each CSV with lines of # that say slide, model, run, settings and version. Without it, a file
    .csv-metadata.json beside it says this. Parquet and GeoJSON always keep it in their metadata."""
    damaged: Damaged = "refuse"
    """Where chunks of the labels are damaged: refuse, or leave their pixels out of the result."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.positive_by == "ring" and not self.ring:
            raise ValueError("positive_by='ring' needs a ring: give its width in µm, such as ring=2")
        if not self.thresholds[0] <= self.thresholds[1] <= self.thresholds[2]:
            raise ValueError("thresholds go from weak to strong, such as 0.2,0.4,0.6")
        return self
