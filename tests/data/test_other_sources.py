"""Tables with paths, and slides with outlines drawn in another program."""

import json

import numpy as np
import pytest
import tifffile
from data.making import CONFIG, write_folder

from napari_msunet.config import ShapesSource, TableSource
from napari_msunet.constants import IGNORED
from napari_msunet.data import load_sources
from napari_msunet.errors import MissingMppError, ShapeFileError, SourceError
from napari_msunet.geometry import Window


@pytest.fixture
def table(tmp_path):
    write_folder(tmp_path, 3)
    path = tmp_path / "list.csv"
    rows = [f"images/name{n}.png,masks/name{n}.png,{0.5 + n},p{n // 2},{'test' if n == 2 else ''}" for n in range(3)]
    path.write_text("\n".join(["images,masks,mpp,patient,role", *rows]))
    return path


def test_a_table(table):
    items = load_sources([TableSource(table=table, group="patient")], CONFIG)
    assert [(i.name, i.group, i.role) for i in items] == [
        ("name0", "p0", "auto"),
        ("name1", "p0", "auto"),
        ("name2", "p1", "test"),
    ]
    assert items[1].slide.mpp == (1.5, 1.5)
    assert items[0].truth.read(Window(0, 0, 80, 96)).any()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images,masks\n../a.png,masks/name0.png", "outside its folder"),
        ("images,masks\n/etc/passwd,masks/name0.png", "outside its folder"),
        ("images,masks\nimages/none.png,masks/name0.png", "which is not in"),
        ("images,masks\nimages/name0.png,", "Row 2 .* lacks"),
        ("image,mask\na,b", "needs images and masks"),
        ("images,masks", "has no rows"),
        ("images,masks,role\nimages/name0.png,masks/name0.png,maybe", "the role 'maybe'"),
        (
            "images,masks\nimages/name0.png,masks/name0.png\nimages/name0.png,masks/name0.png\nimages/name0.png,masks/name0.png",
            "again",
        ),
    ],
)
def test_bad_tables(table, text, said):
    table.write_text(text)
    with pytest.raises(SourceError, match=said):
        load_sources([TableSource(table=table, mpp=1.0)], CONFIG)


def feature(name, left, top, right, bottom):
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": name}},
    }


@pytest.fixture
def drawn(tmp_path):
    slide = tmp_path / "slide.tif"
    resolution = (1e4 / 0.5, 1e4 / 0.5)
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    tifffile.imwrite(slide, pixels, tile=(64, 64), photometric="rgb", resolution=resolution, resolutionunit=3)
    shapes = tmp_path / "slide.geojson"
    features = [feature("Disc", 50, 20, 150, 120), feature("fold", 200, 200, 300, 280), feature("dust", 0, 0, 9, 9)]
    shapes.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return {"slide": slide, "shapes": shapes}


def test_outlines(drawn):
    said = []
    (item,) = load_sources([ShapesSource(**drawn)], CONFIG, lambda level, text: said.append(text))
    values = item.truth.read(Window(-10, -10, 320, 420))
    assert (values[30:130, 60:160] == 1).all()
    assert (values == 1).sum() == 100 * 100
    assert (values[:10] == IGNORED).all()
    assert (values[-10:] == IGNORED).all()
    assert values[250, 260] == 0
    assert any("dust" in text and "fold" in text for text in said)
    assert item.group == "slide"
    # On the target grid of 1 µm, a pixel is two of the slide's.
    assert (item.truth_on_target(Window(10, 25, 50, 50)) == 1).all()


def test_what_names_mean(drawn):
    source = ShapesSource(**drawn, values={"Disc": "disc", "fold": "background"}, outside="ignored")
    (item,) = load_sources([source], CONFIG)
    values = item.truth.read(Window(0, 0, 300, 400))
    assert (values[50, 100], values[250, 250], values[150, 350]) == (1, 0, IGNORED)
    assert {0, 1} == set(item.places)


def test_outlines_that_cannot_be_used(drawn, tmp_path):
    with pytest.raises(ShapeFileError, match=r"No shape in .* they are called Disc, dust, fold"):
        load_sources([ShapesSource(**drawn, values={"tree": "disc"})], CONFIG)
    far = tmp_path / "far.geojson"
    far.write_text(json.dumps(feature("disc", 5000, 5000, 6000, 6000)))
    with pytest.raises(ShapeFileError, match="300 x 400 pixels"):
        load_sources([ShapesSource(slide=drawn["slide"], shapes=far)], CONFIG)
    images, _ = write_folder(tmp_path / "x", 1)
    with pytest.raises(MissingMppError, match="gives no µm per pixel"):
        load_sources([ShapesSource(slide=images / "name0.png", shapes=drawn["shapes"])], CONFIG)


def test_imagescope_says_the_resolution(tmp_path):
    images, _ = write_folder(tmp_path, 1)
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((10, 10), (30, 10), (30, 40)))
    shapes = tmp_path / "a.xml"
    shapes.write_text(
        f'<Annotations MicronsPerPixel="0.25"><Annotation Name="disc"><Regions><Region Type="0"><Vertices>{vertices}'
        "</Vertices></Region></Regions></Annotation></Annotations>"
    )
    (item,) = load_sources([ShapesSource(slide=images / "name0.png", shapes=shapes)], CONFIG)
    assert item.slide.mpp == (0.25, 0.25)


def test_a_large_slide_is_painted_in_windows(tmp_path):
    """A truth of 50,000 x 50,000 pixels takes no more memory than what is asked for."""
    from shapely.geometry import Point

    from napari_msunet.annotation import DrawnShape
    from napari_msunet.data.truth import OVERVIEW_PIXELS, ShapeTruth

    truth = ShapeTruth(
        [(1, DrawnShape("a", Point(30_000, 20_000).buffer(9_000))), (2, DrawnShape("b", Point(5, 5).buffer(4)))],
        (50_000, 50_000),
    )
    assert truth.read(Window(20_000, 30_000, 64, 64)).all()
    values, grid = truth.overview()
    assert values.size <= OVERVIEW_PIXELS * 1.01
    assert (values == 1).sum() * grid.pixel[0] ** 2 == pytest.approx(np.pi * 9_000**2, rel=0.01)
    assert (values == 2).any()
