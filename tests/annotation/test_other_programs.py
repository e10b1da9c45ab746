"""The formats of CVAT, Labelbox, COCO, labelme, Cytomine, HALO: small files written by hand as their programs write."""

import base64
import io
import json
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from napari_msunet.annotation import read_shape_file, read_shapes
from napari_msunet.annotation.run_lengths import coco_runs
from napari_msunet.annotation.shapes import DrawnImage, ListedImage, _called
from napari_msunet.errors import ImageNeededError, ShapeFileError

SQUARE = [(10, 20), (30, 20), (30, 40), (10, 40)]


def write(tmp_path, content, name="shapes.txt"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


def areas(file):
    return {s.number: (s.name, round(s.geometry.area, 6)) for s in file.shapes if s.areal}


def whys(file):
    return {left.number: left.why for left in file.left_out}


# ---------------------------------------------------------------------------------------------------------------- CVAT

CVAT = """<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels>
<label><name>gland</name><color>#ff0080</color></label><label><name>dot</name></label></labels></task></meta>
<image id="0" name="batch/a.png" width="200" height="100">
<polygon label="gland" source="manual" occluded="0" points="10.00,20.00;30.00,20.00;30.00,40.00;10.00,40.00"/>
<box label="gland" xtl="100" ytl="10" xbr="140" ybr="30" rotation="90.0"/>
<ellipse label="gland" cx="50" cy="50" rx="20" ry="10" rotation="30"/>
<mask label="gland" rle="1, 3, 1, 1, 2, 1, 1" left="60" top="70" width="5" height="2"/>
<points label="dot" points="1,1;5,5"/>
<polyline label="" points="1,1;5,5;9,1"/>
<cuboid label="gland" xtl1="1" ytl1="2"/>
<polygon label="gland" points="1,1;x,2;3,3"/>
<mask label="gland" rle="90, 90" left="0" top="0" width="3" height="2"/>
<tag label="gland"/></image>
<image id="1" name="batch/b.png" width="200" height="100">
<polygon label="gland" points="0,0;9,0;9,9"/></image></annotations>"""


def test_cvat(tmp_path):
    path = write(tmp_path, CVAT)
    file = read_shape_file(path, "a.png")
    assert file.format == "CVAT"
    assert areas(file)[1] == ("gland", 400)
    assert file.shapes[0].colour == (255, 0, 128)
    # turned by 90 degrees around its middle
    assert file.shapes[1].geometry.bounds == pytest.approx((110, 0, 130, 40))
    ellipse = file.shapes[2].geometry
    assert ellipse.area == pytest.approx(np.pi * 200, rel=0.003)
    assert np.ptp(np.array(ellipse.exterior.coords)[:, 0]) == pytest.approx(2 * np.hypot(20 * 0.75**0.5, 5), rel=0.003)
    turned = np.array(ellipse.exterior.coords)[0] - (50, 50)  # clockwise on the screen: right and down
    assert turned == pytest.approx((20 * np.cos(np.pi / 6), 10))
    mask = file.shapes[3].geometry  # .xxx. / x..x.
    assert mask.area == 5
    assert mask.bounds == (60, 70, 64, 72)
    assert [s.geometry.geom_type for s in file.shapes[4:]] == ["MultiPoint", "LineString"]
    assert (file.shapes[4].classed, file.shapes[5].classed) == (True, False)
    assert whys(file) == {
        7: "drawn as a cuboid",
        8: "with a coordinate that is no number",
        9: "with a damaged mask",
    }
    assert areas(read_shape_file(path, DrawnImage("/data/other/B.svs"))) == {10: ("gland", 40.5)}
    discs = [s for s in read_shapes(path, "a.png", radius=2) if s.number == 5]
    assert np.array([s.geometry.centroid.coords[0] for s in discs]) == pytest.approx(np.array([(1, 1), (5, 5)]))
    assert discs[0].geometry.area == pytest.approx(4 * np.pi, rel=0.003)


def test_which_of_several_images(tmp_path):
    path = write(tmp_path, CVAT)
    with pytest.raises(ImageNeededError, match=r"outlines of 2 images \(batch/a.png, batch/b.png\), and it was not"):
        read_shapes(path)
    with pytest.raises(ImageNeededError, match=r"none of which is called s\.svs; give the slide of that name"):
        read_shapes(path, DrawnImage("s.svs"))
    with pytest.raises(ShapeFileError, match=r"has no image called c.png, but batch/a.png, batch/b.png"):
        read_shapes(path, "c.png")
    # One image that is called otherwise, or has another size, is read with a doubt.
    one = write(tmp_path, CVAT[: CVAT.index('<image id="1"')] + "</annotations>")
    (note, size) = read_shape_file(one, DrawnImage("s.svs", (50, 100))).notes
    assert "was drawn on batch/a.png, as it says, and not on s.svs" in note
    assert "on an image of 100 x 200 pixels (height x width), but s.svs has 50 x 100" in size
    assert read_shape_file(one, DrawnImage("x/a.tif", (100, 200))).notes == ()


def test_names_of_images():
    images = [ListedImage((name,)) for name in ("p/a.png", "q\\a.png", "b.ome.tif", "B.png", "https://x.org/c.jpg?t=1")]

    def found(name):
        return [str(image) for image in _called(images, name)]

    assert found("/d/q/a.svs") == ["q\\a.png"]
    assert found("a.png") == ["p/a.png", "q\\a.png"]
    assert found("b.OME.TIF") == ["b.ome.tif"]
    assert found("b.svs") == ["b.ome.tif", "B.png"]
    assert found("c.jpg") == ["https://x.org/c.jpg?t=1"]
    assert found("d.jpg") == []


# ---------------------------------------------------------------------------------------------------------------- COCO


def coco(annotations, images=("a.png",), **more):
    return {
        "images": [{"id": n, "file_name": name, "height": 50, "width": 60} for n, name in enumerate(images, 7)],
        "categories": [{"id": 3, "name": "gland"}, {"id": 5, "name": "dot"}],
        "annotations": [{"id": 100 + n, "image_id": 7, "category_id": 3, **a} for n, a in enumerate(annotations)],
        **more,
    }


FLAT = [v for corner in SQUARE for v in corner]
# 4 rows and 5 columns, counted down the columns: 5 pixels outside, 2 inside, 2 outside, 3 inside, 8 outside.
MASK = {"size": [4, 5], "counts": [5, 2, 2, 3, 8]}


def test_coco(tmp_path):
    found = coco(
        [
            {"segmentation": [FLAT, [40, 20, 44, 20, 44, 24]]},
            {"segmentation": MASK, "iscrowd": 1},
            {"segmentation": {"size": [4, 5], "counts": "52216"}},
            {"segmentation": [], "bbox": [1, 2, 10, 4]},
            {"segmentation": [[1, 2, 3]]},
            {"keypoints": [1, 2, 2]},
            {"segmentation": {"size": [4, 5], "counts": "\x7f"}},
            {"segmentation": {"size": [10**12, 10**12], "counts": [0, 10**20]}},
            {"segmentation": [FLAT], "category_id": 99},
            {"segmentation": FLAT},
            {"segmentation": [FLAT], "image_id": 8},
            {"segmentation": [[[10, 20], [30, 20], [30, 40]]]},
        ],
        ("a.png", "b.png"),
    )
    file = read_shape_file(write(tmp_path, found), DrawnImage("a.tif", (50, 60)))
    assert file.format == "COCO"
    assert areas(file) == {
        1: ("gland", 408),
        2: ("gland", 5),
        3: ("gland", 5),
        4: ("gland", 40),
        9: ("99", 400),
        10: ("gland", 400),
        12: ("gland", 200),
    }
    assert file.shapes[1].geometry.equals(file.shapes[2].geometry)
    # the second column from its second row, and the third from its second to its fourth
    assert file.shapes[1].geometry.bounds == (1, 1, 3, 4)
    assert list(whys(file).values()) == [
        "with an odd number of coordinates",
        "of key points, without an outline",
        "with a damaged mask",
        "with a mask without a size",
    ]
    assert file.notes == ("1 shape is a crowd (2), which counts for the class, but not as an object.",)


def test_coco_results_and_a_list_of_nothing(tmp_path):
    results = [{"image_id": 4, "category_id": 1, "segmentation": MASK, "score": 0.5}]
    (shape,) = read_shapes(write(tmp_path, results))
    assert (shape.name, shape.geometry.area) == ("1", 5)
    assert read_shapes(write(tmp_path, coco([]))) == []


def encoded(runs):
    """COCO's text for run lengths, written from the description of the format."""
    text = ""
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            low = value & 31
            value >>= 5
            more = value != (-1 if low & 16 else 0)
            text += chr(low + 32 * more + 48)
    return text


def test_the_text_of_run_lengths():
    draw = np.random.default_rng(0)
    for _ in range(50):
        runs = draw.integers(0, 10 ** draw.integers(1, 9), draw.integers(1, 40)).tolist()
        assert coco_runs(encoded(runs)).tolist() == runs
    assert encoded([5, 2, 2, 3, 8]) == "52216"


def test_a_mask_on_a_large_image_is_read_in_its_own_box(tmp_path):
    side = 100_000
    runs = [side * 5000 + 40, 10, side - 10, 10, side * (side - 5002) + side - 60]
    (shape,) = read_shapes(write(tmp_path, coco([{"segmentation": {"size": [side, side], "counts": runs}}])))
    assert shape.geometry.bounds == (5000, 40, 5002, 50)


# ------------------------------------------------------------------------------------------------------------ Labelbox


def row(objects, name="a.png", **more):
    return {
        "data_row": {"id": "x1", "external_id": name, "row_data": f"https://storage.example.org/{name}"},
        "media_attributes": {"height": 50, "width": 60, "mime_type": "image/png"},
        "projects": {"p1": {"name": "glands", "labels": [{"annotations": {"objects": objects}}]}},
        **more,
    }


def places(corners):
    return [{"x": x, "y": y} for x, y in corners]


NEW = [
    {"name": "gland", "annotation_kind": "ImagePolygon", "polygon": places(SQUARE)},
    {"name": "gland", "bounding_box": {"top": 1, "left": 2, "height": 10, "width": 5}},
    {"name": "gland", "mask": {"url": "https://api.example.org/masks/1"}},
    {"name": "dot", "point": {"x": 1, "y": 2}},
    {"name": "way", "line": places(SQUARE)},
    {"name": "gland", "annotation_kind": "GeoPolygon", "geojson": {"type": "Polygon", "coordinates": []}},
    {"name": "gland", "bounding_box": {"top": "high", "left": 2, "height": 10, "width": 5}},
    {"name": "gland", "mask": {"png": png(np.eye(4, dtype=bool))}},
]


@pytest.mark.parametrize("lines", [True, False])
def test_labelbox(tmp_path, lines):
    rows = [row(NEW), row(NEW[:1], "b.png")]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)) if lines else rows)
    file = read_shape_file(path, "a.png")
    assert file.format == "Labelbox"
    assert areas(file) == {1: ("gland", 400), 2: ("gland", 50), 8: ("gland", 4)}
    assert [s.geometry.geom_type for s in file.shapes[2:4]] == ["Point", "LineString"]
    assert whys(file) == {
        3: "whose mask is kept on Labelbox's server",
        6: "on a map, in longitude and latitude",
        7: "with a coordinate that is no number",
    }
    assert areas(read_shape_file(path, DrawnImage("/slides/b.svs"))) == {9: ("gland", 400)}
    with pytest.raises(ImageNeededError, match=r"2 images \(a.png, b.png\)"):
        read_shapes(path)


def test_labelbox_of_before(tmp_path):
    old = {
        "ID": "1",
        "External ID": "a.png",
        "Labeled Data": "https://example.org/a.png",
        "Label": {
            "objects": [
                {"title": "gland", "value": "gland_1", "color": "#ff0000", "polygon": places(SQUARE)},
                {"title": "gland", "instanceURI": "https://example.org/mask"},
            ]
        },
    }
    file = read_shape_file(write(tmp_path, [old]))
    assert areas(file) == {1: ("gland", 400)}
    assert file.shapes[0].colour == (255, 0, 0)
    assert whys(file) == {2: "whose mask is kept on Labelbox's server"}


@pytest.mark.parametrize(
    "drawn",
    [
        [{"geometry": places(SQUARE)}],
        [places(SQUARE)],
        "MULTIPOLYGON (((10 20, 30 20, 30 40, 10 40, 10 20)))",
        [{"geometry": "POLYGON ((10 20, 30 20, 30 40, 10 40, 10 20))"}],
    ],
)
def test_the_first_labelbox_counts_upwards(tmp_path, drawn):
    path = write(tmp_path, [{"ID": "1", "External ID": "a.png", "Label": {"gland": drawn, "sure": "yes"}}])
    with pytest.raises(ImageNeededError, match=r"counts y upwards .* give the slide on which it was drawn"):
        read_shapes(path)
    (shape,) = read_shapes(path, DrawnImage("a.png", (50, 60)))
    assert (shape.name, shape.geometry.bounds) == ("gland", (10, 10, 30, 30))


def test_two_labels_of_one_image_are_said(tmp_path):
    twice = row(NEW[:1])
    twice["projects"]["p1"]["labels"] *= 2
    file = read_shape_file(write(tmp_path, [twice]))
    assert len(file.shapes) == 2
    assert "holds 2 labels of this image" in file.notes[0]


# ------------------------------------------------------------------------------------------------------------- labelme


def shape(kind, points, label="gland", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def test_labelme(tmp_path):
    ring = np.ones((4, 5), bool)
    ring[1:3, 1:4] = False
    found = {
        "version": "5.7.0",
        "imagePath": "..\\images\\a.png",
        "imageData": None,
        "imageHeight": 50,
        "imageWidth": 60,
        "shapes": [
            shape("polygon", SQUARE),
            shape("rectangle", [[10, 20], [4, 10]]),
            shape("circle", [[20, 20], [23, 24]]),
            shape("mask", [[5.4, 6.2], [9.4, 9.2]], mask=png(ring)),
            shape("polygon", SQUARE, group_id=1),
            shape("point", [[1, 2]]),
            shape("rectangle", [[40, 20], [44, 24]], group_id=1),
            shape("linestrip", SQUARE),
            shape("polygon", SQUARE, "vessel", group_id=1),
            shape("heart", SQUARE),
            shape("mask", [[0, 0], [2, 2]], mask="no picture"),
            {"label": "gland", "points": SQUARE, "line_color": [1, 2, 3, 128]},
            "nothing",
        ],
    }
    file = read_shape_file(write(tmp_path, found), DrawnImage("/d/a.svs", (50, 60)))
    assert (file.format, file.notes) == ("labelme", ())
    # the polygon and the rectangle of group 1 are one object
    assert {n: a for n, a in areas(file).items() if n != 3} == {
        1: ("gland", 400),
        2: ("gland", 60),
        4: ("gland", 14),
        5: ("gland", 416),
        9: ("vessel", 400),
        12: ("gland", 400),
    }
    by_number = {s.number: s for s in file.shapes}
    assert by_number[3].geometry.area == pytest.approx(25 * np.pi, rel=0.003)
    assert by_number[4].geometry.bounds == (5, 6, 10, 10)
    assert len(by_number[4].geometry.interiors) == 1
    assert by_number[12].colour == (1, 2, 3)
    assert not by_number[6].areal
    assert not by_number[8].areal
    assert whys(file) == {10: "of the unknown kind 'heart'", 11: "with a damaged mask", 13: "without a geometry"}


WEB = """<annotation><filename>a.png</filename><folder>set</folder><imagesize><nrows>50</nrows><ncols>60</ncols>
</imagesize><object><name>gland
</name><deleted>0</deleted><polygon><username>x</username><pt><x>10</x><y>20</y></pt><pt><x>30</x><y>20</y></pt>
<pt><x>30</x><y>40</y></pt></polygon></object>
<object><name>gland</name><deleted>1</deleted><polygon><pt><x>1</x><y>2</y></pt></polygon></object>
<object><name>gland</name><deleted>0</deleted><segm><mask>a_mask_1.png</mask></segm></object>
<object><name>dot</name><deleted>0</deleted><polygon><pt><x>1</x><y>2</y></pt></polygon></object></annotation>"""


def test_labelme_on_the_web(tmp_path):
    path = write(tmp_path, WEB)
    file = read_shape_file(path)
    assert file.format == "LabelMe XML"
    assert areas(file) == {1: ("gland", 200)}
    assert [s.geometry.geom_type for s in file.shapes] == ["Polygon", "Point"]
    assert whys(file) == {
        2: "deleted in LabelMe",
        3: "whose mask (a_mask_1.png) is a file that is not beside this one",
    }
    mask = np.zeros((50, 60), np.uint8)
    mask[5:10, 7:9] = 255
    (tmp_path / "Masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "Masks" / "a_mask_1.png")
    assert areas(read_shape_file(path))[3] == ("gland", 10)


# ------------------------------------------------------------------------------------------------------------ Cytomine


def cytomine(text, **more):
    return {"class": "be.cytomine.ontology.UserAnnotation", "image": 80, "location": text, "term": [], **more}


def test_cytomine_counts_upwards(tmp_path):
    found = {
        "collection": [
            cytomine("POLYGON ((10 20, 30 20, 30 40, 10 40, 10 20), (12 22, 12 24, 14 24, 12 22))", term=[12]),
            cytomine("POINT (5 5)", term=[{"id": 3, "name": "dot"}]),
            cytomine("LINESTRING (5 5, 9 9)"),
            cytomine("POLYGON ((1 1, 2"),
            cytomine(None),
            cytomine("POLYGON EMPTY"),
        ]
    }
    path = write(tmp_path, found)
    with pytest.raises(ImageNeededError, match="a file of Cytomine, which counts y upwards"):
        read_shapes(path)
    file = read_shape_file(path, DrawnImage("a.svs", (100, 60)), radius=1)
    assert (file.format, file.notes) == ("Cytomine", ())
    polygon, dot, line = file.shapes
    assert (polygon.name, polygon.geometry.bounds, polygon.geometry.area) == ("12", (10, 60, 30, 80), 398)
    assert (dot.name, dot.geometry.centroid.coords[0]) == ("dot", pytest.approx((5, 95)))
    assert (line.classed, list(line.geometry.coords)) == (False, [(5, 95), (9, 91)])
    assert whys(file) == {4: "with a text that gives no geometry", 5: "without a geometry", 6: "without a geometry"}
    (one,) = read_shapes(write(tmp_path, {"annotation": found["collection"][0]}), DrawnImage("", (100, 60)))
    assert one.geometry.equals(polygon.geometry)
    several = [cytomine("POINT (1 1)", image=n, originalFilename=f"{n}.svs") for n in (1, 2)]
    (point,) = read_shapes(write(tmp_path, several), DrawnImage("2.svs", (9, 9)))
    assert (point.number, point.geometry.coords[0]) == (2, (1, 8))


# ----------------------------------------------------------------------------------------------------- HALO, ImageScope


def test_halo_open_lines_and_pins(tmp_path):
    corners = "".join(f'<V X="{x}" Y="{y}"/>' for x, y in SQUARE)
    text = (
        '<Annotations><Annotation Name="Layer 1" Visible="True" LineColor="255"><Regions>'
        f'<Region Type="Polygon" HasEndcaps="0" NegativeROA="0"><Vertices>{corners}</Vertices><Comments/></Region>'
        f'<Region Type="Polygon" HasEndcaps="1" NegativeROA="0"><Vertices>{corners}</Vertices></Region>'
        f'<Region Type="Ruler" HasEndcaps="0"><Vertices>{corners}</Vertices></Region>'
        '<Region Type="Pin"><Vertices><V X="1" Y="2"/></Vertices></Region></Regions></Annotation></Annotations>'
    )
    shapes = read_shapes(write(tmp_path, text))
    assert [s.geometry.geom_type for s in shapes] == ["Polygon", "LineString", "LineString", "Point"]
    assert [s.areal for s in read_shapes(write(tmp_path, text), radius=3)] == [True, False, False, True]


def test_a_layer_of_imagescope_with_a_description(tmp_path):
    corners = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in SQUARE)
    region = f'<Regions><Region Type="0"><Vertices>{corners}</Vertices></Region></Regions>'
    text = (
        '<Annotations MicronsPerPixel="0.25"><Annotation Name=""><Attributes><Attribute Name="Description" Id="0" '
        f'Value="tumour"/></Attributes>{region}</Annotation></Annotations>'
    )
    assert [s.name for s in read_shapes(write(tmp_path, text))] == ["tumour"]


def test_xml_of_windows_says_another_encoding_than_it_has(tmp_path):
    text = CVAT.replace('encoding="utf-8"', 'encoding="utf-16"').replace("gland", "Drüse")
    assert read_shapes(write(tmp_path, text), "b.png")[0].name == "Drüse"
    path = tmp_path / "b.xml"
    for encoding in ("utf-16", "utf-8-sig", "iso-8859-1"):
        path.write_text(text.replace("utf-16", encoding.removesuffix("-sig")), encoding=encoding)
        assert read_shapes(path, "b.png")[0].name == "Drüse"


def test_an_outline_that_goes_into_a_hole_and_back_is_whole(tmp_path):
    """Formats without holes have them so; nothing of it needs a repair."""
    around = [(0, 0), (30, 0), (30, 15), (20, 15), (20, 10), (10, 10), (10, 20), (20, 20), (20, 15), (30, 15), (30, 30)]
    file = read_shape_file(write(tmp_path, {"type": "Polygon", "coordinates": [[*around, (0, 30), (0, 0)]]}))
    assert (file.shapes[0].geometry.area, file.shapes[0].repaired) == (800, "")
    assert len(file.shapes[0].geometry.interiors) == 1


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
def test_a_radius_that_makes_no_disc(tmp_path, wrong):
    with pytest.raises(ShapeFileError, match="makes no disc of a point"):
        read_shapes(write(tmp_path, CVAT), "a.png", radius=wrong)


def swapped(value, junk):
    """Copies of a JSON value in which one part is something else."""
    yield junk
    if isinstance(value, dict):
        for key, inner in value.items():
            for one in swapped(inner, junk):
                yield {**value, key: one}
            yield {k: v for k, v in value.items() if k != key}
    elif isinstance(value, list):
        for index, inner in enumerate(value[:3]):
            for one in swapped(inner, junk):
                yield [*value[:index], one, *value[index + 1 :]]


WHOLE = {
    "coco": coco([{"segmentation": [FLAT]}, {"segmentation": MASK}, {"bbox": [1, 2, 3, 4]}], ("a.png", "b.png")),
    "labelbox": [row(NEW[:2] + NEW[3:5] + NEW[7:]), row(NEW[:1], "b.png")],
    "labelbox of before": [
        {"ID": "1", "External ID": "a.png", "Label": {"objects": NEW[:2], "gland": [places(SQUARE)]}}
    ],
    "labelme": {
        "imagePath": "a.png",
        "imageHeight": 9,
        "imageWidth": 9,
        "shapes": [shape("polygon", SQUARE, group_id=1)],
    },
    "cytomine": {"collection": [cytomine("POINT (1 1)", term=[{"id": 1, "name": "a"}], originalFilename="a.png")]},
    "GeoJSON": {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
                "properties": {"classification": {"name": "a", "color": [1, 2, 3]}},
            }
        ],
    },
}


@pytest.mark.parametrize("format", WHOLE)
def test_anything_in_place_of_any_part_is_read_or_refused_with_a_sentence(tmp_path, format):
    for junk in (None, "x", -1, True, 1e300, [], [[]], {}, {"x": 1}, ["a"], [None]):
        for damaged in swapped(json.loads(json.dumps(WHOLE[format])), junk):
            path = write(tmp_path, damaged)
            with suppress(ShapeFileError):
                read_shape_file(path, DrawnImage("a.png", (50, 60)), radius=3)


# --------------------------------------------------------------------------------------------------------------- doors


def test_truth_of_one_image_with_points_and_its_numbers(tmp_path):
    from napari_msunet.config import ModelConfig, ShapesSource, UNetConfig
    from napari_msunet.data.sources import shapes_item
    from napari_msunet.data.truth import own_instances
    from napari_msunet.geometry import Window

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8)).save(tmp_path / "s.png")
    path = write(tmp_path, CVAT)
    config = ModelConfig(classes=("gland", "dot"), mpp=0.5, branch=UNetConfig(depth=2, width=4))
    source = ShapesSource(slide=tmp_path / "s.png", shapes=path, mpp=0.5, image="a.png", radius=1.0)
    said = []
    item = shapes_item(source, config, lambda *a: said.append(a[1]))
    values = item.truth.read(Window(0, 0, 100, 200))
    assert (values[20:40, 10:30] == 1).all()
    assert (values == 2).sum() == 12 + 8  # discs of two pixels' radius, of which one is cut by the slide's corner
    numbers = own_instances(item.truth)
    assert numbers[25, 15] == 1
    assert numbers[71, 60] == 4
    assert "drawn as a cuboid" in " ".join(said)
    # A file in which several discs have one number: they are objects of their own.
    assert numbers[5, 5] != numbers[1, 1]


def test_a_crowd_has_a_class_but_is_no_object(tmp_path):
    from napari_msunet.data.truth import ShapeTruth, own_instances
    from napari_msunet.geometry import Window

    found = coco([{"segmentation": [FLAT], "iscrowd": 1}, {"segmentation": [[40, 20, 44, 20, 44, 24, 40, 24]]}])
    truth = ShapeTruth([(1, shape) for shape in read_shapes(write(tmp_path, found))], (50, 60))
    assert (truth.read(Window(0, 0, 50, 60)) == 1).sum() == 416
    numbers, counts = np.unique(own_instances(truth), return_counts=True)
    assert dict(zip(numbers.tolist(), counts.tolist(), strict=True)) == {-1: 400, 0: 50 * 60 - 416, 2: 16}


def test_parts_of_coco_inside_others_are_filled_and_that_is_said(tmp_path):
    hole = [v for corner in [(12, 22), (12, 30), (20, 30), (20, 22)] for v in corner]
    beside = [40, 20, 44, 20, 44, 24]
    file = read_shape_file(write(tmp_path, coco([{"segmentation": [FLAT, hole]}, {"segmentation": [FLAT, beside]}])))
    assert areas(file) == {1: ("gland", 400), 2: ("gland", 408)}
    assert file.notes == ("1 shape has parts that overlap (1); COCO has no holes, so all are filled.",)
