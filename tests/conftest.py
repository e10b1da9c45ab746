"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

# Torch with more threads than cores is slower by far, so processes that share the cores take one each.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real slides and image sets; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the real data sets are not at {SHARED}")
    return SHARED
