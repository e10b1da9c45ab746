"""Runs: predictions as the machine made them, filled tile by tile, resumable, and merged into the labels."""
