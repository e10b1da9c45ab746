"""The search for the best options of a training: its study, its trials, its processes, and what comes out. No Qt."""
