"""Slides: the class `Slide` over one reader for each family of files, and pyramids written as OME-Zarr."""

from napari_msunet.slide.pyramid import build_pyramid
from napari_msunet.slide.slide import Slide, open_slide, slide_from_array
from napari_msunet.slide.tissue import TissueMask, tissue_mask

__all__ = ["Slide", "TissueMask", "build_pyramid", "open_slide", "slide_from_array", "tissue_mask"]
