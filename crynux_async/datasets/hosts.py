"""Which hosts other people's machines cannot reach."""

import ipaddress
from typing import Final

_NEARBY: Final = (".local", ".localhost", ".internal", ".lan", ".home.arpa")


def is_private(host: str) -> bool:
    """Whether a host is this machine or one of a private network: by its address, or by its name alone.

    Args:
        host: An address, without brackets, or a name. A name without a dot is one of the network at hand.
    """
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.rstrip(".").lower()
        return "." not in name or name.endswith(_NEARBY)
