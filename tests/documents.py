"""The Markdown that users read, and the blocks of code in it."""

import re
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *(ROOT / "examples").glob("*.md")]

# A block, and the comment before it that says why it is not run.
_BLOCK = re.compile(r"(?:^<!-- (not run: [^\n]+|tests) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@attrs.frozen
class Block:
    """A block of code. ``reason`` says why it is not run; None means that it is."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Return the blocks in these languages on all pages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            reason, language, code = match.groups()
            if language in languages:
                found.append(Block(page, text[: match.start(2)].count("\n") + 1, language, code, reason))
    return found


def block_with(words: str) -> Block:
    """Return the one Python block that has these words."""
    (found,) = (block for block in blocks("python") if words in block.text)
    return found
