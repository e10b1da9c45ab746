"""Fixtures of all tests with a window."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def garbage_collected_in_the_main_thread() -> Iterator[None]:
    """Qt's objects must not die in another thread, where a collection may begin at any time.

    napari's fixture collects after each test. What was there before is not searched again: that took a second a test.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.unfreeze()  # or what has died since would stay for ever: windows, stores, their threads
    gc.enable()
