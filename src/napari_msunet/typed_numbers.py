"""Reading numbers that people type and paste, with a decimal point or comma, in any language of the system."""

from __future__ import annotations

import math
import re
import unicodedata

_APART = "\\s'’ʼ`´"
"""The separators of groups of three digits: any space, and the Swiss apostrophe."""
_PLAIN = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?")
_GROUP = re.compile(r"[1-9]\d{0,2}")
_SAME = str.maketrans({"\N{MINUS SIGN}": "-", "\u066b": ".", "\u066c": "'", "\N{MICRO SIGN}": "μ"})
_MICROMETRES = ("μm", "um", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres")
_UNITS = {"μm": _MICROMETRES, "μm/px": ("μm/px", "um/px", "μm/pixel", "um/pixel", "mpp", *_MICROMETRES)}


def read_number(text: str, unit: str = "", point: str = ".", whole: bool = False) -> float:
    """The number in a text: 0.25 and 0,25 are both a quarter.

    Parameters
    ----------
    text : str
        The typed or pasted text, which may have spaces, the unit, an exponent, and groups of three digits.
    unit : str
        The unit that may follow the number.
    point : str
        The decimal mark of the person's language: "." or ","; ".," where no thousands are expected. It decides where a
        single mark with three digits after it could also separate thousands.
    whole : bool
        Whether the number is a whole one, so that 1,000 and 1.000 are a thousand.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the text is no number, or one that can be read in two ways; the message is a sentence.
    """
    shown = " ".join(text.split())
    bare = _without_unit(_ascii(text), _ascii(unit))
    if (two := _two_readings(bare, point, whole)) is not None:
        raise ValueError(f'"{shown}" can be read as {two[0]} or as {two[1]}; write one of these.')
    number = _read(bare, whole)
    if number is None:
        kind = "whole number, such as 12" if whole else "number, such as 0.25 or 0,25"
        raise ValueError(f'"{shown}" is no {kind}{f" (in {unit})" if unit else ""}.')
    return number


def read_numbers(text: str) -> tuple[float, ...]:
    """One number or several, separated by semicolons or spaces, or by commas where no comma can be a decimal one.

    Raises
    ------
    ValueError
        If one is no number, or a comma may be a decimal mark or a separator; the message is a sentence.
    """
    text = _ascii(text).rstrip(";, ")
    mixed = f'The commas in "{text}" can be read in two ways; part the numbers by semicolons, such as 0.5; 0.25.'
    if ";" in text:
        parts = text.split(";")
    elif re.search(r",\s", text):
        parts = re.split(r"\s*,\s+|\s+", text)
        if any("," in part for part in parts):
            raise ValueError(mixed)
    else:
        parts = text.split()
        if any(part.count(",") > 1 for part in parts) or ("," in text and "." in text):
            if re.search(r"\.\d{3},|,\d{3}(?!\d)", text):
                raise ValueError(mixed)
            parts = re.split(r"[,\s]+", text)
        elif len(parts) == 1 and "," in text and not re.match(r"[+-]?0?,", text):
            raise ValueError(mixed)
    return tuple(read_number(part) for part in parts if part.strip())


def _ascii(text: str) -> str:
    """The text with digits, minus signs and marks of other scripts as ASCII, and without spaces at the ends."""
    out = []
    for sign in text.translate(_SAME).strip():
        digit = unicodedata.decimal(sign, None)
        out.append(sign if digit is None else str(digit))
    return "".join(out)


def _without_unit(text: str, unit: str) -> str:
    """The text without the unit at its end, even if it is there twice, such as after pasting before a field's unit."""
    names = sorted({unit, *_UNITS.get(unit, ())} - {""}, key=len, reverse=True)
    while True:
        name = next((n for n in names if text.lower().endswith(n.lower())), None)
        if name is None:
            return text
        text = text[: -len(name)].rstrip()


def _two_readings(text: str, point: str, whole: bool) -> tuple[str, str] | None:
    """The two meanings of a number such as 1,125, where the language does not decide between them."""
    found = re.fullmatch(r"([+-]?[1-9]\d{0,2})([.,])(\d{3})", text)
    if found is None or whole or found[2] in point:
        return None
    return f"{found[1]}{found[3]}", f"{found[1]}{point}{found[3]}"


def _read(text: str, whole: bool) -> float | None:
    sign, text = (text[0], text[1:].lstrip()) if text[:1] in ("+", "-") else ("", text)
    mantissa, e, power = text.lower().partition("e")
    marks = {mark for mark in ".," if mark in mantissa}
    if len(marks) == 2:  # the last mark is the decimal one, the others separate thousands
        last = max(marks, key=mantissa.rindex)
        plain = _joined(mantissa, (marks - {last}).pop(), last)
    elif marks:
        mark = marks.pop()
        thousands = whole and re.fullmatch(r"[1-9]\d{0,2}[.,]\d{3}", mantissa)
        plain = _joined(mantissa, mark, "") if thousands or mantissa.count(mark) > 1 else _joined(mantissa, "", mark)
    else:
        plain = _joined(mantissa, "", "")
    plain = f"{plain}{e}{power}"
    if not _PLAIN.fullmatch(plain):
        return None
    number = float(sign + plain)
    return number if math.isfinite(number) and not (whole and number % 1) else None


def _joined(text: str, apart: str, decimal: str) -> str:
    """A number with a decimal point and without groups; a text that is no number where groups do not have three
    digits."""
    before, mark, after = text.partition(decimal) if decimal else (text, "", "")
    groups = re.split(f"[{_APART}{re.escape(apart)}]", before)
    if len(groups) > 1 and not (_GROUP.fullmatch(groups[0]) and all(re.fullmatch(r"\d{3}", g) for g in groups[1:])):
        return "no number"
    if decimal and decimal in after:
        return "no number"
    return "".join(groups) + (f".{after}" if mark else "")
