"""The parts of the Slide step: the project, the size of a pixel, and what a slide looked like when it was left."""
