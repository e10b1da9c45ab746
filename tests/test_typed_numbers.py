"""Numbers as people type them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_msunet.typed_numbers import read_number, read_numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.25", 0.25),
        ("0,25", 0.25),
        (" 0,25\n", 0.25),
        (",5", 0.5),
        ("5.", 5.0),
        ("1e-3", 1e-3),
        ("1,5E-4", 1.5e-4),
        ("−3,5", -3.5),
        ("1 000,5", 1000.5),
        ("1\N{NO-BREAK SPACE}000.5", 1000.5),
        ("1\N{NARROW NO-BREAK SPACE}000\N{NARROW NO-BREAK SPACE}000", 1e6),
        ("1'000'000", 1e6),
        ("1.234.567", 1234567),
        ("1,234,567.5", 1234567.5),
        ("1.234.567,5", 1234567.5),
        ("٠٫٢٥", 0.25),
    ],
)
@pytest.mark.parametrize("point", [".", ","])
def test_a_number_means_the_same_in_every_language(text, number, point):
    assert read_number(text, point=point) == number


@pytest.mark.parametrize("text", ["0.25 µm", "0,25 μm", "0.25um", "0,25 µm µm", "0.25 microns", "0,25 µm/px"])
def test_the_unit_may_be_pasted_with_it(text):
    assert read_number(text, "µm/px") == 0.25


@pytest.mark.parametrize(
    "text", ["", "abc", "0.2.5", "1,00,000", "12 34", "0.2 5", "nan", "inf", "1e999", "1e", "0x10", "1_000", "25 nm"]
)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="is no number"):
        read_number(text, "µm")


def test_one_mark_before_three_digits_is_the_languages_own_or_refused():
    assert read_number("1.125", point=".") == 1.125
    assert read_number("1,125", point=",") == 1.125
    assert read_number("0,125", point=".") == 0.125
    assert read_number("1,125", point=".,") == read_number("1.125", point=".,") == 1.125
    with pytest.raises(ValueError, match=r"1125 or as 1\.125"):
        read_number("1,125", point=".")
    with pytest.raises(ValueError, match="1125 or as 1,125"):
        read_number("1.125", point=",")


def test_whole_numbers():
    assert (
        read_number("1,000", whole=True) == read_number("1.000", whole=True) == read_number("1000", whole=True) == 1000
    )
    assert read_number("2,0", whole=True) == 2
    with pytest.raises(ValueError, match="is no whole number"):
        read_number("2.5", whole=True)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", ()),
        ("0,5", (0.5,)),
        ("0.5", (0.5,)),
        ("1, 2", (1, 2)),
        ("1,2,3", (1, 2, 3)),
        ("0.5,0.25", (0.5, 0.25)),
        ("0,5; 0,25", (0.5, 0.25)),
        ("0,5 0,25", (0.5, 0.25)),
        ("1; 2;", (1, 2)),
    ],
)
def test_several_numbers(text, numbers):
    assert read_numbers(text) == numbers


@pytest.mark.parametrize("text", ["1,2", "0,5, 0,25", "0.5, 0,25", "1.000,5", "1,000.5"])
def test_commas_of_two_meanings_are_refused(text):
    with pytest.raises(ValueError, match="can be read in two ways"):
        read_numbers(text)


@given(st.floats(-1e9, 1e9).map(lambda v: round(v, 6)), st.sampled_from([".", ","]))
def test_what_is_written_is_read(value, mark):
    text = f"{value:.6f}".rstrip("0")
    text = (text + "0" if text.endswith(".") else text).replace(".", mark)
    assert read_number(text, point=mark) == value
