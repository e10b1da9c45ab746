"""Rows of numbers, with what was asked of them."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def row(what: str, value: Any, unit: str = "", at_least: float | None = None, at_most: float | None = None) -> Row:
    """One number; `at_least` or `at_most` is the target of issue 10."""
    found: Row = {"what": what, "value": round(value, 4) if isinstance(value, float) else value, "unit": unit}
    if at_least is not None:
        found |= {"target": f"≥ {at_least:g}", "met": bool(value >= at_least)}
    if at_most is not None:
        found |= {"target": f"≤ {at_most:g}", "met": bool(value <= at_most)}
    return found


def table(results: dict[str, list[Row]]) -> str:
    """All parts as text."""
    lines = [f"{'':12} {'':74} {'measured':>16} {'asked':>8}"]
    for part, rows in results.items():
        for found in rows:
            value = f"{found['value']:g}" if isinstance(found["value"], float) else str(found["value"])
            mark = "" if "met" not in found else "  yes" if found["met"] else "  NO"
            measured = f"{value} {found['unit']}".strip()
            lines.append(f"{part:12} {found['what']:74} {measured:>16} {found.get('target', ''):>8}{mark}")
    return "\n".join(lines)
