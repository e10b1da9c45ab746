"""An experiment file with MONAI's `BasicUNet` and `AttentionUnet` as further variants, in the same processor time.

    pip install --no-deps --target build/monai-alone monai
    python benchmarks/with_monai.py experiments/beside-monai.json --data ../shared/data --out build/beside-monai

Both are trained in the plain loop of a tutorial (`training_parts/basicunet.py`) at `--mpp` µm per pixel; `--short` is
the short mode of the file. Called again, it goes on where it was stopped. Out: what an experiment writes, with both in
its tables.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from training_parts.basicunet import NETWORKS, peer

from napari_msunet.events import Message
from napari_msunet.jobs.experiment_files import read_experiment
from napari_msunet.own_process import keep_freed_memory
from napari_msunet.training.experiments import experiment_events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--mpp", type=float, default=1.24, help="µm per pixel at which MONAI's networks are trained")
    parser.add_argument("--seconds", type=float, help="processor time of each training; without it, that of the file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_freed_memory()
    job = read_experiment(options.file, options.data, options.short)
    update = {"out": options.out, "resume": (options.out / "experiment.json").exists()}
    job = job.model_copy(update=update | ({"seconds": options.seconds} if options.seconds else {}))
    for event in experiment_events(job, {name: peer(options.mpp, name) for name in NETWORKS}):
        if isinstance(event, Message):
            print(event.text, flush=True)
    sys.stdout.write((options.out / "report.md").read_text())


if __name__ == "__main__":
    main()
