"""Runs: unedited predictions, which are filled tile by tile, can be resumed, and are merged into the labels."""
