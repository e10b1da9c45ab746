"""What the tests of the search share: discs, and short searches."""

from __future__ import annotations

from typing import Any

from napari_msunet.config import AutoModel, TrainJob, TuneJob, UNetConfig

SECONDS = 0.25
RATE = {"optimiser.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}


def search(source: Any, out: Any, **options: Any) -> TuneJob:
    """A search with two folds and short trials of a thin network."""
    model = AutoModel(classes=("disc",), mpp=1.0, scales=(1.0,), branch=UNetConfig(depth=1, width=4))
    training = TrainJob(model=model, sources=(source,), out=out, batch_size=2, device="cpu", time_limit=SECONDS)
    values: dict[str, Any] = {
        "training": training,
        "space": RATE,
        "sampler": "random",
        "pruner": "none",
        "trials": 2,
        "folds": 2,
        "threads": 1,
        "out": out,
    }
    return TuneJob(**values | options)
