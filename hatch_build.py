"""The README as an index of packages shows it, where relative links lead nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# Of links and pictures: the text, and an address without a scheme.
RELATIVE = r"\[([^\]]*)\]\((?![a-z]+:)([^)\s]+)\)"


def readme_for_index(text: str, repository: str = "") -> str:
    """Make relative links whole, or harmless while there is no repository.

    Parts between ``<!-- repository -->`` and ``<!-- end of repository -->`` are about what lies
    there, such as a picture and its caption, and are left out without one.
    """
    if not repository:
        text = re.sub(r"<!-- repository -->.*?<!-- end of repository -->\n*", "", text, flags=re.S)
        return re.sub(rf"!?{RELATIVE}", r"\1", text)
    # Of the README's own headings, an index has no anchors.
    text = re.sub(r"\]\(#", "](README.md#", text)
    text = re.sub(rf"!{RELATIVE}", rf"![\1]({repository}/raw/HEAD/\2)", text)
    return re.sub(RELATIVE, rf"[\1]({repository}/blob/HEAD/\2)", text)


class ReadmeHook(MetadataHookInterface):
    """Describes the package; links lead to ``Repository`` of ``[project.urls]``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the readme of the metadata."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = readme_for_index(text, metadata.get("urls", {}).get("Repository", ""))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
