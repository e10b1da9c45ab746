"""From probabilities to labels and instances, over whole runs, in bounded memory, the same for any tiling."""

from napari_msunet.infer.postprocess.deciding import decide, needs_raw, threshold_array
from napari_msunet.infer.postprocess.finish import finish, postprocess_events

__all__ = ["decide", "finish", "needs_raw", "postprocess_events", "threshold_array"]
