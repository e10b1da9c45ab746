"""The two fields of view: which windows the branches read, and that both put the target in the same place."""

from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from napari_msunet.config import ModelConfig, UNetConfig
from napari_msunet.errors import ModelError
from napari_msunet.geometry import MAX_SCALE_TERM, Window
from napari_msunet.models import build_model, input_windows
from napari_msunet.models.windows import concentric_multiple

RATIOS = sorted({Fraction(p, q) for p in range(1, MAX_SCALE_TERM + 1) for q in range(1, MAX_SCALE_TERM + 1)})


def config_of(*scales, **changes):
    return ModelConfig(
        **{"classes": ("a",), "mpp": 0.5, "scales": scales, "branch": UNetConfig(depth=1, width=4), **changes}
    )


def test_windows_of_the_usual_scales():
    config = config_of(1, 0.5, 0.25, 2)
    window = Window(64, -32, 32, 64)
    assert input_windows(config, window, "same") == [
        window,
        Window(32, -16, 16, 32),
        Window(16, -8, 8, 16),
        Window(128, -64, 64, 128),
    ]
    assert input_windows(config, window, "concentric") == [
        window,
        Window(32 - 8, -16 - 16, 32, 64),
        Window(16 - 12, -8 - 24, 32, 64),
        Window(128, -64, 64, 128),
    ]
    assert input_windows(config, window) == input_windows(config, window, "same")
    concentric = config.model_copy(update={"field": "concentric"})
    assert input_windows(concentric, window) == input_windows(config, window, "concentric")


@settings(max_examples=60, deadline=None)
@given(scales=st.sets(st.sampled_from(RATIOS), min_size=1, max_size=3), y=st.integers(-9, 9), units=st.integers(1, 4))
def test_concentric_windows_share_their_centre(scales, y, units):
    config = config_of(*map(float, scales))
    lines = concentric_multiple(config) * 840  # a multiple of every whole number up to 8
    window = Window(y * lines, lines, units * lines, lines)
    assume(lines < 10**7)
    for ratio, mine in zip(config.ratios, input_windows(config, window, "concentric"), strict=True):
        assert mine.shape == (window.shape if ratio < 1 else window.times(ratio).shape)
        for start, side, target_start, target_side in (
            (mine.y, mine.height, window.y, window.height),
            (mine.x, mine.width, window.x, window.width),
        ):
            assert Fraction(2 * start + side) == ratio * (2 * target_start + target_side)


def test_windows_between_pixels_are_refused():
    with pytest.raises(ModelError, match="multiples of 4"):
        input_windows(config_of(1, 0.25), Window(0, 2, 16, 16), "same")
    with pytest.raises(ModelError, match="multiples of 8"):
        input_windows(config_of(1, 0.25), Window(0, 0, 12, 16), "concentric")


@pytest.mark.parametrize(("scale", "multiple"), [(0.5, 4), (0.25, 8), (0.75, 8), (2 / 3, 6), (1 / 3, 3), (5 / 7, 7)])
def test_the_multiple_that_fits_is_the_smallest(scale, multiple):
    config = config_of(1, scale)
    assert concentric_multiple(config) == multiple
    model = build_model(config).eval()
    for size in range(1, 2 * multiple + 1):
        inputs = [torch.rand(1, 3, size, size)] * 2
        if size % multiple == 0:
            assert model(inputs, field="concentric").shape == (1, 2, size, size)
        else:
            with pytest.raises(ModelError, match=f"multiples of {multiple}"):
                model(inputs, field="concentric")


def test_training_takes_the_configs_field_and_evaluation_the_same_field():
    model = build_model(config_of(1, 0.5, field="concentric"))
    wide, same = [torch.rand(2, 3, 16, 16)] * 2, [torch.rand(2, 3, 16, 16), torch.rand(2, 3, 8, 8)]
    assert model(wide).shape == (2, 2, 16, 16)
    with pytest.raises(ModelError, match="concentric"):
        model(same)
    assert model.eval()(same).shape == (2, 2, 16, 16)
    with pytest.raises(ModelError, match="same"):
        model(wide)
    assert model.train()(same, field="same").shape == (2, 2, 16, 16)


@pytest.mark.parametrize("scale", [0.5, 0.25, 0.75, 2 / 3])
@pytest.mark.parametrize("fusion", ["mean", "attention", "inject", "pyramid"])
def test_concentric_and_same_agree_where_both_see_enough(calibrated, images, scale, fusion):
    """Well inside a large window, more context around it changes nothing: the target is cut from the right place."""
    model = calibrated(scales=(1.0, scale), fusion=fusion, branch=UNetConfig(depth=1, width=4))
    ratio, margin = model.config.ratios[1], model.margin
    size = 48 * -(-(3 * margin) // 48)  # fits all of these scales, and puts the offset on the stride
    window = Window(0, 0, size, size)
    fine, wide = images(model.config, size, size, batch=1, field="concentric")
    same = window.times(ratio)
    corner = (size - same.height) // 2
    assert corner % 2 == 0
    narrow = wide[..., corner : corner + same.height, corner : corner + same.width]
    inner = (..., slice(margin, -margin), slice(margin, -margin))
    with torch.no_grad():
        a, b = model([fine, narrow], field="same"), model([fine, wide], field="concentric")
    assert a[inner].std() > 0.05
    torch.testing.assert_close(a[inner], b[inner], rtol=0, atol=1e-4)
    assert (a - b).abs().max() > 1e-2  # the context at the edge does count


@pytest.mark.parametrize(
    "changes", [{"upscale": 2}, {"finest_scale": 1.0}, {"upscale": 2, "finest_scale": 0.5}], ids=str
)
def test_windows_of_joint_models_stand_for_the_target(changes):
    """Whatever is read, at whatever scale, lies around the centre of the target, and fills its field or more."""
    config = config_of(2, 1, 0.5, **changes)
    size = concentric_multiple(config) * config.size_multiple
    window = Window(size, 2 * size, size, 3 * size)
    for field in ("same", "concentric"):
        for i, mine in enumerate(input_windows(config, window, field)):
            ratio = config.input_ratios[i]
            assert Fraction(2 * mine.y + mine.height) == ratio * (2 * window.y + window.height)
            assert Fraction(2 * mine.x + mine.width) == ratio * (2 * window.x + window.width)
            wide = field == "concentric" and config.ratios[i] < 1
            assert mine.width / ratio == 3 * size * (2 if wide else 1)
    assert config.target_mpp * config.upscale == config.mpp
