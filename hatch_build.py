"""What the build adds to the metadata: the README as a package index shows it.

An index knows no files beside the README, so its links to them become addresses below the project's own, which
``CRYNUX_PROJECT_URL`` gives (as a forge has it: ``https://forge.example/owner/crynux-async``). Without one they become
plain text: better no link than one that leads nowhere.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


def readme_for_index(text: str, *, url: str, version: str) -> str:
    """Return the README with links that work away from the repository.

    Args:
        text: The README as it stands in the repository.
        url: The address of the repository, or "" if there is none.
        version: Whose files are linked: those of its tag.
    """

    def elsewhere(link: re.Match[str]) -> str:
        mark, shown, path = link.groups()
        if not url:
            return "" if mark else shown
        return f"{mark}[{shown}]({url.rstrip('/')}/{'raw' if mark else 'blob'}/v{version}/{path})"

    return _LINK.sub(elsewhere, text)


class ProjectMetadata(MetadataHookInterface):
    """Sets ``readme`` and ``urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add what depends on where the project is published."""
        url = os.environ.get("CRYNUX_PROJECT_URL", "").strip()
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = (Path(self.root) / "crynux_async" / "version.py").read_text(encoding="utf-8")
        [version] = re.findall(r'^__version__ = "(.+)"', source, re.MULTILINE)
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": readme_for_index(text, url=url, version=version),
        }
        if url:
            metadata["urls"] = {"Source": url, "Changelog": f"{url.rstrip('/')}/blob/v{version}/CHANGELOG.md"}
