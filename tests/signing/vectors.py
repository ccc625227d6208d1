"""Reads the signature vectors, which were made with the Go code of the bridge and the relay."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parent.parent / "data" / "relay"
KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
TIMESTAMP = 1_700_000_000

_VECTOR = re.compile(r"^## (.+)\nbytes: (.+)\nkeccak256: ([0-9a-f]{64})\nsignature: (0x[0-9a-f]{130})$", re.MULTILINE)


class Vector(NamedTuple):
    """One signed request."""

    name: str
    message: bytes
    digest: str
    signature: str


def text() -> str:
    return (DATA / "vectors.md").read_text(encoding="utf-8")


def vectors() -> list[Vector]:
    return list(_parsed())


def _parsed() -> Iterator[Vector]:
    for name, message, digest, signature in _VECTOR.findall(text()):
        yield Vector(name, message.encode(), digest, signature)
