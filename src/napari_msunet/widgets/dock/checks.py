"""Times in words, for those who look for them here: the checks of a training are in `train`."""

from napari_msunet.wording import duration

__all__ = ["duration"]
