"""The answer while one paints: the labels of what is in view by a head fitted to the strokes so far."""
