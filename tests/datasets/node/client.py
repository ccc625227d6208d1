"""The node's libraries, asked through a process of their own."""

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import attrs

SERVER = Path(__file__).with_name("server.py")
VARIABLE = "CRYNUX_TEST_NODE"
"""Names the Python of an environment with the node's libraries, made by pip install 'crynux-async[test-node]'."""


def missing() -> str:
    """Why there is no node to compare with, or ``""``."""
    python = os.environ.get(VARIABLE)
    if not python:
        return f"{VARIABLE} does not name a Python with crynux-async[test-node]"
    return "" if Path(python).is_file() else f"{VARIABLE}: there is no {python}"


@attrs.frozen(kw_only=True)
class Verdict:
    """What a node makes of a data set.

    Attributes:
        reason: Why it fails, or ``""``.
        splits: Examples in each split.
        rows: Each train example's image file, caption, width and height; no file where the image is in a table.
    """

    reason: str = ""
    splits: Mapping[str, int] = attrs.field(factory=dict)
    rows: tuple[tuple[str | None, Any, int, int], ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether a node can train on it."""
        return not self.reason


@attrs.frozen(kw_only=True)
class NodeLayout:
    """Which files a node loads.

    Attributes:
        splits: The files of each split.
        loaders: Each split's loader, ``""`` where there is none.
    """

    splits: Mapping[str, tuple[str, ...]]
    loaders: Mapping[str, str]


class Node:
    """A process with the node's libraries.

    Attributes:
        versions: Of each library, and of Python.
    """

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the process is
        self._process = subprocess.Popen(
            [os.environ[VARIABLE], "-I", str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.versions: Mapping[str, str] = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._errors, self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def load(self, path: Path, *, image_column: str = "image", caption_column: str = "text") -> Verdict:
        """Load a folder or archive and draw every example once."""
        found = self._ask({"path": str(path), "image_column": image_column, "caption_column": caption_column})
        if not found["accepted"]:
            return Verdict(reason=found["reason"])
        return Verdict(splits=found["splits"], rows=tuple(tuple(row) for row in found["rows"]))

    def sizes(self, pictures: Sequence[bytes]) -> list[tuple[int, int] | None]:
        """The size of each image as it is trained on, or None where it cannot be."""
        found = self._ask({"pictures": [base64.b64encode(data).decode() for data in pictures]})
        return [tuple(size) if size else None for size in found["sizes"]]

    def layout(self, folder: Path) -> NodeLayout | None:
        """Which files of a folder are loaded, or None when there is none."""
        found = self._ask({"layout": str(folder)})
        if found["splits"] is None:
            return None
        splits = {split: tuple(files) for split, files in found["splits"].items()}
        return NodeLayout(splits=splits, loaders=found["loaders"])

    def _ask(self, asked: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"the node's process ended with {self._process.wait()}: {self._errors.read()[-2000:]}")
        return json.loads(line)
