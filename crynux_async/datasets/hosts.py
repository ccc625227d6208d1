"""Which hosts other people's machines cannot reach."""

import functools
import ipaddress
import re
import socket
import unicodedata
from typing import Final

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

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
    "invalid",
    "onion",
)
# Public names that answer with this machine's address, or with the one that stands in them (10.0.0.1.nip.io).
_THIS_MACHINE: Final = ("localtest.me", "lvh.me", "vcap.me", "lacolhost.com")
_ANSWERING: Final = (".nip.io", ".sslip.io", ".xip.io")
_SPELT_OUT: Final = r"(?:.*[.-])?(\d+)[.-](\d+)[.-](\d+)[.-](\d+)\.(?:nip|sslip|xip)\.io"
_SPELT_IN_HEXADECIMAL: Final = r"(?:.*[.-])?([0-9a-f]{8})\.(?:nip|sslip|xip)\.io"
_SPELT_WITH_DASHES: Final = r"(?:.*\.)?([0-9a-f]*-[0-9a-f-]*-[0-9a-f-]*)\.sslip\.io"
_IDEOGRAPHIC_STOP: Final = "\u3002"
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


# Many data sets lie on few hosts.
@functools.lru_cache(maxsize=256)
def is_private(host: str) -> bool:
    """Whether a host is this machine, one of a private network or nobody's: by its address, or by its name alone.

    Args:
        host: An address, without brackets and in any spelling that a resolver takes (``2130706433``, ``0x7f.1``), or a
            name. A name without a dot is one of the network at hand.
    """
    # Digits and dots of other scripts are plain ones to whoever asks: libraries encode a host by IDNA first.
    name = unicodedata.normalize("NFKC", host).replace(_IDEOGRAPHIC_STOP, ".").rstrip(".").lower()
    address = _address(name) or _address_inside(name)
    if address is not None:
        # Multicast addresses are global to Python, and no server has one.
        return not address.is_global or address.is_multicast
    return "." not in name or _is_under(name, (*_NEARBY, *_THIS_MACHINE))


def _address_inside(name: str) -> _Address | None:
    """The address that stands in a name of nip.io and its like, which answer with it."""
    if not name.endswith(_ANSWERING):
        return None
    if spelt_out := re.fullmatch(_SPELT_OUT, name):
        return _address(".".join(spelt_out.groups()))
    if in_hexadecimal := re.fullmatch(_SPELT_IN_HEXADECIMAL, name):
        return ipaddress.IPv4Address(int(in_hexadecimal[1], 16))
    with_dashes = re.fullmatch(_SPELT_WITH_DASHES, name)
    return _address(with_dashes[1].replace("-", ":")) if with_dashes else None


def _address(host: str) -> _Address | None:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return _old_spelling(host)
    if isinstance(found, ipaddress.IPv4Address):
        return found
    # What is reached is the IPv4 address that stands inside.
    inside = found.ipv4_mapped or found.sixtofour
    if inside is None and found in _NAT64:
        inside = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return inside or found


def _old_spelling(host: str) -> ipaddress.IPv4Address | None:
    # What resolvers take besides: fewer than four numbers, in hexadecimal or octal.
    # Before inet_aton, which takes "1.2.3.4 and more" with glibc.
    if not re.fullmatch(r"[0-9a-fx.]+", host):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _is_under(name: str, domains: tuple[str, ...]) -> bool:
    return any(name == domain or name.endswith(f".{domain}") for domain in domains)
