"""The numbers of the window, by real mouse events: each part is a sub-command, in a file `window_NAME.py` beside this.

xvfb-run -a -s "-screen 0 1280x800x24" python benchmarks/window.py gui [--out gui.json]

A part is a module with `run() -> dict` and `table(dict) -> str`.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

PARTS = ("gui", "slide")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, default=None, help="where the numbers go, as JSON")
    arguments = parser.parse_args()
    module = importlib.import_module(f"window_{arguments.part}")
    results = module.run()
    print(module.table(results))
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
