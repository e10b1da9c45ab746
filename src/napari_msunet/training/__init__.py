"""Training and what surrounds it: checks before it, its records, scores, cross-validation, experiments. No Qt."""
