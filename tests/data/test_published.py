"""Public sets as they were published: the real files where they are at hand, else tiny ones in the same layout."""

import json

import numpy as np
import pytest
import tifffile
from data.making import disc
from PIL import Image
from scipy.io import savemat

from napari_msunet.config import ModelConfig, PublishedSource, UNetConfig
from napari_msunet.constants import IGNORED
from napari_msunet.data import load_sources
from napari_msunet.data.published import recognised
from napari_msunet.errors import MissingMppError, SourceError
from napari_msunet.geometry import Window

WHOLE = Window(0, 0, 64, 64)


def model(*classes, channels=3):
    return ModelConfig(classes=classes, mpp=1.0, scales=(1.0,), channels=channels, branch=UNetConfig(depth=1, width=2))


def load(folder, *classes, channels=3, **options):
    said = []
    source = PublishedSource(folder=folder, **options)
    return load_sources([source], model(*classes, channels=channels), lambda level, text: said.append(text)), said


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def image(seed=0, shape=(64, 64)):
    return disc(shape, seed)


def truth(item):
    return item.truth.read(item.truth.grid.whole)


# -------------------------------------------------------------------------------------------------- made in the layout


@pytest.fixture
def pannuke(tmp_path):
    rng = np.random.default_rng(0)
    for fold in (1, 2):
        pixels = rng.integers(0, 256, (3, 64, 64, 3)).astype(np.float64)
        masks = np.zeros((3, 64, 64, 6))
        masks[:, :10, :10, 0] = 7
        masks[:, 20:30, :10, 4] = 3
        masks[..., 5] = ~(masks[..., :5] > 0).any(-1)
        for name, values in (("images", pixels), ("masks", masks)):
            path = tmp_path / f"Fold {fold}" / name / f"fold{fold}" / f"{name}.npy"
            path.parent.mkdir(parents=True)
            np.save(path, values)
        np.save(tmp_path / f"Fold {fold}" / "images" / f"fold{fold}" / "types.npy", np.array(["Colon"] * 3))
    return tmp_path


def test_pannuke(pannuke):
    assert recognised(pannuke) == "pannuke"
    items, said = load(pannuke, "epithelial", "neoplastic")
    assert [i.name for i in items[:2]] == ["fold1_0000", "fold1_0001"]
    assert {i.group for i in items} == {"fold1", "fold2"}
    assert items[3].slide.dtype == np.uint8
    assert items[0].slide.mpp == (0.25, 0.25)
    values = truth(items[5])
    assert (values[:10, :10] == 2).all()
    assert (values[20:30, :10] == 1).all()
    assert (values == 0).sum() == 64 * 64 - 200
    assert any("no class inflammatory" in text for text in said)
    assert len(load(pannuke, "nucleus", part="Fold 2")[0]) == 3
    expected = np.load(pannuke / "Fold 2/images/fold2/images.npy")[1].astype(np.uint8)
    assert np.array_equal(items[4].slide.read_window(items[4].slide.grid(), WHOLE), expected)


def test_pannuke_is_never_unpickled(pannuke):
    np.save(pannuke / "Fold 1/images/fold1/images.npy", np.array([{}], object))
    with pytest.raises(SourceError, match="plain NumPy array"):
        load(pannuke, "nucleus")


def test_consep(tmp_path):
    for seed, part in enumerate(("Train", "Test")):
        pixels, mask = image(seed)
        save(tmp_path / part / "Images" / f"{part.lower()}_1.png", pixels)
        save(tmp_path / part / "Overlay" / f"{part.lower()}_1.png", pixels)
        types = np.where(mask, 4, 0).astype(float)
        types[:5, :5] = 6
        (tmp_path / part / "Labels").mkdir()
        savemat(tmp_path / part / "Labels" / f"{part.lower()}_1.mat", {"inst_map": mask * 1.0, "type_map": types})
    assert recognised(tmp_path) == "consep"
    items, _ = load(tmp_path, "tumour", "stroma", values={"malignant epithelial": "tumour", "muscle": "stroma"})
    assert sorted(i.name for i in items) == ["test_1", "train_1"]
    assert set(np.unique(truth(items[0])).tolist()) == {0, 1, 2}
    assert (truth(items[0])[:5, :5] == 2).all()
    assert [i.name for i in load(tmp_path, "nucleus", part="Train/")[0]] == ["train_1"]


def test_lizard(tmp_path):
    pixels, mask = image()
    objects = np.where(mask, 5, 0)
    objects[:6, :6] = 9
    save(tmp_path / "Lizard_Images1" / "consep_1.png", pixels)
    (tmp_path / "Lizard_Labels" / "Labels").mkdir(parents=True)
    labels = {"inst_map": objects, "id": [[5], [9]], "class": [[3], [1]], "bbox": [[0, 1, 2, 3]] * 2}
    savemat(tmp_path / "Lizard_Labels" / "Labels" / "consep_1.mat", labels)
    assert recognised(tmp_path) == "lizard"
    (item,), _ = load(tmp_path, "lymphocyte", "neutrophil")
    assert np.array_equal(truth(item) == 1, objects == 5)
    assert np.array_equal(truth(item) == 2, objects == 9)
    assert item.slide.mpp == (0.5, 0.5)


def glas(folder, grades=True):
    for number, name in enumerate(("train_1", "testA_1")):
        pixels, mask = image(number)
        save(folder / f"{name}.bmp", pixels)
        save(folder / f"{name}_anno.bmp", mask.astype(np.uint8) * np.uint8(3))
    if grades:
        lines = ["name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"]
        lines += ["train_1,4, benign, healthy", "testA_1,9, malignant, poorly differentiated"]
        (folder / "Grade.csv").write_text("\n".join(lines))


def test_glas(tmp_path):
    glas(tmp_path)
    assert recognised(tmp_path) == "glas"
    items, said = load(tmp_path, "gland")
    assert {i.name: i.group for i in items} == {"train_1": "patient 4", "testA_1": "patient 9"}
    assert all(np.array_equal(np.unique(truth(i)), [0, 1]) for i in items)
    assert any("are read as gland" in text for text in said)
    items, _ = load(tmp_path, "benign", "malignant")
    assert {i.name: int(truth(i).max()) for i in items} == {"train_1": 1, "testA_1": 2}


def test_glas_without_its_table(tmp_path):
    glas(tmp_path, grades=False)
    items, said = load(tmp_path, "gland")
    assert items[0].group is None
    assert any("no Grade.csv" in text for text in said)


def test_tupac16(tmp_path):
    for case in ("01", "02"):
        save(tmp_path / "mitoses_image_data" / case / "01.tif", image()[0])
    table = tmp_path / "mitoses_ground_truth" / "01" / "01.csv"
    table.parent.mkdir(parents=True)
    table.write_text("20,40\n60,2\n")
    assert recognised(tmp_path) == "tupac16"
    items, _ = load(tmp_path, "mitosis", radius=2.0)
    values = truth(items[0])
    assert items[0].group == "case 01"
    assert (values[20, 40], values[20, 47], values[20, 49], values[60, 2], values[40, 20]) == (1, 1, 0, 1, 0)
    assert values.sum() == pytest.approx(np.pi * 64 + 150, rel=0.15)
    assert not truth(items[1]).any()
    table.write_text("here\n")
    with pytest.raises(SourceError, match="row and a column"):
        load(tmp_path, "mitosis")


def test_isbi2012(tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random((4, 64, 64)) > 0.3).astype(np.uint8) * 255
    tifffile.imwrite(
        tmp_path / "train-volume.tif", rng.integers(0, 256, (4, 64, 64), np.uint8), photometric="minisblack"
    )
    tifffile.imwrite(tmp_path / "train-labels.tif", labels, photometric="minisblack")
    assert recognised(tmp_path) == "isbi2012"
    items, _ = load(tmp_path, "membrane", channels=1)
    assert len(items) == 4
    assert np.array_equal(truth(items[2]) == 1, labels[2] == 0)
    assert np.array_equal(truth(items[2]) == 0, labels[2] == 255)
    items, _ = load(tmp_path, "membrane", "cell", channels=1)
    assert np.array_equal(truth(items[0]) == 2, labels[0] == 255)


ASAP = """<?xml version="1.0"?><ASAP_Annotations><Annotations>{}</Annotations><AnnotationGroups/></ASAP_Annotations>"""


def outline(group, left, top, right, bottom):
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    places = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(corners))
    return (
        f'<Annotation Name="Annotation 0" Type="Polygon" PartOfGroup="{group}"><Coordinates>{places}</Coordinates>'
        "</Annotation>"
    )


def test_camelyon16(tmp_path):
    pixels = np.full((400, 600, 3), 245, np.uint8)
    pixels[50:350, 50:550] = (170, 70, 160)
    for name in ("tumor/tumor_001", "normal/normal_001", "test_001"):
        path = tmp_path / f"{name}.tif"
        path.parent.mkdir(exist_ok=True)
        pixels[0, 0] = len(name)  # no two are the same slide
        tifffile.imwrite(
            path, pixels, tile=(64, 64), photometric="rgb", resolution=(1e4 / 2, 1e4 / 2), resolutionunit=3
        )
    (tmp_path / "lesion_annotations").mkdir()
    drawn = outline("_0", 100, 100, 200, 200) + outline("_2", 120, 120, 140, 140) + outline("_1", 300, 60, 340, 90)
    (tmp_path / "lesion_annotations" / "Tumor_001.xml").write_text(ASAP.format(drawn))
    assert recognised(tmp_path) == "camelyon16"
    items, said = load(tmp_path, "tumor", within="all")
    assert {i.name: i.group for i in items} == {"normal_001": "normal_001", "tumor_001": "tumor_001"}
    assert any("1 slides" in text for text in said)
    values = truth(items[1])
    assert (values[150, 150], values[130, 130], values[70, 320], values[5, 5]) == (1, 0, 1, 0)
    assert (values == 1).sum() == 100 * 100 - 400 + 40 * 30
    tissue, _ = load(tmp_path, "tumor")
    assert truth(tissue[1])[5, 5] == IGNORED
    assert truth(tissue[1])[250, 250] == 0
    assert not (truth(tissue[0]) == 1).any()


def test_kumar(tmp_path):
    pixels, _ = image()
    name = "TCGA-18-5592-01Z-00-DX1"
    (tmp_path / "Tissue Images").mkdir()
    tifffile.imwrite(tmp_path / "Tissue Images" / f"{name}.tif", pixels)
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((10, 10), (30, 10), (30, 20), (10, 20)))
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / f"{name}.xml").write_text(
        f'<Annotations MicronsPerPixel="0.252"><Annotation><Regions><Region Type="0"><Vertices>{vertices}</Vertices>'
        "</Region></Regions></Annotation></Annotations>"
    )
    assert recognised(tmp_path) == "monuseg"
    (item,), _ = load(tmp_path, "nucleus")
    assert item.group == "TCGA-18-5592"
    assert item.slide.mpp == (0.252, 0.252)
    assert truth(item).sum() == 200


def test_bids_made(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    micr = tmp_path / "sub-a" / "micr"
    micr.mkdir(parents=True)
    save(micr / "sub-a_sample-1_SEM.png", image()[0][..., 0])
    (micr / "sub-a_SEM.json").write_text(json.dumps({"PixelSize": [100, 200], "PixelSizeUnits": "nm"}))
    labels = tmp_path / "derivatives" / "labels" / "sub-a" / "micr"
    save(labels / "sub-a_sample-1_SEM_seg-axon-manual.png", np.eye(64, dtype=np.uint8) * np.uint8(255))
    (item,), _ = load(tmp_path, "axon", channels=1)
    assert item.slide.mpp == (0.2, 0.1)
    assert truth(item).sum() == 64
    (micr / "sub-a_SEM.json").unlink()
    with pytest.raises(MissingMppError, match="gives no µm per pixel"):
        load(tmp_path, "axon", channels=1)
    assert load(tmp_path, "axon", channels=1, mpp=0.1)[0]


# ------------------------------------------------------------------------------------------------------ the real files


def test_bids_real(shared_data):
    folder = shared_data / "axon-sem"
    assert recognised(folder) == "bids"
    items, _ = load(folder, "axon", "myelin", channels=1)
    assert len(items) == 10
    assert len({i.group for i in items}) == 8
    by_name = {i.name: i for i in items}
    assert by_name["sub-rat3_sample-data9_SEM"].slide.mpp == (0.1, 0.1)  # from the JSON of the subject
    assert by_name["sub-rat1_sample-data1_SEM"].slide.mpp == (0.18, 0.18)
    both = np.asarray(
        Image.open(folder / "derivatives/labels/sub-rat1/micr/sub-rat1_sample-data1_SEM_seg-axonmyelin-manual.png")
    )
    found = truth(by_name["sub-rat1_sample-data1_SEM"])
    assert (found == np.select([both > 191, both > 63], [1, 2], 0)).mean() > 0.999


@pytest.mark.slow
def test_monuseg_real(shared_data):
    folder = shared_data / "monuseg-train"
    assert recognised(folder) == "monuseg"
    items, said = load(folder, "nucleus", values="instances")
    assert len(items) == 13
    assert any("17 images" in text for text in said)
    assert {i.name: i for i in items}["TCGA-21-5784-01Z-00-DX1"].slide.mpp == pytest.approx((0.2527, 0.2527))
    for item in items[:3]:
        mask = np.asarray(Image.open(folder / "masks" / f"{item.name}.png")) > 0
        ours = truth(item) == 1
        assert 2 * (mask & ours).sum() / (mask.sum() + ours.sum()) > 0.93  # the masks part touching nuclei


# ------------------------------------------------------------------------------------------------------------ bad input


def test_what_cannot_be_used(tmp_path, pannuke):
    with pytest.raises(SourceError, match="There is no folder"):
        load(tmp_path / "nowhere", "nucleus")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="none of the sets"):
        load(tmp_path / "empty", "nucleus")
    with pytest.raises(SourceError, match="no image of the set pannuke with 'Fold 9'"):
        load(pannuke, "nucleus", part="Fold 9")
    with pytest.raises(SourceError, match="none is the same"):
        load(pannuke, "gland", "vessel")
    with pytest.raises(SourceError, match="plasma is neither"):
        load(pannuke, "gland", values={"plasma": "gland"})
    (pannuke / "Fold 1/masks/fold1/masks.npy").unlink()
    with pytest.raises(SourceError, match=r"no masks\.npy"):
        load(pannuke, "nucleus")


def test_a_damaged_matlab_file(tmp_path):
    save(tmp_path / "a.png", image()[0])
    (tmp_path / "a.mat").write_bytes(b"nothing" * 30)
    with pytest.raises(SourceError, match="cannot be read as a MATLAB file"):
        load(tmp_path, "nucleus", set="lizard")
