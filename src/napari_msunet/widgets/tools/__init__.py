"""Tools that edit objects in the viewer by a click, a line or a lasso; each edit is one step of undo."""

from napari_msunet.widgets.tools.controller import Tools, all_tools
from napari_msunet.widgets.tools.panel import KeyList, ToolPanel
from napari_msunet.widgets.tools.tool import Tool

__all__ = ["KeyList", "Tool", "ToolPanel", "Tools", "all_tools"]
