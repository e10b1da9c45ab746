"""What MkDocs does with our pages: the tables of options are made from the fields of the configs."""

import re

from napari_msunet import config
from napari_msunet.config.base import options_table

_TABLE = re.compile(r"^<!-- options of (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown, **_):
    """Put the table of a config where a page has a line such as ``<!-- options of TrainJob -->``."""
    return _TABLE.sub(lambda found: options_table(getattr(config, found[1])), markdown)
