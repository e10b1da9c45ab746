"""Label stores with something in them."""

from annotation.conftest import make_store

__all__ = ["make_store"]
