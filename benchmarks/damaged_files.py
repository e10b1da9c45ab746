"""What becomes of damaged files: each format that is read, cut short and with single bytes changed.

    python benchmarks/damaged_files.py                      # all formats: cut at every 5 %, 200 changed bytes each
    python benchmarks/damaged_files.py --quick              # cut at every 25 %, 10 changed bytes each
    python benchmarks/damaged_files.py --formats png svs --changes 50 --keep found --json all.json

Every damaged copy is read in a process of its own, forked from one that has everything imported, with 20 s and 2 GB.
What can come out of it:

refused     one sentence (`MsunetError`)
same        the same pixels or shapes as of the whole file
said        others, with a warning
wrong       others, without a word; a fault where the format has a checksum, or the file was cut and has a length
traceback   any other error: always a fault
crash       the process ended by a signal, in a library: the copy is kept
hang        not ready after 20 s: always a fault

Damage is drawn with fixed seeds. Of folders (OME-Zarr, label stores) the files are taken as one after the other.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import napari_msunet as ms
from napari_msunet.errors import MsunetError

SECONDS, GIGABYTES = 20, 2
SIDE = (300, 400)
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SLIDE = Path(ms.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"
CONFIG = ms.ModelConfig(classes=("a",), mpp=1.0, scales=(1.0,), branch=ms.UNetConfig(depth=1, width=4), fusion="mean")
OUTCOMES = ("refused", "same", "said", "wrong", "traceback", "crash", "hang")


# ------------------------------------------------------------------------------------------------------ what is read


def read_image(path: Path) -> list[Any]:
    """The pixels of all levels."""
    with ms.open_slide(path) as slide:
        return [np.asarray(level) for level in slide.levels]


def read_parts(path: Path) -> list[Any]:
    """A piece of each level, and the coarsest: of slides that are too large to be read whole."""
    with ms.open_slide(path) as slide:
        pieces = [level[: SIDE[0], : SIDE[1]] for level in slide.levels]
        return [np.asarray(part) for part in (*pieces, slide.levels[-1])]


def read_store(path: Path) -> list[Any]:
    """The labels and what was edited, after the look for damage that every job takes."""
    from napari_msunet.labels.store import check_store

    with ms.open_labels(path) as store:
        check_store(store, planes=("labels", "edited"))
        whole = ms.Region(0, 0, *store.shape)
        return [store.read(whole), store.read_edited(whole)]


def read_model(path: Path) -> list[Any]:
    """All weights."""
    return [value.numpy() for _, value in sorted(ms.load_model(path).state_dict().items())]


def read_shapes(path: Path) -> list[Any]:
    """Class and outline of each shape."""
    from napari_msunet.annotation.formats import DrawnImage, read_shape_file

    found = read_shape_file(path, DrawnImage("a.png", (1000, 1000)))
    if found.left_out or found.notes:
        warnings.warn(f"{len(found.left_out)} left out. {' '.join(found.notes)}", stacklevel=1)
    return [np.array([f"{shape.name} {shape.geometry.wkt}" for shape in found.shapes])]


# ------------------------------------------------------------------------------------------------------ what is made


def pixels() -> np.ndarray:
    """A crop of a real slide."""
    with ms.open_slide(SLIDE) as slide:
        return slide.read(ms.Region(600, 700, *SIDE))


def make_svs(folder: Path) -> Path:
    import tifffile

    described = "Aperio Image Library v11.2.1\n400x300 [0,0 400x300] (240x240) JPEG/RGB Q=90|AppMag = 20|MPP = 0.4990"
    with tifffile.TiffWriter(folder / "slide.svs") as tiff:
        for number, step in enumerate((1, 2)):
            tiff.write(
                pixels()[::step, ::step],
                tile=(240, 240),
                compression="jpeg",
                photometric="rgb",
                description=described if number == 0 else "Aperio Image Library v11.2.1",
                metadata=None,
            )
    return folder / "slide.svs"


def make_ndpi(folder: Path) -> Path | None:
    found = sorted(DATA.glob("**/*.ndpi"), key=lambda path: path.stat().st_size)
    return Path(shutil.copy(found[0], folder)) if found and found[0].stat().st_size < 20e6 else None


def make_dicom(folder: Path) -> Path | None:
    found = sorted(DATA.glob("**/dicom-wsm.dcm"))
    return Path(shutil.copy(found[0], folder)) if found and importlib.util.find_spec("pydicom") else None


def make_tiff(codec: str, folder: Path) -> Path:
    import tifffile

    path = folder / f"{codec}.tif"
    tifffile.imwrite(path, pixels(), tile=(128, 128), compression=None if codec == "none" else codec, photometric="rgb")
    return path


def make_ome_tiff(folder: Path) -> Path:
    import tifffile

    path = folder / "image.ome.tif"
    data = np.moveaxis(pixels(), -1, 0)
    tifffile.imwrite(path, data, ome=True, tile=(128, 128), compression="zlib", metadata={"axes": "CYX"})
    return path


def make_ome_zarr_04(folder: Path) -> Path:
    import zarr
    from numcodecs import Blosc

    path = folder / "old.ome.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    data = np.moveaxis(pixels(), -1, 0)
    names = {"name": "v2", "separator": "/"}
    array = group.create_array(
        "0",
        shape=data.shape,
        dtype="u1",
        chunks=(3, 128, 128),
        chunk_key_encoding=names,
        compressors=Blosc("lz4", 5, 1),
    )
    array[...] = data
    space = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": "c", "type": "channel"}, *space],
            "datasets": [{"path": "0", "coordinateTransformations": scale}],
        }
    ]
    return path


def make_ome_zarr_05(folder: Path) -> Path:
    return ms.build_pyramid(pixels(), folder / "new.ome.zarr", mpp=0.5)


def make_raster(ending: str, folder: Path) -> Path:
    from PIL import Image

    Image.fromarray(pixels()).save(folder / f"image{ending}")
    return folder / f"image{ending}"


def make_store(folder: Path) -> Path:
    values = (pixels()[..., 0] > 200).astype(np.uint8) + 1
    with ms.LabelStore.create(folder / "labels.ome.zarr", SIDE, 0.5, ("a", "b")) as store:
        store.write(ms.Region(0, 0, *SIDE), values)
        store.flush()
        store.write(ms.Region(50, 50, 20, 20), 0)
    return folder / "labels.ome.zarr"


def make_model(folder: Path) -> Path:
    ms.save_model(ms.build_model(CONFIG), folder / "model.safetensors")
    return folder / "model.safetensors"


def make_geojson(folder: Path) -> Path:
    rings = [[[x, y], [x + 15, y], [x + 15, y + 15], [x, y + 9], [x, y]] for y in range(0, 200, 40) for x in (0, 50)]
    features = [
        {
            "type": "Feature",
            "id": str(number),
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation", "classification": {"name": "gland"}},
        }
        for number, ring in enumerate(rings)
    ]
    (folder / "shapes.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return folder / "shapes.geojson"


def make_asap(folder: Path) -> Path:
    shapes = "".join(
        f'<Annotation Name="{n}" Type="Polygon" PartOfGroup="gland" Color="#F4FA58"><Coordinates>'
        + "".join(f'<Coordinate Order="{i}" X="{x + n}" Y="{y}"/>' for i, (x, y) in enumerate([(0, 0), (9, 0), (9, 9)]))
        + "</Coordinates></Annotation>"
        for n in range(10)
    )
    text = f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{shapes}</Annotations></ASAP_Annotations>'
    (folder / "asap.xml").write_text(text)
    return folder / "asap.xml"


def make_aperio(folder: Path) -> Path:
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in [(0, 0), (90, 0), (90, 90)])
    regions = "".join(f'<Region Id="{n}" Type="0"><Vertices>{vertices}</Vertices></Region>' for n in range(9))
    text = (
        f'<Annotations MicronsPerPixel="0.5"><Annotation Id="1" Name="gland"><Regions>{regions}</Regions></Annotation>'
    )
    (folder / "aperio.xml").write_text(text + "</Annotations>")
    return folder / "aperio.xml"


RING = [(0, 0), (90, 0), (90, 90), (40, 95)]


def make_text(name: str, text: str, folder: Path) -> Path:
    (folder / name).write_text(text)
    return folder / name


def make_cvat(folder: Path) -> Path:
    corners = ";".join(f"{x},{y}" for x, y in RING)
    shapes = "".join(
        f'<polygon label="gland" points="{corners}"/><ellipse label="gland" cx="{n}" cy="50" rx="9" ry="4"/>'
        f'<mask label="gland" rle="1, 3, 1, 1, 2, 1, 1" left="{n}" top="70" width="5" height="2"/>'
        for n in range(10, 16)
    )
    images = "".join(f'<image id="{n}" name="{n}.png">{shapes}</image>' for n in "ab")
    return make_text("cvat.xml", f"<annotations><version>1.1</version>{images}</annotations>", folder)


def make_coco(folder: Path) -> Path:
    outline = [v for corner in RING for v in corner]
    masks = [{"size": [4, 5], "counts": [5, 2, 2, 3, 8]}, {"size": [4, 5], "counts": "52216"}, [outline]]
    found = {
        "images": [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate("ab")],
        "categories": [{"id": 1, "name": "gland"}],
        "annotations": [{"image_id": n % 2, "category_id": 1, "segmentation": masks[n % 3]} for n in range(18)],
    }
    return make_text("coco.json", json.dumps(found), folder)


def make_labelbox(folder: Path) -> Path:
    objects = [{"name": "gland", "polygon": [{"x": x + n, "y": y} for x, y in RING]} for n in range(6)]
    objects += [{"name": "gland", "bounding_box": {"top": 1, "left": 2, "height": 3, "width": 4}}] * 3
    rows = [
        {
            "data_row": {"external_id": f"{name}.png"},
            "projects": {"p": {"labels": [{"annotations": {"objects": objects}}]}},
        }
        for name in "ab"
    ]
    return make_text("labelbox.ndjson", "\n".join(map(json.dumps, rows)), folder)


def make_labelme(folder: Path) -> Path:
    import base64
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.eye(9, dtype=np.uint8) * 255).save(file, format="png")
    text = base64.b64encode(file.getvalue()).decode()
    shapes = [
        {"label": "gland", "shape_type": "polygon", "points": RING},
        {"label": "gland", "shape_type": "circle", "points": RING[:2]},
        {"label": "gland", "shape_type": "mask", "points": [[0, 0], [8, 8]], "mask": text},
    ]
    found = {"version": "5.7.0", "imagePath": "a.png", "shapes": shapes * 4}
    return make_text("labelme.json", json.dumps(found), folder)


def make_labelme_web(folder: Path) -> Path:
    corners = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in RING)
    shape = f"<object><name>gland</name><deleted>0</deleted><polygon>{corners}</polygon></object>"
    text = f"<annotation><filename>a.png</filename>{shape * 8}</annotation>"
    return make_text("labelme.xml", text, folder)


def make_cytomine(folder: Path) -> Path:
    ring = ", ".join(f"{x} {y}" for x, y in (*RING, RING[0]))
    found = [{"location": f"POLYGON (({ring}))", "term": [n], "originalFilename": "a.png"} for n in range(9)]
    return make_text("cytomine.json", json.dumps({"collection": found}), folder)


def make_halo(folder: Path) -> Path:
    corners = "".join(f'<V X="{x}" Y="{y}" />' for x, y in RING)
    region = '<Region Type="{}" HasEndcaps="0" NegativeROA="{}"><Vertices>{}</Vertices></Region>'
    ellipse = '<V X="10" Y="20" /><V X="40" Y="40" />'
    regions = region.format("Polygon", 0, corners) + region.format("Ellipse", 1, ellipse)
    text = f'<Annotations><Annotation Name="gland" LineColor="255"><Regions>{regions * 5}</Regions></Annotation>'
    return make_text("halo.annotations", text + "</Annotations>", folder)


@dataclass(frozen=True)
class Format:
    """How a format is made and read.

    Attributes
    ----------
    checksum : bool
        Whether a changed byte of the pixels cannot go unnoticed.
    """

    make: Callable[[Path], Path | None]
    read: Callable[[Path], list[Any]] = read_image
    checksum: bool = False


FORMATS = {
    "svs": Format(make_svs),
    "ndpi": Format(make_ndpi, read_parts),
    "dicom": Format(make_dicom, read_parts),
    **{f"tiff-{codec}": Format(partial(make_tiff, codec)) for codec in ("none", "lzw", "jpeg", "webp", "packbits")},
    "tiff-zlib": Format(partial(make_tiff, "zlib")),
    "ome-tiff": Format(make_ome_tiff),
    "ome-zarr-0.4": Format(make_ome_zarr_04),
    "ome-zarr-0.5": Format(make_ome_zarr_05, checksum=True),
    "png": Format(partial(make_raster, ".png"), checksum=True),
    "jpeg": Format(partial(make_raster, ".jpg")),
    "label-store": Format(make_store, read_store, checksum=True),
    "model": Format(make_model, read_model, checksum=True),
    "geojson": Format(make_geojson, read_shapes),
    "asap": Format(make_asap, read_shapes),
    "aperio": Format(make_aperio, read_shapes),
    "halo": Format(make_halo, read_shapes),
    "cvat": Format(make_cvat, read_shapes),
    "coco": Format(make_coco, read_shapes),
    "labelbox": Format(make_labelbox, read_shapes),
    "labelme": Format(make_labelme, read_shapes),
    "labelme-web": Format(make_labelme_web, read_shapes),
    "cytomine": Format(make_cytomine, read_shapes),
}


# ------------------------------------------------------------------------------------------------------------ damage


@dataclass(frozen=True)
class Case:
    """One damaged copy: of a format, cut at a share of it, or with the bytes that a seed draws."""

    format: str
    whole: Path
    cut: float | None
    seed: int
    keep: Path | None

    @property
    def name(self) -> str:
        return f"{self.format}-" + (f"cut{self.cut:.2f}" if self.cut is not None else f"change{self.seed}")


def damage(case: Case, folder: Path) -> Path:
    """Make the copy."""
    copy = folder / case.whole.name
    if case.whole.is_dir():
        shutil.copytree(case.whole, copy)
    else:
        shutil.copy(case.whole, copy)
    files = sorted(p for p in copy.rglob("*") if p.is_file() and p.stat().st_size) if copy.is_dir() else [copy]
    total = sum(file.stat().st_size for file in files)
    draw = random.Random(f"{case.format} {case.seed}")
    place = int(case.cut * total) if case.cut is not None else draw.randrange(total)
    for file in files:
        size = file.stat().st_size
        if place < size:
            break
        place -= size
    data = bytearray(file.read_bytes())
    if case.cut is not None:
        data = data[:place]
    else:
        data[place] ^= draw.randrange(1, 256)
    file.write_bytes(data)
    return copy


def outcome(case: Case, expected: list[Any]) -> tuple[str, str]:
    """What reading the copy gives; runs in the forked process."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        path = damage(case, Path(folder))
        try:
            found = FORMATS[case.format].read(path)
        except MsunetError as error:
            return "refused", str(error).replace(folder, "")
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            return "traceback", f"{type(error).__name__}: {str(error)[:150]} ({Path(last.filename).name}:{last.lineno})"
        same = len(found) == len(expected) and all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
        if same:
            return "same", ""
        return ("said", str(said[0].message)) if said else ("wrong", "")


def preload(formats: list[str]) -> None:
    """Import what reading needs before anything is forked: it would take longer than reading."""
    from napari_msunet import annotation, labels, slide

    if "model" in formats:
        import torch

        from napari_msunet import models

        with torch.device("meta"):  # imports as much again
            models.build_model(CONFIG)
    del annotation, labels, slide


def one(case: Case) -> tuple[Case, str, str]:
    """The outcome of a case, from a process of its own."""
    import resource

    expected = list(np.load(case.whole.parent / "expected.npz").values())
    heard, written = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTES * 2**30,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(written, json.dumps(outcome(case, expected)).encode()[:60_000])
        os._exit(0)
    os.close(written)
    until = time.monotonic() + SECONDS
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
        time.sleep(0.002)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(heard, "rb") as pipe:
        answer = pipe.read()
    if ended[0] == 0:
        found = ("hang", f"not ready after {SECONDS} s")
    elif os.WIFSIGNALED(ended[1]):
        found = ("crash", signal.Signals(os.WTERMSIG(ended[1])).name)
    else:
        found = tuple(json.loads(answer)) if answer else ("crash", f"exit code {os.WEXITSTATUS(ended[1])}")
    if case.keep is not None and is_fault(case, found[0]):
        (case.keep / case.name).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(case.keep / case.name)
        (case.keep / case.name).mkdir()
        damage(case, case.keep / case.name)
    return case, *found


def is_fault(case: Case, found: str) -> bool:
    """Whether that should not have happened."""
    return found in ("traceback", "crash", "hang") or (
        found == "wrong" and (FORMATS[case.format].checksum or case.cut is not None)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", nargs="+", choices=sorted(FORMATS), default=list(FORMATS))
    parser.add_argument("--step", type=float, default=0.05, help="cut at every such share")
    parser.add_argument("--changes", type=int, default=200, help="changed bytes of each format")
    parser.add_argument("--quick", action="store_true", help="--step 0.25 --changes 10")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--keep", type=Path, help="folder for copies that are faults")
    parser.add_argument("--json", type=Path, help="file for all outcomes")
    given = parser.parse_args()
    step, changes = (0.25, 10) if given.quick else (given.step, given.changes)
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.formats:
            place = Path(folder) / name
            place.mkdir()
            whole = FORMATS[name].make(place)
            if whole is None:
                print(f"{name}: skipped, there is no such file in {DATA}")
                continue
            np.savez(place / "expected.npz", *FORMATS[name].read(whole))
            cuts = [round(n * step, 4) for n in range(round(1 / step))]
            cases += [Case(name, whole, share, 0, given.keep) for share in cuts]
            cases += [Case(name, whole, None, seed, given.keep) for seed in range(changes)]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(given.jobs, context, preload, (given.formats,)) as pool:
            found = list(pool.map(one, cases))
    return report(found, given.json)


def report(found: list[tuple[Case, str, str]], file: Path | None) -> int:
    """The table, the faults, and the exit code."""
    names = list(dict.fromkeys(case.format for case, _, _ in found))
    print(f"{'format':14}{'damage':9}" + "".join(f"{o:>10}" for o in OUTCOMES))
    for name in names:
        for kind in ("cut", "changed"):
            counts = Counter(o for c, o, _ in found if c.format == name and (c.cut is not None) == (kind == "cut"))
            print(f"{name:14}{kind:9}" + "".join(f"{counts[o] or '-':>10}" for o in OUTCOMES))
    faults = [(case, result, text) for case, result, text in found if is_fault(case, result)]
    for (name, result, text), count in Counter((c.format, r, t) for c, r, t in faults).most_common():
        first = next(c.name for c, r, t in faults if (c.format, r, t) == (name, result, text))
        print(f"{count} x {name}: {result}: {text} (first: {first})")
    print(f"{len(found)} damaged files, {len(faults)} faults")
    if file is not None:
        rows = [{"case": c.name, "outcome": r, "text": t, "fault": is_fault(c, r)} for c, r, t in found]
        file.write_text(json.dumps(rows, indent=1))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
