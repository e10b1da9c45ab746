"""The parts of the Predict step: the area, the channels, the plan, the maps that fill in, and stopped predictions."""
