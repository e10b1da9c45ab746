"""Exact tiled inference: the plan, the engine, predictions into a label store, probabilities in memory."""

from napari_msunet.infer.image import predict_image
from napari_msunet.infer.plan import Plan, make_plan
from napari_msunet.infer.prediction import predict, predict_events
from napari_msunet.infer.preview import preview_events

__all__ = ["Plan", "make_plan", "predict", "predict_events", "predict_image", "preview_events"]
