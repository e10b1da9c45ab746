"""How the dock looks, in the colours of napari's theme."""

from __future__ import annotations

from napari.utils.theme import get_theme

WIDTH = 360
"""Width of the dock in pixels: what fits beside a slide on a screen of 1280."""

STATES = {"done": "✓", "next": "", "waiting": ""}


def colours(theme: str) -> dict[str, str]:
    """The colours of a napari theme as ``#rrggbb``, by what they are for."""
    chosen = get_theme(theme)
    names = ("background", "foreground", "primary", "secondary", "highlight", "text", "icon", "warning", "current")
    found = {name: getattr(chosen, name).as_hex() for name in names}
    dark = sum(chosen.background.as_rgb_tuple()[:3]) < 3 * 128
    found["done"] = "#5bbf7a" if dark else "#1f8a48"
    found["accent"] = "#5aa9ff" if dark else "#0b62c4"
    found["on_accent"] = "#101418" if dark else "#ffffff"
    if not dark:
        found["warning"] = "#8a5300"  # napari's yellow cannot be read on a light ground
    found["faint"] = "#a7adb6" if dark else "#5a6068"
    return found


def stylesheet(theme: str) -> str:
    """The dock's own rules; all else is napari's."""
    c: dict[str, str] = colours(theme)
    return f"""
    #msunet_advice {{ background: {c["foreground"]}; border-left: 3px solid {c["accent"]}; border-radius: 2px; }}
    #msunet_advice QLabel {{ background: transparent; }}
    #msunet_section {{ background: transparent; border: none; border-top: 1px solid {c["foreground"]}; }}
    QPushButton#msunet_header {{ background: transparent; border: none; text-align: left; padding: 0; }}
    QPushButton#msunet_header:hover {{ background: {c["foreground"]}; }}
    QPushButton#msunet_header:focus {{ border: 1px solid {c["accent"]}; border-radius: 2px; }}
    QLabel#msunet_title {{ font-weight: 600; background: transparent; }}
    QLabel#msunet_summary {{ color: {c["faint"]}; background: transparent; }}
    QLabel#msunet_mark {{ border-radius: 10px; border: 1px solid {c["faint"]}; color: {c["faint"]};
        background: transparent; font-weight: 600; }}
    QLabel#msunet_mark[state="done"] {{ border-color: {c["done"]}; color: {c["done"]}; }}
    QLabel#msunet_mark[state="next"] {{ border-color: {c["accent"]}; background: {c["accent"]};
        color: {c["on_accent"]}; }}
    QLabel#note {{ color: {c["faint"]}; }}
    QLabel#problem {{ color: {c["warning"]}; }}
    QPushButton#primary {{ background: {c["accent"]}; color: {c["on_accent"]}; font-weight: 600; padding: 5px 12px; }}
    QPushButton#primary:disabled {{ background: {c["foreground"]}; color: {c["faint"]}; }}
    QToolButton#chip {{ background: {c["foreground"]}; border: 1px solid {c["faint"]}; border-radius: 9px;
        padding: 2px 8px; }}
    QToolButton#chip:hover {{ border-color: {c["accent"]}; }}
    QToolButton#chip::menu-indicator {{ image: none; width: 0; }}
    QToolButton#msunet_tool {{ background: {c["foreground"]}; border: 1px solid transparent; border-radius: 3px;
        padding: 3px 1px; font-size: 11px; }}
    QToolButton#msunet_tool:hover {{ border-color: {c["faint"]}; }}
    QToolButton#msunet_tool:focus {{ border-color: {c["faint"]}; }}
    QToolButton#msunet_tool:checked {{ border-color: {c["accent"]}; background: {c["primary"]}; }}
    QToolButton#msunet_tool:disabled {{ color: {c["faint"]}; }}
    QToolButton#msunet_copy, QToolButton#fold {{ background: transparent; border: none; color: {c["faint"]};
        padding: 2px 4px; }}
    QToolButton#msunet_copy:hover, QToolButton#fold:hover {{ color: {c["text"]}; }}
    QToolButton#msunet_copy:focus, QToolButton#fold:focus {{ border: 1px solid {c["accent"]}; }}
    """
