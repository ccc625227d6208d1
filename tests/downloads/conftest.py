"""Where the tests of downloads put their file, and what lies beside it."""

from pathlib import Path

import pytest

from crynux_async.downloads import gathering


@pytest.fixture
def writes_of_two_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small files written in several writes, as large ones are."""
    monkeypatch.setattr(gathering, "WORTH_A_WRITE", 1500)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The final name."""
    return tmp_path / "folder" / "7.zip"


@pytest.fixture
def part(path: Path) -> Path:
    """The part file."""
    return path.with_name("7.zip.part")


@pytest.fixture
def note(path: Path) -> Path:
    """The note beside it."""
    return path.with_name("7.zip.part.json")
