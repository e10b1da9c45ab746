"""The same drawing in every format through every door: each shape's fate, and the same pixels."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from napari_msunet.annotation import import_file, read_shape_file, read_shapes
from napari_msunet.annotation.importing import ClassedShapes
from napari_msunet.config import Drawn, ModelConfig, ShapesSource, UNetConfig
from napari_msunet.data.sources import shapes_item
from napari_msunet.errors import MsunetError, ShapeFileError, StoreError
from napari_msunet.geometry import Region, Window
from napari_msunet.inference.slide_inputs import drawn
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.area import left_out, where_mask
from napari_msunet.slide import open_slide, slide_from_array

SIZE = (120, 160)

# Drawn from the small to the large. Each: its class, its corners, and what becomes of it.
DRAWING = [
    ("Tumor", [(20, 20), (40, 20), (40, 40), (20, 40)], "painted"),
    ("Tumor", [(22, 22), (30, 22)], "left out"),
    ("Stroma", [(10, 10), (70, 10), (70, 60), (10, 60)], "painted"),
    ("Stroma", [(150, 100), (190, 100), (190, 110), (150, 110)], "partly outside"),
    ("Stroma", [(200, 100), (290, 100), (290, 110)], "outside"),
    ("Tumor", [(100, 20), (120, 40), (120, 20), (100, 40)], "painted"),  # crosses itself
    ("Tumor", [(50, 70), (60, 80), (70, 90)], "left out"),  # no area
    ("Tumor", [(80.1, 80.1), (80.3, 80.1), (80.3, 80.3)], "left out"),  # between the centres of pixels
    ("Tumor", [(100, 60), (110, 60), (110, 70), (100, 70)], "hidden"),
    ("Stroma", [(100, 60), (110, 60), (110, 70), (100, 70)], "painted"),
    ("Tumor", [(90, 90), ("a", 90), (95, 95)], "left out"),
]


def geojson(drawing):
    features = []
    for name, corners, _ in drawing:
        ring = [list(c) for c in (*corners, corners[0])]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"classification": {"name": name}},
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features})


def asap(drawing):
    parts = []
    for name, corners, _ in drawing:
        places = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(corners))
        parts.append(
            f'<Annotation Name="" Type="Polygon" PartOfGroup="{name}"><Coordinates>{places}</Coordinates></Annotation>'
        )
    return f"<ASAP_Annotations><Annotations>{''.join(parts)}</Annotations></ASAP_Annotations>"


def layers(drawing, kind, vertex):
    parts = []
    for name, corners, _ in drawing:
        places = "".join(f'<{vertex} X="{x}" Y="{y}"/>' for x, y in corners)
        region = f'<Region Type="{kind}" NegativeROA="0"><Vertices>{places}</Vertices></Region>'
        parts.append(f'<Annotation Name="{name}" LineColor="255"><Regions>{region}</Regions></Annotation>')
    return f"<Annotations>{''.join(parts)}</Annotations>"


def coco(drawing):
    names = sorted({name for name, _, _ in drawing})
    found = [
        {"image_id": 1, "category_id": names.index(name), "segmentation": [[v for corner in corners for v in corner]]}
        for name, corners, _ in drawing
    ]
    images = [{"id": 1, "file_name": "s.png"}, {"id": 2, "file_name": "other.png"}]
    categories = [{"id": index, "name": name} for index, name in enumerate(names)]
    return json.dumps({"images": images, "categories": categories, "annotations": found})


def cvat(drawing):
    parts = [
        f'<polygon label="{name}" points="{";".join(f"{x},{y}" for x, y in corners)}"/>' for name, corners, _ in drawing
    ]
    other = '<image id="1" name="other.png"><polygon label="Tumor" points="0,0;9,0;9,9"/></image>'
    own = f'<image id="0" name="s.png" width="160" height="120">{"".join(parts)}</image>'
    return f"<annotations>{own}{other}</annotations>"


def labelbox(drawing):
    found = [{"name": name, "polygon": [{"x": x, "y": y} for x, y in corners]} for name, corners, _ in drawing]
    row = {"data_row": {"external_id": "s.png"}, "projects": {"p": {"labels": [{"annotations": {"objects": found}}]}}}
    return "\n".join(json.dumps(one) for one in (row, {**row, "data_row": {"external_id": "other.png"}}))


def labelme(drawing):
    shapes = [{"label": name, "points": corners, "shape_type": "polygon"} for name, corners, _ in drawing]
    return json.dumps({"version": "5.7.0", "imagePath": "s.png", "shapes": shapes})


FORMATS = {
    "COCO": coco,
    "CVAT": cvat,
    "Labelbox": labelbox,
    "labelme": labelme,
    "GeoJSON": geojson,
    "ASAP XML": asap,
    "Aperio XML": lambda d: layers(d, "0", "Vertex"),
    "HALO annotations": lambda d: layers(d, "Polygon", "V"),
}


@pytest.fixture
def slide_path(tmp_path):
    path = tmp_path / "s.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)
    return path


def expected():
    values = np.zeros(SIZE, np.uint8)
    values[10:60, 10:70] = 1
    values[20:40, 20:40] = 2
    values[100:110, 150:] = 1
    values[60:70, 100:110] = 1
    y, x = np.mgrid[:20, :20] + 0.5
    values[20:40, 100:120][((y < x) & (y < 20 - x)) | ((y > x) & (y > 20 - x))] = 0
    return values


@pytest.mark.parametrize("format", FORMATS)
def test_one_drawing_every_format_every_door(tmp_path, slide_path, format):
    path = tmp_path / "shapes.txt"  # the content tells the format
    path.write_text(FORMATS[format](DRAWING))
    assert read_shape_file(path, "s.png").format == format
    classes = ("Stroma", "Tumor")
    with open_slide(slide_path, mpp=0.5) as slide:
        report = import_file(path, tmp_path / "l.ome.zarr", slide, classes=classes, kind="labels")
        mask = where_mask(slide, drawn(path, slide_path))
        inside = mask.on(slide.grid(), slide.grid().whole)
    assert [f.fate for f in report.fates] == [fate for _, _, fate in DRAWING]
    assert [f.number for f in report.fates] == list(range(1, len(DRAWING) + 1))
    values = open_labels(tmp_path / "l.ome.zarr").read(Region(0, 0, *SIZE))
    bow_tie = np.zeros(SIZE, bool)
    bow_tie[20:40, 100:120] = True
    assert np.array_equal(values[~bow_tie], expected()[~bow_tie])
    assert 150 <= (values[bow_tie] == 2).sum() <= 250  # both halves
    assert report.pixels == (values > 0).sum()
    assert report.fates[0].pixels == 400
    assert report.fates[2].pixels == 3000 - 400
    assert "crosses itself was mended (shape 6)" in report.losses()
    # The other doors see the same pixels.
    assert np.array_equal(inside, values > 0)
    said = []
    config = ModelConfig(classes=classes, mpp=0.5, branch=UNetConfig(depth=2, width=4))
    item = shapes_item(ShapesSource(slide=slide_path, shapes=path, mpp=0.5), config, lambda *a: said.append(a))
    assert np.array_equal(item.truth.read(Window(0, 0, *SIZE)), values)
    assert said[0][0] == "warning"
    assert report.losses() in said[0][1]


def test_what_a_door_of_prediction_says(tmp_path, slide_path):
    path = tmp_path / "a.geojson"
    path.write_text(geojson(DRAWING))
    where = drawn(path)
    with open_slide(slide_path, mpp=0.5) as slide:
        first, second = left_out(where, where_mask(slide, where))
        assert "Left out: 1 with fewer than three corners (shape 2)" in first
        assert second.startswith("1 of ")
        with pytest.raises(MsunetError, match="lies outside the slide"):
            where_mask(slide, Drawn(polygons=(((500, 0), (500, 9), (600, 9)),)))
    path.write_text(geojson([DRAWING[1], DRAWING[6]]))
    with pytest.raises(ShapeFileError, match=r"holds no shape that can be used: all 2 .* fewer than three"):
        drawn(path)
    path.write_text('{"type": "LineString", "coordinates": [[1, 1], [5, 5]]}')
    with pytest.raises(ShapeFileError, match=r"holds no area. Left out: 1 line \(shape 1\). Draw"):
        drawn(path)


def feature(coordinates, label=None, kind="Polygon", **properties):
    said = {} if label is None else {"classification": {"name": label}}
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {**said, **properties},
    }


def ring(x, y, side):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def written(tmp_path, found, name="a.geojson"):
    path = tmp_path / name
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def test_everything_geojson_can_hold(tmp_path):
    inner = feature([ring(12, 12, 5)], "c")
    outer = feature(
        [ring(10, 10, 50)], "b", childObjects=[{**inner, "childObjects": [feature([ring(13, 13, 2)], "d")]}]
    )
    collection = {
        "type": "GeometryCollection",
        "geometries": [
            {"type": "Polygon", "coordinates": [ring(0, 0, 2)]},
            {"type": "LineString", "coordinates": [[0, 0], [5, 5]]},
            {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": [ring(5, 5, 2)]}]},
        ],
    }
    found = {
        "type": "FeatureCollection",
        "features": [
            outer,
            feature([[ring(70, 10, 10)], [ring(75, 10, 10)], [[[0, 0], [1, 1]]]], "e", "MultiPolygon"),
            feature([ring(100, 10, 10), ring(102, 12, 3), [[0, 0], [1, 0]]], "f"),
            {"type": "Feature", "geometry": collection, "properties": {"classification": "g"}},
            feature([5, 5], None, "Point", name="calibration"),
            feature([[5, 5], [6, 6]], "h", "LineString"),
            {"type": "Feature", "geometry": None, "properties": {}},
            {"type": "Feature", "geometry": {"type": "Circle", "coordinates": [1, 2]}, "properties": {}},
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": []}, "properties": None},
            feature([[[1e300, 0], [1, 1], [0, 5]]], "i"),
            feature([[[float("nan"), 0], [1, 1], [0, 5]]], "i"),
            feature([[[0, 0, 7], [10, 0, 7], [10, 10]]], "j"),  # some with a plane
        ],
    }
    file = read_shape_file(written(tmp_path, found))
    areas = {s.name: s.geometry.area for s in file.shapes if s.areal}
    assert areas == {"b": 2500, "c": 25, "d": 4, "e": 150, "f": 91, "g": 8, "j": 50}
    assert [s.repaired for s in file.shapes if s.name in "ef"] == [
        "with fewer than three corners",
        "with a hole with fewer than three corners",
    ]
    assert [(s.name, s.areal) for s in file.shapes if not s.areal] == [
        ("g", False),
        ("calibration", False),
        ("h", False),
    ]
    assert [left.why for left in file.left_out] == [
        "without a geometry",
        "of the unknown geometry 'Circle'",
        "without a geometry",
        "with a coordinate beyond any slide",
        "with a coordinate that is no number",
    ]
    fates = ClassedShapes.of(file, ("b",)).report(SIZE)
    assert [f.number for f in fates.fates][:3] == [1, 2, 3]
    assert "1 called c, which is no class (shape 2)" in fates.losses()
    assert "1 point (shape 7)" in fates.losses()


def test_shapes_without_a_class(tmp_path, slide_path):
    path = written(tmp_path, [feature([ring(10, 10, 20)]), feature([ring(50, 10, 20)], None, name="Annotation 2")])
    store = tmp_path / "l.ome.zarr"
    with open_slide(slide_path, mpp=0.5) as slide:
        with pytest.raises(ShapeFileError, match="has a class; say which one they are: one name"):
            import_file(path, store, slide)
        with pytest.raises(ShapeFileError, match=r'values={"nothing": "a"}; nothing is the name of shapes'):
            import_file(path, store, slide, classes=("a", "b"))
        assert not store.exists()  # a refused import leaves nothing
        for number, way in enumerate(
            (
                {"classes": ("nucleus",)},
                {"names": {"nothing": "nucleus"}},
                {"classes": ("a", "nucleus"), "names": {"": "nucleus"}},
            )
        ):
            report = import_file(path, tmp_path / f"{number}.ome.zarr", slide, **way)
            assert (report.painted, report.pixels, report.losses()) == (2, 800, "")
        # A shape that has a class keeps the others from being taken for it.
        both = written(tmp_path, [feature([ring(10, 10, 20)]), feature([ring(50, 10, 20)], "Nucleus")])
        report = import_file(both, tmp_path / "n.ome.zarr", slide, classes=("nucleus",))
        assert (report.painted, report.losses()) == (1, "Left out: 1 without a class (shape 1).")


def test_a_refused_import_changes_nothing(tmp_path, slide_path):
    outside = written(tmp_path, [feature([ring(500, 500, 20)], "Tumor")])
    path = tmp_path / "l.ome.zarr"
    with open_slide(slide_path, mpp=0.5) as slide:
        with pytest.raises(ShapeFileError, match="1 lies outside the slide"):
            import_file(outside, path, slide)
        assert not path.exists()
        LabelStore.create(path, classes=("gland",), slide=slide).close()
        with pytest.raises(ShapeFileError, match="they are called Tumor"):
            import_file(outside, path, slide)
        with pytest.raises(StoreError, match="has the classes gland, but not Tumor"):
            import_file(outside, path, slide, classes=("Tumor",))
    with open_labels(path) as store:
        assert store.classes == ("gland",)
        assert not store.read_edited(Region(0, 0, *SIZE)).any()


def test_holes_of_a_layer(tmp_path):
    """A negative region is cut out of its layer's larger shapes; what lies inside it, and in other layers, stays."""
    regions = [(0, 0, 60, 0), (10, 10, 40, 1), (20, 20, 10, 0), (100, 100, 5, 1)]
    text = ""
    for x, y, side, negative in regions:
        places = "".join(f'<Vertex X="{a}" Y="{b}"/>' for a, b in ring(x, y, side)[:-1])
        text += f'<Region Type="0" NegativeROA="{negative}"><Vertices>{places}</Vertices></Region>'
    corners = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((11, 11), (15, 11), (15, 15)))
    other = f'<Region Type="0"><Vertices>{corners}</Vertices></Region>'
    path = tmp_path / "a.xml"
    path.write_text(
        f'<Annotations><Annotation Name="a"><Regions>{text}</Regions></Annotation>'
        f'<Annotation Name="b"><Regions>{other}</Regions></Annotation></Annotations>'
    )
    store = LabelStore.create(tmp_path / "l.ome.zarr", shape=SIZE, mpp=0.5, classes=("a", "b"))
    with store:
        report = import_file(path, store.path)
        values = store.read(Region(0, 0, *SIZE))
    assert (values[5, 5], values[45, 45], values[25, 25]) == (1, 0, 1)
    assert (values[11, 14], (values == 2).sum() > 0) == (2, True)
    assert [f.fate for f in report.fates] == ["painted", "hole", "painted", "left out", "painted"]
    assert report.counted() == "3 of 4 shapes"


def test_names_written_in_two_ways(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Drüse") for form in ("NFC", "NFD"))
    for name, classes in ((composed, (apart,)), (apart, (composed,))):
        shapes = read_shapes(written(tmp_path, [feature([ring(0, 0, 9)], name), feature([ring(20, 0, 9)], "x")]))
        found = ClassedShapes.of(shapes, classes)
        assert len(found.numbered) == 1
        assert len(ClassedShapes.of(shapes, ("a", *classes), {name: classes[0]}).numbered) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"_via_settings": {}}', "a file of the VGG Image Annotator"),
        ('{"images": [], "annotations": [{"segments_info": []}]}', "COCO's panoptic form"),
        ("<annotations><track><box/></track></annotations>", "tracks of a video"),
        ("<annotation><object><bndbox/></object></annotation>", "is Pascal VOC's XML"),
        ("<annotation/>", "neither LabelMe's"),
        ("PK\3\4", "compressed"),
        ("[" * 100_000, "damaged"),
    ],
)
def test_other_programs_are_named(tmp_path, text, said):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ShapeFileError, match=said):
        read_shapes(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "a.geojson"
    path.write_text(geojson(DRAWING[:1]), encoding=encoding)
    assert len(read_shapes(path)) == 1


def test_many_touching_shapes_are_quick(tmp_path):
    """No pair of shapes but neighbours is looked at: a slide has a hundred thousand nuclei."""
    import time

    squares = [feature([ring(10 * x, 10 * y, 10)], "n") for y in range(50) for x in range(100)]
    path = written(tmp_path, [*squares, feature([ring(0, 0, 1000)], "n")])
    slide = slide_from_array(np.zeros((1000, 1000), np.uint8), mpp=1.0)
    started = time.process_time()
    report = import_file(path, tmp_path / "l.ome.zarr", slide)
    assert report.pixels == 1_000_000
    assert report.painted == 5001
    assert time.process_time() - started < 20
