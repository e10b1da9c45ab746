"""Scores of instances use the truth's own numbers: touching objects are not joined."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from napari_msunet.config import FolderSource, ModelConfig, PublishedSource, ShapesSource, UNetConfig
from napari_msunet.constants import IGNORED
from napari_msunet.data import load_sources
from napari_msunet.data.truth import Part, own_instances
from napari_msunet.geometry import Region
from napari_msunet.training.scoring.image import ImageScores, add_shapes
from napari_msunet.training.scoring.instance_scores import Overlaps, instance_scores

SIZE = (60, 80)
CONFIG = ModelConfig(classes=("nucleus",), mpp=0.25, scales=(1.0,), fusion="mean", branch=UNetConfig(depth=2, width=4))
NUCLEI = [(30, 20), (30, 42), (30, 64)]  # y, x; radius 11, so that each touches the next


def corners(y, x, radius=11.0, count=48):
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [[float(a), float(b)] for a, b in zip(x + radius * np.cos(angle), y + radius * np.sin(angle), strict=True)]


def ids():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    numbers = np.zeros(SIZE, np.int32)
    for number, (cy, cx) in enumerate(NUCLEI, start=1):
        numbers[(y - cy) ** 2 + (x - cx) ** 2 < 11.2**2] = number
    return numbers


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)
    return path


def outlines(tmp_path):
    shapes = tmp_path / "a.geojson"
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [corners(*n)]},
            "properties": {"classification": {"name": "nucleus"}},
        }
        for n in NUCLEI
    ]
    far = {"type": "Polygon", "coordinates": [[[70, 50], [79, 50], [79, 59]]]}
    features.append({"type": "Feature", "geometry": far, "properties": {"classification": {"name": "ignored"}}})
    shapes.write_text(json.dumps(features))
    return ShapesSource(slide=image(tmp_path / "a.png"), shapes=shapes, mpp=0.25)


def masks(tmp_path):
    image(tmp_path / "i" / "a.png")
    (tmp_path / "m").mkdir()
    Image.fromarray(ids().astype(np.uint8)).save(tmp_path / "m" / "a.png")
    return FolderSource(images=tmp_path / "i", masks=tmp_path / "m", values="instances", mpp=0.25)


def monuseg(tmp_path):
    image(tmp_path / "a.png")
    text = ""
    for nucleus in NUCLEI:
        vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners(*nucleus))
        text += f'<Region Type="0"><Vertices>{vertices}</Vertices></Region>'
    (tmp_path / "a.xml").write_text(
        f'<Annotations MicronsPerPixel="0.25"><Annotation><Regions>{text}</Regions></Annotation></Annotations>'
    )
    return PublishedSource(folder=tmp_path, set="monuseg")


def consep(tmp_path):
    image(tmp_path / "Images" / "train_1.png")
    (tmp_path / "Labels").mkdir()
    savemat(
        tmp_path / "Labels" / "train_1.mat",
        {"inst_map": ids().astype(float), "type_map": (ids() > 0).astype(float)},
    )
    return PublishedSource(folder=tmp_path, set="consep", values="instances")


def lizard(tmp_path):
    image(tmp_path / "Images" / "a.png")
    (tmp_path / "Labels").mkdir()
    found = {"inst_map": ids().astype(float), "id": np.array([[1], [2], [3]]), "class": np.array([[1], [1], [1]])}
    savemat(tmp_path / "Labels" / "a.mat", found)
    return PublishedSource(folder=tmp_path, set="lizard", values="instances")


def pannuke(tmp_path):
    """Each channel counts its own nuclei from 1."""
    truth = np.zeros((1, 256, 256, 6))
    for number, channel in ((1, 0), (2, 0), (3, 2)):
        truth[0, : SIZE[0], : SIZE[1], channel][ids() == number] = 1 + number % 2
    for kind, values in (("images", np.zeros((1, 256, 256, 3))), ("masks", truth)):
        folder = tmp_path / "Fold 1" / kind / "fold1"
        folder.mkdir(parents=True)
        np.save(folder / f"{kind}.npy", values)
    return PublishedSource(folder=tmp_path, set="pannuke", values="instances")


def glas(tmp_path):
    image(tmp_path / "train_1.bmp")
    Image.fromarray(ids().astype(np.uint8)).save(tmp_path / "train_1_anno.bmp")
    return PublishedSource(folder=tmp_path, set="glas", values="instances")


@pytest.mark.parametrize("make", [outlines, masks, monuseg, consep, lizard, pannuke, glas])
def test_touching_objects_keep_their_numbers(tmp_path, make):
    (item,) = load_sources([make(tmp_path)], CONFIG)
    numbers = own_instances(item.truth)
    truth = item.truth.read(item.truth.grid.whole)
    assert len(np.unique(numbers)) == 4  # with one for outside
    assert np.array_equal(numbers > 0, (truth > 0) & (truth != IGNORED))
    perfect = instance_scores(Overlaps.of(numbers, numbers, truth != IGNORED))
    assert perfect["aji"] == perfect["pq"] == 1
    # A prediction of the right pixels, parted where objects touch, has found each of them.
    found = ImageScores({}, predicted=np.where(truth == IGNORED, 0, truth).astype(np.uint8), truth=truth)
    add_shapes(found, item, CONFIG.classes, "parted")
    assert found.instances["dq"] == 1
    assert found.instances["aji"] > 0.9
    item.release()


def test_a_part_of_an_image(tmp_path):
    (item,) = load_sources([masks(tmp_path)], CONFIG)
    left = own_instances(Part(item.truth, keep=Region(0, 0, 60, 40)))
    assert set(np.unique(left)) == {0, 1, 2}
    assert not left[:, 40:].any()
    item.release()
