"""The README as a package index shows it: its links and pictures get whole addresses, from [project.urls].

In the repository they are paths, which a code host and an editor follow. Pages and pictures of `docs/` go to the
address "Documentation"; other files go to the address "Repository" and, as long as there is none, stay as plain words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<path>(?![a-z]+:|#)[^)\s]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Gives the project its readme."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the readme in the metadata of the project."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": with_addresses(text, metadata["urls"]),
        }


def with_addresses(text: str, urls: Mapping[str, str]) -> str:
    """The text of a README in which no link is a path.

    Parameters
    ----------
    text : str
        Markdown with paths from the root of the repository.
    urls : mapping
        The addresses "Documentation" and, if there is one, "Repository".
    """
    pages, source = urls["Documentation"].rstrip("/"), urls.get("Repository", "").rstrip("/")

    def whole(found: re.Match[str]) -> str:
        path, hash_, place = found["path"].partition("#")
        if path.startswith("docs/"):
            page = re.sub(r"(^|(?<=/))index\.md$|\.md$", "/", path.removeprefix("docs")).replace("//", "/")
            address = f"{pages}{page}{hash_}{place}"
        elif source:
            address = f"{source}/blob/main/{path}{hash_}{place}"
        else:
            return found["text"]
        return f"{found['picture']}[{found['text']}]({address})"

    return _LINK.sub(whole, text)
