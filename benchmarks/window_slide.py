"""How fast the window opens things: a 100,000 x 100,000 slide as a layer, the import, and the plugin's first dock.

xvfb-run -a -s "-screen 0 1280x800x24" python benchmarks/window.py slide [--out slide.json]

The slide is made here: a tiled BigTIFF pyramid of JPEG tiles cut from the CC0 slide, a sixth of it tissue.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import psutil
import tifffile

from napari_msunet.geometry import Window
from napari_msunet.slide import open_slide

SLIDE = Path(__file__).parents[1] / "src/napari_msunet/demo_data/CMU-1-Small-Region.svs"
TILE = 512
MPP = 0.25
LIMITS = {"layer s": 1.0, "memory MiB": 300, "memory after a tour MiB": 300, "import s": 0.2, "dock s": 2.0}


def encoded_tiles() -> tuple[list[bytes], bytes]:
    """JPEG tiles of tissue, and one of background."""
    with open_slide(SLIDE) as slide:
        windows = [Window(y, x, TILE, TILE) for y in (500, 1100, 1700) for x in (900, 1100, 1300)]
        tissue = [slide.read_window(slide.grid(), window) for window in windows]
    empty = np.full((TILE, TILE, 3), 243, np.uint8)
    coded = [bytes(imagecodecs.jpeg8_encode(tile, level=75, subsampling="420")) for tile in (*tissue, empty)]
    return coded[:-1], coded[-1]


def make_slide(path: Path, side: int) -> None:
    """A pyramid of 8 levels, each half the one before; tissue in the middle."""
    tissue, empty = encoded_tiles()

    def tiles(length: int) -> Iterator[bytes]:
        count = -(-length // TILE)
        for y in range(count):
            for x in range(count):
                inside = abs(y - count / 2) < count / 5 and abs(x - count / 2) < count / 5
                yield tissue[(5 * y + x) % len(tissue)] if inside else empty

    sides = [-(-side // 2**level) for level in range(8)]
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level, length in enumerate(sides):
            file.write(
                tiles(length),
                shape=(length, length, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                resolution=(1e4 / MPP / 2**level,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
                **({"subifds": len(sides) - 1} if level == 0 else {"subfiletype": 1}),
            )


def memory() -> float:
    return psutil.Process().memory_info().rss / 2**20


def open_layer(path: Path) -> dict[str, Any]:
    """The slide in a window that is open already: from the call to its first frame, then a tour of all zooms."""
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_msunet.widgets.placement import visible_region
    from napari_msunet.widgets.slide_layers import add_slide

    viewer = napari.Viewer()
    viewer.add_image(np.zeros((512, 512), np.uint8))
    settle(QApplication)
    viewer.layers.clear()
    start = memory()
    begin = time.perf_counter()
    layer = add_slide(viewer, path)
    called = time.perf_counter() - begin
    settle(QApplication)
    drawn = time.perf_counter() - begin
    opened = memory()
    views: list[float] = []
    for level in range(9):
        for y, x in ((0.5, 0.5), (0.45, 0.52), (0.1, 0.1)):
            viewer.scene.camera.zoom = 2.0 ** (level - 7) / layer.scale[0]
            height, width = layer.level_shapes[0] * layer.scale
            viewer.scene.camera.center = (height * y, width * x)
            begin = time.perf_counter()
            settle(QApplication)
            views.append(time.perf_counter() - begin)
    region = visible_region(viewer, layer)
    result = {
        "layer s": round(called, 3),
        "first frame s": round(drawn, 3),
        "memory MiB": round(opened - start),
        "memory after a tour MiB": round(memory() - start),
        "new view ms, median": round(1000 * float(np.median(views))),
        "new view ms, max": round(1000 * max(views)),
        "levels": len(layer.data),
        "last view": [round(v) for v in (region.y, region.x, region.height, region.width)],
    }
    viewer.close()
    return result


def settle(application: Any) -> None:
    for _ in range(3):
        application.processEvents()


IMPORT = """
import sys, time
begin = time.perf_counter()
import napari_msunet
print(time.perf_counter() - begin, [m for m in ("torch", "qtpy", "napari") if m in sys.modules])
"""
DOCK = """
import sys, time, napari
from qtpy.QtWidgets import QApplication
viewer = napari.Viewer()
for _ in range(3): QApplication.processEvents()
begin = time.perf_counter()
viewer.window.add_plugin_dock_widget("napari-msunet", "Multi-scale U-Net")
for _ in range(3): QApplication.processEvents()
print(time.perf_counter() - begin, [m for m in ("torch", "lightning", "torchmetrics") if m in sys.modules], flush=True)
viewer.close()
"""


def fresh(code: str, times: int = 3) -> tuple[float, str]:
    """The median over new processes of the seconds that a script prints first, and what else it prints."""
    seconds, rest = [], ""
    for _ in range(times):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        line = next((one for one in done.stdout.splitlines() if one[:1].isdigit()), None)
        if line is None:
            raise SystemExit(f"The script printed no time:\n{done.stdout}\n{done.stderr}")
        first, _, rest = line.partition(" ")
        seconds.append(float(first))
    return float(np.median(seconds)), rest


def run(side: int = 100_000) -> dict[str, Any]:
    """All numbers of this part."""
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.tif"
        begin = time.perf_counter()
        make_slide(path, side)
        report["slide"] = {
            "side": side,
            "MB": round(path.stat().st_size / 1e6),
            "made in s": round(time.perf_counter() - begin, 1),
        }
        report.update(open_layer(path))
    report["import s"], loaded = fresh(IMPORT)
    report["import loads"] = loaded
    report["dock s"], loaded = fresh(DOCK)
    report["dock loads"] = loaded
    report["within limits"] = {name: report[name] <= limit for name, limit in LIMITS.items()}
    return report


def table(report: dict[str, Any]) -> str:
    """A line for each number."""
    return "\n".join(f"{name:28} {value}" for name, value in report.items())
