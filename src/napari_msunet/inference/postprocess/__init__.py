"""From probabilities to labels and instances, over whole runs, in bounded memory, the same for any tiling."""

from napari_msunet.inference.postprocess.finish import finish, postprocess_events
from napari_msunet.inference.postprocess.threshold import decide, needs_raw, threshold_array

__all__ = ["decide", "finish", "needs_raw", "postprocess_events", "threshold_array"]
