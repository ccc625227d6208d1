"""What a bridge of one's own is unless its operator says otherwise; apart, because help shows it and loads no more."""

from typing import Literal

DEFAULT_IMAGE = "ghcr.io/crynux-network/crynux-bridge:main-32a2af0"
"""The build that this library was measured against. Whether the registry still has it could not be checked."""

DEFAULT_PORT = 5028

Database = Literal["sqlite", "mysql"]
