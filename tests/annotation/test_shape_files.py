"""Annotation files of other programs: all real ones are read, damaged ones get a sentence."""

import json

import numpy as np
import pytest
import shapely

from napari_msunet.annotation import read_shapes
from napari_msunet.annotation.formats import read_shape_file
from napari_msunet.errors import ShapeFileError

ASAP = """<?xml version="1.0"?><ASAP_Annotations><Annotations>
<Annotation Name="Annotation 0" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58"><Coordinates>
<Coordinate Order="2" X="30" Y="40"/><Coordinate Order="0" X="10" Y="10"/><Coordinate Order="1" X="30" Y="10"/>
</Coordinates></Annotation>
<Annotation Name="spot" Type="Dot" PartOfGroup="None"><Coordinates><Coordinate Order="0" X="5" Y="6"/></Coordinates>
</Annotation></Annotations><AnnotationGroups/></ASAP_Annotations>"""

APERIO = """<Annotations MicronsPerPixel="0.25"><Annotation Name="" LineColor="65280"><Attributes>
<Attribute Name="gland"/></Attributes><Regions>{}</Regions></Annotation></Annotations>"""


def region(kind, corners, **attributes):
    said = "".join(f' {k}="{v}"' for k, v in attributes.items())
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners)
    return f'<Region Type="{kind}"{said}><Vertices>{vertices}</Vertices></Region>'


def write(tmp_path, text, name="shapes.xml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_asap(tmp_path):
    # The name says nothing: the content does.
    triangle, dot = read_shapes(write(tmp_path, ASAP, "a.json"))
    assert (triangle.name, triangle.colour, triangle.areal) == ("Tumor", (0xF4, 0xFA, 0x58), True)
    assert list(triangle.geometry.exterior.coords)[:-1] == [(10, 10), (30, 10), (30, 40)]
    assert (dot.name, dot.areal, dot.geometry.coords[0]) == ("spot", False, (5, 6))


def test_aperio(tmp_path):
    square = [(0, 0), (10, 0), (10, 10), (0, 10)]
    regions = (
        region(0, square)
        + region(2, [(0, 0), (20, 10)])
        + region(1, [(5, 5), (8, 9)], Text="vessel")
        + region(3, [(0, 0), (9, 9)])
        + region(0, square, NegativeROA=1)
    )
    found = read_shape_file(write(tmp_path, APERIO.format(regions)))
    assert (found.mpp, found.format) == (0.25, "Aperio XML")
    assert [s.name for s in found.shapes] == ["gland", "gland", "vessel", "gland", "gland"]
    assert [s.hole for s in found.shapes] == [False, False, False, False, True]
    assert found.shapes[0].colour == (0, 255, 0)
    assert [s.geometry.area for s in found.shapes] == pytest.approx([100, np.pi * 50, 12, 0, 100], rel=0.01)


def test_geojson(tmp_path):
    ring = [[0, 0], [10, 0], [10, 10], [0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "gland", "colorRGB": -3670016}},
    }
    for found in (feature, [feature], {"type": "FeatureCollection", "features": [feature]}):
        (shape,) = read_shapes(write(tmp_path, json.dumps(found)))
        assert (shape.name, shape.colour, shape.geometry.area) == ("gland", (200, 0, 0), 50)


def test_all_real_files_are_read(shared_data):
    folder = shared_data / "annotations"
    counts = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".xml", ".geojson", ".json") and not {"sectra", "SOURCE.txt"} & set(path.parts):
            if path.name in ("103S.json", "raster.json", "metadata.json"):  # another program's
                with pytest.raises(ShapeFileError, match="no GeoJSON"):
                    read_shapes(path)
                continue
            counts[path.name] = len(read_shapes(path))
    assert len(counts) >= 25
    assert all(counts.values())
    assert counts["asap-polygon.xml"] == 1
    (holed,) = read_shapes(folder / "HistoQC" / "AnnotationModule" / "holed.geojson")
    assert len(holed.geometry.interiors) >= 1


def test_the_same_drawing_in_two_programs(shared_data):
    """One slide was annotated in QuPath and exported for ImageScope: the areas agree."""
    folder = shared_data / "annotations" / "WSI_handling" / "example_annotations"
    xml, qupath = (sorted(folder.glob(f"*.{kind}"))[0] for kind in ("xml", "json"))
    ours, theirs = read_shape_file(xml), read_shape_file(qupath)
    assert ours.mpp == pytest.approx(0.252)
    areas = [
        {round(float(shapely.make_valid(s.geometry).area) / 1e6) for s in f.shapes if s.areal and s.geometry.area > 1e6}
        for f in (ours, theirs)
    ]
    assert areas[0] & areas[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "neither JSON nor XML"),
        ("{", "damaged"),
        ('{"a": 1}', "no GeoJSON"),
        ("<a><b></a>", "damaged"),
        ("<html/>", "neither ASAP"),
        ('{"type": "Polygon", "coordinates": 3}', "."),
        (APERIO.format(region(0, [("nan", 0), (1, 1), (2, 0)])), "no number"),
        (APERIO.format(region(0, [("x", 0), (1, 1), (2, 0)])), "no number"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><Annotations>&b;</Annotations>', "damaged"),
    ],
)
def test_bad_files_get_one_sentence(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(ShapeFileError, match=said) as caught:
        read_shapes(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(ShapeFileError, match="cannot be read"):
        read_shapes(tmp_path / "none.xml")
