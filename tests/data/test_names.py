"""Names and tables as people write them: accents in two ways, capitals, blank rows, folders below."""

import json
import os
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from data.making import CONFIG
from PIL import Image

from napari_msunet._io import read_csv, write_json, write_text
from napari_msunet.config import FolderSource, PredictJob, SlideSource, TableSource
from napari_msunet.data import load_sources
from napari_msunet.data.folders import pair_files
from napari_msunet.errors import MsunetError, SourceError
from napari_msunet.events import Message, parse_event
from napari_msunet.inference.slide_inputs import slide_inputs
from napari_msunet.jobs.run import parse_job
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.names import printable, true_path
from napari_msunet.slide import open_slide

COMPOSED, APART = (unicodedata.normalize(form, "Drüse ä") for form in ("NFC", "NFD"))


def write(path, grey=0, size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(size, np.uint8)
    values[2:9, 2:9] = 1
    rng = np.random.default_rng(grey)
    Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8) if grey else values).save(path)
    return path


@pytest.mark.parametrize(("image", "mask"), [(COMPOSED, APART), (APART, COMPOSED)])
def test_accents_in_two_ways(tmp_path, image, mask):
    file = write(tmp_path / "i" / f"{image}.PNG", 1)
    write(tmp_path / "m" / f"{mask}_{COMPOSED}.png")
    write(tmp_path / "i" / "b.png", 2)
    write(tmp_path / "m" / f"b_{APART}.png")
    pairs, alone = pair_files(tmp_path / "i", tmp_path / "m", f"_{image}")
    assert [name for name, _, _ in pairs] == [COMPOSED, "b"]
    assert pairs[0][1] == file  # opened by its own name
    assert not alone
    table = tmp_path / "t.csv"
    table.write_text(f"\ufeffNAME;Mpp;Patientin ä\n\n{mask};0.5;{image}\nb;0.5;q\n", encoding="utf-8")
    source = FolderSource(
        images=tmp_path / "i",
        masks=tmp_path / "m",
        mask_suffix=f"_{mask}",
        table=table,
        group=unicodedata.normalize("NFD", "PATIENTIN ä"),
    )
    items = load_sources([source], CONFIG)
    assert [(i.name, i.group, i.slide.mpp) for i in items] == [(COMPOSED, COMPOSED, (0.5, 0.5)), ("b", "q", (0.5, 0.5))]
    for item in items:
        item.release()
    # A table names the file in the other writing; so does the command line.
    table.write_text(f"images,masks\ni/{mask}.PNG,m/{image}_{image}.png\n", encoding="utf-8")
    (item,) = load_sources([TableSource(table=table, mpp=0.5)], CONFIG)
    assert item.path == file.resolve()
    item.release()
    with open_slide(tmp_path / "i" / f"{mask}.PNG") as slide:
        assert slide.path == file
    table.write_text(f"Slide\ni/{mask}.PNG\n", encoding="utf-8")
    assert slide_inputs([table], tmp_path)[0].slide == file


def test_two_files_of_one_name(tmp_path):
    for name in (COMPOSED, APART):
        write(tmp_path / "i" / f"{name}.png", 1)
    with pytest.raises(SourceError, match="holds both"):
        pair_files(tmp_path / "i", tmp_path / "i", "x")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables(tmp_path, mark, end):
    path = tmp_path / "t.csv"
    lines = ["", f" Name {mark}MPP", "", f"a{mark}1", mark, f'"b{mark} c\u2028d"{mark}2', f"e{mark}3{mark}", "f"]
    path.write_bytes(end.join(lines).encode("utf-8-sig"))
    columns, rows = read_csv(path)
    assert columns == ["name", "mpp"]
    assert [(r["name"], r["mpp"], r.number) for r in rows] == [
        ("a", "1", 4),
        (f"b{mark} c\u2028d", "2", 6),
        ("e", "3", 7),
        ("f", "", 8),
    ]
    path.write_bytes(end.join([f"sep={mark}", *lines[1:]]).encode("utf-16"))
    assert [r.number for r in read_csv(path)[1]] == [4, 6, 7, 8]


def test_tables_that_cannot_be_used(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("Name,name\na,b\n")
    with pytest.raises(SourceError, match="two columns called name"):
        read_csv(path)
    path.write_bytes("näme\n".encode("cp1252"))
    with pytest.raises(SourceError, match="in Excel: CSV UTF-8"):
        read_csv(path)
    path.write_text("slide,mpp\n\na.png,fine\n")
    with pytest.raises(MsunetError, match=r"Row 3 of"):
        slide_inputs([path], tmp_path)


def test_folders_below_are_said(tmp_path):
    write(tmp_path / "i" / "a.png", 1)
    write(tmp_path / "i" / "more" / "b.tif", 2)
    write(tmp_path / "m" / "a.png")
    write(tmp_path / "m" / "c.png")
    said = []
    load_sources(
        [FolderSource(images=tmp_path / "i", masks=tmp_path / "m", mpp=0.5)], CONFIG, lambda *a: said.append(a[1])
    )
    assert any("its folders with images are left out: more" in text for text in said)
    assert any("1 masks" in text and "c.png" in text for text in said)
    (tmp_path / "i" / "a.png").unlink()
    with pytest.raises(SourceError, match="not looked into: more"):
        pair_files(tmp_path / "i", tmp_path / "m")


def test_files_of_other_kinds_are_said(tmp_path):
    for grey, name in enumerate(("a", "b"), start=1):
        write(tmp_path / "i" / f"{name}.png", grey)
        write(tmp_path / "m" / f"{name}.png")
    for name in ("c.vsi", "notes.txt", ".hidden"):
        (tmp_path / "i" / name).write_bytes(b"x")
    said = []
    source = FolderSource(images=tmp_path / "i", masks=tmp_path / "m", mpp=1.0)
    items = load_sources([source], CONFIG, lambda level, text: said.append((level, text)))
    assert [item.name for item in items] == ["a", "b"]
    found = [text for level, text in said if level == "warning" and "kinds that are not read" in text]
    assert len(found) == 1
    assert "c.vsi" in found[0]
    assert "notes" not in found[0]
    assert "hidden" not in found[0]


def test_names_that_are_no_utf8(tmp_path):
    """Such names are opened, printed and written: into jobs, events, stores, JSON and CSV."""
    odd = b"a\xe4.png".decode("utf-8", "surrogateescape")
    assert printable(odd) == "a\\xe4.png"
    assert printable("ä") == "ä"
    assert true_path(tmp_path / odd) == tmp_path / odd
    source = SlideSource(slide=odd, labels=odd)
    assert SlideSource.model_validate_json(source.model_dump_json()) == source
    job = PredictJob(slide=odd, model="m", out=odd)
    assert parse_job(job.model_dump_json()) == job
    message = Message(text=odd)
    assert parse_event(message.model_dump_json()) == message
    write_text(tmp_path / "t.csv", f"name\n{odd}\n")
    assert read_csv(tmp_path / "t.csv")[1][0]["name"] == "a\\udce4.png"
    write_json(tmp_path / "t.json", {"slide": odd})
    assert json.loads((tmp_path / "t.json").read_text()) == {"slide": odd}
    slide = write(tmp_path / odd, 1)
    with open_slide(slide, mpp=0.5) as opened, LabelStore.create(tmp_path / "l.ome.zarr", classes=("a",), slide=opened):
        pass
    with open_labels(tmp_path / "l.ome.zarr") as store:
        assert store.info.slide == "a\\xe4.png"


def test_the_command_prints_any_name(tmp_path):
    odd = os.fsencode(tmp_path) + b"/a\xe4.png"
    shutil.copy(write(tmp_path / "a.png", 1), odd)
    for console in ("utf-8", "ascii"):
        command = [os.fsencode(sys.executable), b"-m", b"napari_msunet", b"info", odd]
        done = subprocess.run(
            command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": console}, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
