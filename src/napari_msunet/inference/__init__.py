"""Exact tiled inference: the plan, the engine, predictions into a label store, probabilities in memory. No Qt."""
