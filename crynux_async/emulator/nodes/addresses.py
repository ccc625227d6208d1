"""Which addresses a node gets no archive from, told without asking them.

Source: stable-diffusion-task download_url_dataset.py (HEAD, then GET, of requests); the hosts' own documentation.
"""

import ipaddress
import re
import socket
from urllib.parse import SplitResult

_NEARBY = (
    *("localhost", "local", "localdomain", "internal", "intranet", "lan", "home", "corp", "home.arpa", "test"),
    *("svc", "fritz.box"),
    *("localtest.me", "lvh.me", "vcap.me", "lacolhost.com"),
)
_NAMED_ADDRESS = re.compile(r"(?:^|[.-])(\d+)[.-](\d+)[.-](\d+)[.-](\d+)\.(?:nip|sslip|xip)\.io$")
# Paths that show a page about a file or a folder of it.
_PAGES = (
    (r"(www\.)?(huggingface\.co|hf\.co)", r"(/datasets|/spaces)?/[^/]+/[^/]+(/(blob|tree)/.*|/?)"),
    (r"(www\.)?github\.com", r"/[^/]+/[^/]+(/(blob|tree)/.*|/?)"),
    (r"(drive|docs)\.google\.com", r"/(a/[^/]+/)?file/(u/\d+/)?d/[\w-]+.*|/drive/.*|/open"),
    (r"(www\.)?archive\.org", r"/details/[^/]+(/[^/]*)?/?"),
    (r"mega\.nz|wetransfer\.com|we\.tl", r".*"),
    (r".*", r".*/-/blob/.*"),
)


def is_nearby(host: str) -> bool:
    """Whether a host is this machine or one of a private network, as resolvers read it."""
    name = host.rstrip(".").lower()
    named = _NAMED_ADDRESS.search(name)
    if named:
        return is_nearby(".".join(named.groups()))
    numbers = _numbers(name)
    if numbers is not None:
        return not numbers.is_global
    # A name of one word is known to the network at hand alone.
    return "." not in name or any(f".{name}".endswith(f".{near}") for near in _NEARBY)


def is_page(parts: SplitResult) -> bool:
    """Whether an address shows a page about a file, and not the file."""
    host = (parts.hostname or "").lower()
    return any(re.fullmatch(hosts, host) and re.fullmatch(paths, parts.path) for hosts, paths in _PAGES)


def refuses_head(parts: SplitResult) -> bool:
    """Whether an address is signed for one method, of the two that a node uses."""
    query = parts.query.lower()
    is_signed = "x-amz-signature=" in query or ("awsaccesskeyid=" in query and "signature=" in query)
    return is_signed and (parts.hostname or "").endswith(".amazonaws.com")


def _numbers(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if ":" in host:
        found = ipaddress.IPv6Address(host)
        packed = found.packed
        if found in ipaddress.IPv6Network("64:ff9b::/96") or found in ipaddress.IPv6Network("::ffff:0:0/96"):
            return ipaddress.IPv4Address(packed[-4:])
        return ipaddress.IPv4Address(packed[2:6]) if packed[:2] == b"\x20\x02" else found
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host)) if host[:1].isdigit() else None
    except OSError:
        return None
