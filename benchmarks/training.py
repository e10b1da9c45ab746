"""What a training step costs, and whether reading and changing images keep the network waiting.

    python benchmarks/training.py [PART ...] [--quick] [--device cpu] [--out benchmarks/results]

share     the share of a real training's steps that is the network's (forward, loss, backward, optimiser), and the same
          step on a batch that lies in memory
peer      a step of the default for 400 s on glands beside one of MONAI's BasicUNet, by turns: seconds, pixels and
          tissue a second, and the share of a real step that is the network's (needs ../shared/data and monai)
scales    a step with scales 1, 1/2, 1/4 of the same field beside one with scale 1 of the same widths, by turns

Without a part, share and scales are run, on two threads and with the allocator's settings of the worker.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import psutil
import torch
from inference_parts.report import Row, row, table
from training_parts.beside_peer import beside_peer
from training_parts.scales import scales
from training_parts.share import share

from napari_msunet.own_process import keep_freed_memory

PARTS: dict[str, Callable[[bool, str], list[Row]]] = {"share": share, "scales": scales, "peer": beside_peer}


def main() -> None:
    if "OMP_WAIT_POLICY" not in os.environ:  # else threads that wait spin: on a busy machine, 20 times the time
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_WAIT_POLICY": "passive"})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small windows, to see that everything works")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="folder for training.json and training.txt; other parts in it stay")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    warnings.simplefilter("ignore")
    keep_freed_memory()
    if options.device == "cpu":
        torch.set_num_threads(2)
    file = options.out / "training.json" if options.out else None
    kept = json.loads(file.read_text()) if file and file.exists() else {}
    for name in options.parts or ("share", "scales"):
        begin = time.perf_counter()
        kept[name] = PARTS[name](options.quick, options.device)
        kept[name].append(row("(this part took)", time.perf_counter() - begin, "s"))
        print(table({name: kept[name]}), flush=True)
        kept["machine"] = machine(options.device)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(kept, indent=1) + "\n")
            file.with_suffix(".txt").write_text(table({n: kept[n] for n in PARTS if n in kept}) + "\n")


def machine(device: str) -> dict[str, object]:
    """What it was measured on, and how busy it was."""
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine(),
        "cores": psutil.cpu_count(),
        "load": round(psutil.getloadavg()[0], 1),
        "torch": torch.__version__,
        "when": time.strftime("%Y-%m-%d %H:%M"),
    }


if __name__ == "__main__":
    main()
