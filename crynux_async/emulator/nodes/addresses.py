"""Which addresses a node gets no archive from, told without asking them.

Source: stable-diffusion-task download_url_dataset.py (HEAD, then GET, of requests); the hosts' own documentation.
"""

import ipaddress
import re
import socket
import unicodedata
from urllib.parse import SplitResult, parse_qs

_NEARBY = (
    *("localhost", "local", "localdomain", "internal", "intranet", "lan", "home", "corp", "home.arpa", "test"),
    *("svc", "fritz.box"),
    *("invalid", "onion"),
    *("localtest.me", "lvh.me", "vcap.me", "lacolhost.com"),
)
_NAMED_ADDRESS = re.compile(r"(?:^|[.-])(\d+)[.-](\d+)[.-](\d+)[.-](\d+)\.(?:nip|sslip|xip)\.io$")
_HEXADECIMAL = re.compile(r"(?:^|[.-])([0-9a-f]{8})\.(?:nip|sslip|xip)\.io$")
_DASHES = re.compile(r"(?:^|\.)([0-9a-f]*-[0-9a-f-]*-[0-9a-f-]*)\.sslip\.io$")
# Paths that show a page about a file or a folder of it.
_PAGES = (
    (r"(www\.)?(huggingface\.co|hf\.co)", r"(/datasets|/spaces)?/[^/]+/[^/]+(/(blob|tree)/.*|/?)"),
    (r"(www\.)?github\.com", r"/[^/]+/[^/]+(/(blob|tree)/.*|/releases/tag/.*|(/releases(/latest)?|/tags)?/?)"),
    (r"gist\.github\.com", r"/[^/]+(/[0-9a-f]+(/([0-9a-f]{40}|revisions))?)?/?"),
    (r"(www\.)?kaggle\.com", r"/(datasets|competitions|c)/.*"),
    (r"(drive|docs)\.google\.com", r"/(a/[^/]+/)?file/(u/\d+/)?d/[\w-]+.*|/drive/.*|/open"),
    (r"(www\.)?archive\.org", r"/details/[^/]+(/[^/]*)?/?"),
    (r"mega\.nz|wetransfer\.com|we\.tl", r".*"),
    (r".*", r".*/-/blob/.*"),
)


def is_nearby(host: str) -> bool:
    """Whether a host is this machine or one of a private network, as resolvers read it."""
    # requests writes a host as IDNA does, and there every script's digits and full stops are plain ones.
    name = unicodedata.normalize("NFKC", host).replace("\u3002", ".").rstrip(".").lower()
    numbers = _numbers(_spelt_out(name))
    if numbers is not None:
        return numbers.is_multicast or not numbers.is_global
    # A name of one word is known to the network at hand alone.
    return "." not in name or any(f".{name}".endswith(f".{near}") for near in _NEARBY)


def is_page(parts: SplitResult) -> bool:
    """Whether an address shows a page about a file, and not the file."""
    host = (parts.hostname or "").lower()
    return any(re.fullmatch(hosts, host) and re.fullmatch(paths, parts.path) for hosts, paths in _PAGES)


def refuses_head(parts: SplitResult) -> bool:
    """Whether an address is signed for one method, of the two that a node uses."""
    names = {name.lower() for name in parse_qs(parts.query, keep_blank_values=True)}
    return "x-amz-signature" in names or {"awsaccesskeyid", "signature"} <= names


def _spelt_out(name: str) -> str:
    """The address that a name of nip.io and its like answers with, or the name itself."""
    if found := _NAMED_ADDRESS.search(name):
        return ".".join(found.groups())
    if found := _HEXADECIMAL.search(name):
        return socket.inet_ntoa(bytes.fromhex(found[1]))
    found = _DASHES.search(name)
    return found[1].replace("-", ":") if found else name


def _numbers(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if ":" in host:
        try:
            found = ipaddress.IPv6Address(host)
        except ValueError:  # dashes that are no address
            return None
        packed = found.packed
        if found in ipaddress.IPv6Network("64:ff9b::/96") or found in ipaddress.IPv6Network("::ffff:0:0/96"):
            return ipaddress.IPv4Address(packed[-4:])
        return ipaddress.IPv4Address(packed[2:6]) if packed[:2] == b"\x20\x02" else found
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host)) if host[:1].isdigit() else None
    except OSError:
        return None
