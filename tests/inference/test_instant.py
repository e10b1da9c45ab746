"""Answers while one paints: features, head, the model that is kept, and requests."""

from pathlib import Path

import numpy as np
import pytest
import torch
from inference.test_blended import SeesAll
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import napari_msunet
from napari_msunet.config import AnswerRequest, FiltersConfig, FitHeadJob, HRNetConfig, ModelConfig, UNetConfig
from napari_msunet.errors import ModelError, MsunetError
from napari_msunet.events import Answered, Message, Result, packed, parse_event
from napari_msunet.geometry import Window
from napari_msunet.inference import instant
from napari_msunet.inference.image import predict_image
from napari_msunet.inference.instant import Answers, FeatureTiles, fit_head, with_head
from napari_msunet.jobs.run import run
from napari_msunet.labels import LabelStore
from napari_msunet.labels.stroke_samples import AnnotatedPixels
from napari_msunet.models import MSUNet, build_model, load_model, save_model
from napari_msunet.slide import Slide, open_slide, slide_from_array

SLIDE = Path(napari_msunet.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"
TINY = UNetConfig(depth=2, width=4)


@pytest.fixture(scope="module")
def slide():
    with open_slide(SLIDE) as opened:
        yield opened


def varied(config: ModelConfig, slide: Slide) -> MSUNet:
    """A network whose features vary over the slide: batch statistics of a part of it."""
    torch.manual_seed(3)
    model = build_model(config)
    grid = slide.grid(config.target_mpp)
    inputs = []
    for ratio in config.ratios:
        pixels = slide.read_window(grid.scaled(ratio), Window(96, 144, 384, 384).times(ratio))
        inputs.append(torch.from_numpy(np.moveaxis(pixels, -1, 0)[None] / np.float32(255)))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(inputs, field="same")
    return model.eval()


@pytest.fixture(scope="module")
def model(slide):
    return varied(ModelConfig(classes=("a", "b"), mpp=1.0, scales=(1.0, 0.5), branch=TINY), slide)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    return save_model(model, tmp_path_factory.mktemp("models") / "features.safetensors")


def by_colour(slide: Slide, places: np.ndarray) -> np.ndarray:
    """Classes that the features can tell apart: 0 bright, 1 reddish, 2 bluish."""
    whole = slide.read_window(slide.grid(1.0), slide.grid(1.0).whole).astype(int)
    red, _green, blue = whole[tuple((places / slide.grid(1.0).pixel[0]).astype(int).T)].T
    return np.where(red > 200, 0, np.where(red > blue, 1, 2)).astype(np.uint8)


@pytest.fixture(scope="module")
def samples(slide):
    places = np.random.default_rng(5).uniform((100, 100), (2000, 2000), (900, 2))
    return AnnotatedPixels(places, by_colour(slide, places))


def fitted(tiles: FeatureTiles, samples: AnnotatedPixels, outputs: int = 3):
    placed = tiles.place(samples)
    features = np.concatenate([tiles.vectors(key, pixels) for key, (pixels, _) in placed.items()])
    values = np.concatenate([values for _, values in placed.values()])
    return features, values, fit_head(features, values, tiles.widths, outputs)


def request(path: Path | None, samples: AnnotatedPixels, **changes) -> AnswerRequest:
    values = {"view": (0, 0, 2900, 2200), "near": (1500, 1500)} | changes
    return AnswerRequest(
        model=path, slide=SLIDE, classes=("a", "b"), places=packed(samples.places), values=packed(samples.values),
        **values,
    )  # fmt: skip


@pytest.mark.parametrize("present", [(0, 1, 2), (1, 2)])
def test_a_head_has_the_probabilities_of_scikit_learn(slide, model, samples, present):
    few = np.isin(samples.values, present)
    features, values, head = fitted(
        FeatureTiles(model, slide), AnnotatedPixels(samples.places[few], samples.values[few])
    )
    theirs = make_pipeline(
        StandardScaler(), LogisticRegression(C=instant.REGULARISATION, class_weight="balanced", max_iter=200)
    ).fit(features.astype(np.float64), values)
    ours = torch.softmax(torch.from_numpy(features) @ torch.cat(head.weights, 1).T + head.bias, 1).numpy()
    assert np.abs(ours[:, present] - theirs.predict_proba(features)).max() < 2e-3
    assert head.agreement == pytest.approx(theirs.score(features, values), abs=0.01)
    assert head.agreement > 0.6
    assert ours[:, [n for n in range(3) if n not in present]].max(initial=0) < 1e-3


@pytest.mark.parametrize(
    ("scales", "branch", "shared"),
    [((1.0, 0.5), TINY, False), ((1.0, 2 / 3), TINY, True), ((2.0, 0.25), TINY, False), ((0.5,), TINY, False),
     ((1.0, 0.5), (HRNetConfig(width=4), TINY), False),
     ((1.0, 0.25), (FiltersConfig(), FiltersConfig(sigmas=(0.7, 2.0))), False)],
)  # fmt: skip
def test_tiles_and_pixels_are_those_of_the_kept_model(slide, samples, scales, branch, shared):
    model = varied(ModelConfig(classes=("x",), mpp=1.5, scales=scales, branch=branch, shared=shared), slide)
    tiles = FeatureTiles(model, slide)
    features, _, head = fitted(tiles, samples)
    own = instant._own_heads(model, features, np.ones(len(features), np.uint8) + (features[:, 0] > 0), tiles.widths, 3)
    kept = with_head(model, ("a", "b"), head, own)
    key = (0, 1) if scales[0] > 0 else (0, 0)
    window = tiles.window(key).intersection(tiles.grid.whole)
    whole = predict_image(kept, slide, window)["fused"]
    logits = tiles.logits(key, head)[0, :, : window.height, : window.width]
    ours = torch.softmax(logits, 0).numpy()
    assert whole.std() > 0.1
    assert np.abs(ours - whole).max() < 2e-3  # float16 has eleven bits
    two = np.sort(whole, 0)
    clear = two[-1] - two[-2] > 4e-3
    assert (tiles.labels(key, head) == whole.argmax(0))[clear].all()
    pixels = np.array([0, 7, tiles.side * 3 + 11, tiles.side * (window.height - 1)])
    again = tiles.vectors(key, pixels) @ torch.cat(head.weights, 1).numpy().T + head.bias.numpy()
    there = logits.numpy()[:, pixels // tiles.side, pixels % tiles.side].T
    assert np.abs(again - there).max() < 1e-3


def test_kept_features_stay_within_their_memory_and_the_oldest_go_first(slide, model):
    one = FeatureTiles(model, slide).tile_bytes
    tiles = FeatureTiles(model, slide, memory=int(2.5 * one))
    for key in ((0, 0), (0, 1), (0, 0), (1, 0)):
        tiles.features(key)
    assert tiles.computed == 3
    assert tiles.used <= tiles.memory
    assert [(0, 0) in tiles, (0, 1) in tiles, (1, 0) in tiles] == [True, False, True]


def test_samples_of_tiles_that_went_are_still_known(slide, model, samples):
    tiles = FeatureTiles(model, slide, memory=int(1.5 * FeatureTiles(model, slide).tile_bytes))
    _, _, head = fitted(tiles, samples)
    count = tiles.computed
    _, _, again = fitted(tiles, samples)
    assert tiles.computed == count > 1
    assert torch.equal(again.bias, head.bias)
    fewer = AnnotatedPixels(samples.places[::2], samples.values[::2])
    assert all(tiles.known(key, pixels) for key, (pixels, _) in tiles.place(fewer).items())


def test_an_answer_begins_at_the_stroke_and_what_was_computed_is_kept(path, samples):
    answers = Answers()
    near = np.hypot(*(samples.places - 1500).T) < 300
    asked = request(path, AnnotatedPixels(samples.places[near], samples.values[near]))
    found = [parse_event(event.model_dump_json()) for event in answers.answer(asked)]
    *tiles, last = found
    assert [type(event) for event in tiles] == [Answered] * 9
    assert isinstance(last, Result)
    assert last.values["computed"] == 9

    def distance(event: Answered) -> float:
        return max(abs((event.y + 256) * event.pixel[0] - 1500), abs((event.x + 256) * event.pixel[1] - 1500))

    assert distance(tiles[0]) == min(map(distance, tiles))
    assert distance(tiles[0]) < distance(tiles[-1])
    assert len({event.array().tobytes() for event in tiles}) > 5
    again = list(answers.answer(request(path, samples)))
    assert again[-1].values["computed"] == 0
    assert again[-1].values["samples"] == len(samples)
    whole = np.zeros(tiles[0].shape, np.uint8)
    for event in again[:9]:
        whole[event.y : event.y + event.rows, event.x : event.x + event.columns] = event.array()
    assert len(np.unique(whole)) == 3


def test_the_first_answer_does_not_wait_for_samples_elsewhere(path, samples, monkeypatch):
    monkeypatch.setattr(instant, "FIRST_TILES", 1)
    answers = Answers()
    asked = request(path, samples, view=(1400, 1400, 200, 200), near=(1500, 1500))
    order = []
    for event in answers.answer(asked):
        order.append((type(event), answers._tiles[1].computed))
    assert [kind for kind, _ in order[:2]] == [Answered, Answered]  # of the samples there, then of all
    assert order[0][1] == 1
    assert order[-1][1] > 3


def test_a_large_view_is_answered_around_the_stroke(path, samples, monkeypatch):
    monkeypatch.setattr(instant, "MOST_PIXELS", 2 * 512 * 512)
    *tiles, message, _ = Answers().answer(request(path, samples))
    assert len({(event.y, event.x) for event in tiles}) == 2
    assert isinstance(message, Message)
    assert "zoom in" in message.text


def test_without_a_model_fixed_filters_answer_and_are_kept(slide, samples, tmp_path):
    few = (samples.places < 1000).all(1)
    near = AnnotatedPixels(samples.places[few], samples.values[few])
    *tiles, result = Answers().answer(request(None, near, view=(100, 100, 800, 800)))
    assert tiles[0].pixel == (1.0, 1.0)
    assert result.values["agreement"] > 0.8
    assert instant.filters_model(slide).config.mpp == pytest.approx(0.499)
    fine = slide_from_array(np.zeros((64, 64, 2), np.uint16), mpp=0.1)
    assert (instant.filters_model(fine).config.mpp, instant.filters_model(fine).config.channels) == (0.4, 2)
    assert instant.filters_model(slide_from_array(np.zeros((64, 64), np.uint8), mpp="px")).config.mpp is None


@pytest.mark.parametrize("painted", [(1,), ()])
def test_strokes_of_one_kind_are_no_answer_but_the_view_is_prepared(path, samples, painted):
    few, answers = np.isin(samples.values, painted), Answers()
    asked = request(path, AnnotatedPixels(samples.places[few], samples.values[few]), view=(1400, 1400, 900, 200))
    message, result = answers.answer(asked)
    assert "Paint a second class" in message.text
    assert result.values["computed"] == 2
    assert list(answers.answer(asked))[-1].values["computed"] == 0


def test_what_cannot_be_answered_is_one_sentence(slide, path, samples, tmp_path):
    with pytest.raises(MsunetError, match="do not fit together"):
        list(Answers().answer(request(path, AnnotatedPixels(samples.places[:5], samples.values))))
    with pytest.raises(ModelError, match=r"one tile of this model take .* GB"):
        list(Answers().answer(request(path, samples, memory=1e-4)))
    other = build_model(ModelConfig(classes=("a",), mpp=1.0, channels=2, branch=TINY)).eval()
    with pytest.raises(ModelError, match="expects 2 channels"):
        list(Answers().answer(request(save_model(other, tmp_path / "two.safetensors"), samples)))
    joint = build_model(ModelConfig(classes=("a",), mpp=1.0, fusion="inject", scales=(1, 0.5), branch=TINY)).eval()
    with pytest.raises(ModelError, match="choose a model of another fusion"):
        FeatureTiles(joint, slide)
    unbounded = build_model(ModelConfig(classes=("a",), mpp=1.0, scales=(1.0,), branch=TINY))
    unbounded.branches[0].network = SeesAll(unbounded.branches[0].network)
    with pytest.raises(ModelError, match="choose a model with batch norm"):
        FeatureTiles(unbounded.eval(), slide)


def test_a_slide_that_goes_is_one_sentence_and_the_next_answer_works(path, samples, tmp_path):
    moved = tmp_path / "moved.svs"
    moved.write_bytes(SLIDE.read_bytes())
    asked = request(path, samples, view=(0, 0, 400, 400))
    gone, answers = asked.model_copy(update={"slide": moved}), Answers()
    assert list(answers.answer(gone))
    moved.unlink()
    with pytest.raises(MsunetError, match=r"moved\.svs"):
        list(answers.answer(gone))
    assert isinstance(list(answers.answer(asked))[-1], Result)


def test_a_kept_head_is_a_model_file_like_any_other(slide, path, samples, tmp_path):
    labels = tmp_path / "annotation.ome.zarr"
    with LabelStore.create(labels, classes=("red", "blue", "unused"), kind="annotation", slide=slide) as store:
        for (y, x), value in zip(samples.places.astype(int), samples.values, strict=True):
            store.write(Window(y - 2, x - 2, 4, 4), np.full((4, 4), value or 255, np.uint8))
    out = tmp_path / "models" / "kept.safetensors"
    *_, result = run(FitHeadJob(model=path, slide=SLIDE, labels=labels, out=out))
    kept = load_model(out)
    assert kept.config.classes == ("red", "blue", "unused")
    assert kept.config.fusion == "concat"
    assert result.files == {"model": str(out)}
    assert set(result.values["samples"]) == {"background", "red", "blue"}
    assert set(result.values["scales"]) == {"scale 1", "scale 1/2"}
    assert 0.5 < result.values["agreement"] <= 1
    maps = predict_image(kept, slide, Window(200, 200, 300, 300))
    assert {*maps} == {"fused", "scale 1", "scale 1/2"}
    assert maps["fused"][3].max() < 1e-3  # nothing is labelled as a class that was never painted
    assert len(np.unique(maps["fused"].argmax(0))) == 3
