"""What a server must not forget: one JSON line for each event, on disk before anybody is told."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class LineLog:
    """A file of JSON lines that grows at its end.

    Args:
        path: The file; made when there is none. A last line that was not finished is cut off.
        durable: Whether each line is forced to the disk before ``append`` returns.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._durable = durable
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._cut_unfinished_line()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            for line in file:
                yield json.loads(line)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line and, when durable, wait until it is on the disk."""
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        # A write may be cut short, by a signal or a disk that is nearly full.
        while data:
            data = data[os.write(self._descriptor, data) :]
        if self._durable:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _cut_unfinished_line(self) -> None:
        size = os.fstat(self._descriptor).st_size
        end = size
        while end and os.pread(self._descriptor, 1, end - 1) != b"\n":
            end -= 1
        if end < size:
            os.ftruncate(self._descriptor, end)
