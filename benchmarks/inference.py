"""Whole-slide prediction: how fast beside the bare network and other tools, in what memory, always the same or not.

    python benchmarks/inference.py [PART ...] [--quick] [--out benchmarks/results] [--folder DIR]

network     share of the time that is the network's own; pixels through it; useful pixels per second
others      the same network in MONAI and in TIAToolbox, where `make bench-env-monai bench-env-tiatoolbox` was done
memory      the peak on 100,000 x 100,000 and on 20,000 x 20,000 pixels with 5 % tissue
tissue      40 % tissue beside all tissue
fast        precision="fast" over exact, end to end, and each engine and precision; labels that it changes on --models
kills       ten kills at random moments, with each engine and precision
cluster     two Dask workers beside two processes without Dask; a killed worker
view        1024 x 1024 pixels in view, through the worker process of the window
gpu         the same on a graphics card, where there is one

Without a part, all are run. Each measurement has a process of its own, with two threads and the allocator's settings
of the worker where nothing else is said. The slides are JPEG pyramids of real H&E: tissue of the shipped slide,
mirrored.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from inference_parts.cluster import cluster
from inference_parts.fast import fast
from inference_parts.gpu import gpu
from inference_parts.kills import kills
from inference_parts.memory import memory
from inference_parts.network import network
from inference_parts.others import others
from inference_parts.report import Row, row, table
from inference_parts.setting import Setting
from inference_parts.tissue import tissue
from inference_parts.view import view

PARTS: dict[str, Callable[[Setting], list[Row]]] = {
    "network": network,
    "others": others,
    "memory": memory,
    "tissue": tissue,
    "fast": fast,
    "kills": kills,
    "cluster": cluster,
    "view": view,
    "gpu": gpu,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small slides, to see that everything works")
    parser.add_argument("--out", type=Path, help="folder for inference.json and inference.txt; other parts in it stay")
    parser.add_argument("--folder", type=Path, help="for slides and stores; kept, where a temporary one is removed")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="trained models, for the part fast")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    file = options.out / "inference.json" if options.out else None
    kept = json.loads(file.read_text()) if file and file.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for store in folder.glob("*.zarr"):
            shutil.rmtree(store)  # of an earlier run, which would only go on
        setting = Setting(folder.absolute(), options.quick, Path(__file__).parents[1] / "build", tuple(options.models))
        results: dict[str, list[Row]] = {}
        for name in options.parts or PARTS:
            begin = time.perf_counter()
            results[name] = PARTS[name](setting)
            results[name].append(row("(this part took)", time.perf_counter() - begin, "s"))
            print(table({name: results[name]}), flush=True)
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                kept |= {name: results[name], "machine": machine()}
                file.write_text(json.dumps(kept, indent=1) + "\n")
                rows = {name: kept[name] for name in PARTS if name in kept}
                file.with_suffix(".txt").write_text(table(rows) + "\n")


def machine() -> dict[str, object]:
    """What it was measured on."""
    import psutil
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "when": time.strftime("%Y-%m-%d %H:%M"),
    }


if __name__ == "__main__":
    main()
