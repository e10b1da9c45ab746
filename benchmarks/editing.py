"""The numbers of painting on a slide: strokes as mouse events in a 1000 x 700 window over a pyramid of labels.

xvfb-run -a -s "-screen 0 1280x800x24" python benchmarks/editing.py [dabs large strokes beside memory] [--out FILE]

dabs     one dab of 20-200 level-0 pixels at three zooms, to the texture; a frame; undo and redo
large    2,000 level-0 pixels; 50 pixels of the screen at the coarsest zoom
strokes  strokes of 500 dabs: the handlers of each event, time to the journal, undo and redo
beside   the same dabs on napari's own layer over an array, in the same run
memory   10,000 strokes all over the slide

Without a part, all are run. Times are ms; `cpu p95` is what the GUI thread itself worked, as on a machine that does
nothing else (for "release to ...": the thread that writes).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import editing_parts

PARTS = ("dabs", "large", "strokes", "beside", "memory")


def table(results: dict[str, Any]) -> str:
    """The numbers as text."""
    keys = ("median", "p95", "max", "cpu p95")
    lines = [" ".join([f"{'':66} {'n':>6}", *(f"{key:>8}" for key in keys)])]
    for part in [part for part in PARTS if part in results]:
        lines.append(part)
        for name, row in results[part].items():
            cells = " ".join(f"{row[key]:>8.2f}" if key in row else " " * 8 for key in keys)
            lines.append(f"  {name:64} {row['n']:>6} {cells}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--side", type=int, default=100_000, help="pixels a side of the pyramid")
    parser.add_argument("--array", type=int, default=10_000, help="pixels a side of napari's array")
    parser.add_argument("--strokes", type=int, default=12, help="strokes for each row")
    parser.add_argument("--dabs", type=int, default=500, help="dabs of a long stroke")
    parser.add_argument("--count", type=int, default=10_000, help="strokes of the memory part")
    parser.add_argument("--out", type=Path, default=None, help="where the numbers go, as JSON")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    results: dict[str, Any] = {"machine": platform.platform(), "side": options.side}
    for part in options.parts or PARTS:
        results[part] = getattr(editing_parts, part)(options)
        if options.out:
            options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
