"""Which hosts other people's machines cannot reach."""

import ipaddress
import re
import socket
from typing import Final

_NEARBY: Final = (
    "local",
    "localhost",
    "localdomain",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "home.arpa",
    "test",
    "svc",
    "fritz.box",
)
# Public names that answer with this machine's address, or with the one that stands in them (10.0.0.1.nip.io).
_THIS_MACHINE: Final = ("localtest.me", "lvh.me", "vcap.me", "lacolhost.com")
_SPELT_OUT: Final = re.compile(r"(?:.*[.-])?(\d+)[.-](\d+)[.-](\d+)[.-](\d+)\.(?:nip|sslip|xip)\.io")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def is_private(host: str) -> bool:
    """Whether a host is this machine or one of a private network: by its address, or by its name alone.

    Args:
        host: An address, without brackets and in any spelling that a resolver takes (``2130706433``, ``0x7f.1``), or a
            name. A name without a dot is one of the network at hand.
    """
    name = host.rstrip(".").lower()
    address = _address(name)
    if address is not None:
        return not address.is_global
    spelt_out = _SPELT_OUT.fullmatch(name)
    if spelt_out:
        return is_private(".".join(spelt_out.groups()))
    return "." not in name or _is_under(name, (*_NEARBY, *_THIS_MACHINE))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return _old_spelling(host)
    if isinstance(found, ipaddress.IPv4Address):
        return found
    inside = found.ipv4_mapped or found.sixtofour
    if inside is None and found in _NAT64:
        inside = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return inside or found


def _old_spelling(host: str) -> ipaddress.IPv4Address | None:
    # What resolvers take besides: fewer than four numbers, in hexadecimal or octal.
    if not re.fullmatch(r"[0-9a-fx.]+", host):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _is_under(name: str, domains: tuple[str, ...]) -> bool:
    return any(name == domain or name.endswith(f".{domain}") for domain in domains)
