"""What an address says by itself: a page about a file in place of the file, a login, a signature that runs out.

Source: the hosts' own documentation of direct links; AWS "Signature Calculations for Query String Authentication" and
"Authenticating Requests (Signature Version 2)" (the method is part of what is signed, and whoever speaks S3 computes
the same signature: Cloudflare R2, MinIO, Ceph).
"""

import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlencode

import attrs

from crynux_async.values import Value

_HUB_HOSTS: Final = ("huggingface.co", "www.huggingface.co", "hf.co")
_DRIVE_HOSTS: Final = ("drive.google.com", "docs.google.com")
_DROPBOX_HOSTS: Final = ("dropbox.com", "www.dropbox.com", "m.dropbox.com")
_GITHUB_HOSTS: Final = ("github.com", "www.github.com")
_PAGE_HOSTS: Final = ("mega.nz", "wetransfer.com", "we.tl")
_LIKELY_HOSTS: Final = ("1drv.ms", "onedrive.live.com", "www.mediafire.com", "www.icloud.com", "pan.baidu.com")
# Each of them is part of an address that is signed, and of no other.
_SIGNATURES: Final = frozenset(("x-amz-signature", "x-goog-signature", "x-oss-signature", "signature", "sig"))
_SECRETS: Final = frozenset(
    ("access_token", "api_key", "apikey", "auth", "key", "password", "secret", "token", *_SIGNATURES)
)
# The parameters of S3's signatures, version 4 and version 2. No other signature has them.
_FOR_ONE_METHOD: Final = (frozenset(("x-amz-signature",)), frozenset(("awsaccesskeyid", "signature")))
_LASTING: Final = frozenset(("x-amz-expires", "x-goog-expires"))


@attrs.frozen(kw_only=True)
class Page(Value):
    """A page about a file, where an address should be that of the file.

    Attributes:
        host: Whose page it is.
        direct: The address of the file itself, or ``""`` where there is none that can be told.
        dataset_name: The name of the data set on Hugging Face that it is about, or ``""``.
        is_certain: Whether nodes get the page, too; some hosts give programs the file.
    """

    host: str
    direct: str = ""
    dataset_name: str = ""
    is_certain: bool = True


@attrs.frozen(kw_only=True)
class Signature(Value):
    """A signature in an address.

    Attributes:
        seconds: For how long it is valid from when it was made, or None when that cannot be told.
        is_for_one_method: Whether it holds for GET alone, so that a HEAD is refused.
    """

    seconds: int | None
    is_for_one_method: bool


def page_of(parts: SplitResult) -> Page | None:
    """Return what is known of an address that shows a page, or None when it may be a file."""
    host = (parts.hostname or "").lower()
    for hosts, rule in _RULES.items():
        if host in hosts:
            return rule(parts)
    if host in _PAGE_HOSTS or host in _LIKELY_HOSTS:
        return Page(host=host, is_certain=host in _PAGE_HOSTS)
    if "/-/blob/" in parts.path:  # GitLab, wherever it is hosted
        return Page(host=host, direct=_with(parts, path=parts.path.replace("/-/blob/", "/-/raw/", 1)))
    return None


def secrets_in(parts: SplitResult) -> tuple[str, ...]:
    """Return the parameters of an address whose names say that their values are secret, in order."""
    return tuple(sorted({name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)} & _SECRETS))


def secrets_beside_signature(parts: SplitResult) -> tuple[str, ...]:
    """Return those of ``secrets_in`` that are no signature, which says of itself when it ends."""
    return tuple(name for name in secrets_in(parts) if name not in _SIGNATURES)


def has_login(parts: SplitResult) -> bool:
    """Whether there is a user name or a password in front of the host."""
    return bool(parts.username or parts.password)


def signature_of(parts: SplitResult) -> Signature | None:
    """Return what is known of the signature in an address, or None when there is none."""
    query = {name.lower(): value for name, value in parse_qsl(parts.query, keep_blank_values=True)}
    if not query.keys() & _SIGNATURES:
        return None
    lasting = next((query[name] for name in _LASTING if name in query), "")
    is_of_one = any(names <= query.keys() for names in _FOR_ONE_METHOD)
    return Signature(
        seconds=int(lasting) if re.fullmatch(r"[0-9]{1,9}", lasting) else None, is_for_one_method=is_of_one
    )


def explain_page(page: Page) -> str:
    """Say that an address shows a page, and what the address of the file is, in whole sentences."""
    seen = "shows" if page.is_certain else "may show"
    text = f"This is an address of {page.host} that {seen} a page, and a node takes what it gets for the data set."
    if page.direct:
        return f"{text} The address {page.direct} is that of the file itself."
    return (
        f"{text} Or give the name of the data set: dataset_name = {page.dataset_name!r}." if page.dataset_name else text
    )


def explain_signature(signature: Signature) -> str:
    """Say what becomes of a signed address, in whole sentences."""
    ends = "" if signature.seconds is None else f", {signature.seconds:,} s after it was made"
    text = f"It is signed and expires{ends}; every try of every round loads it anew."
    if signature.is_for_one_method:
        return f"{text} It is valid for one method, and nodes ask with HEAD before they GET: one of the two is refused."
    return f"{text} Nodes ask with HEAD first, which some hosts refuse for an address that is signed for GET."


def _with(parts: SplitResult, *, path: str, query: str = "") -> str:
    # It is shown, and must not hold a login.
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path, query=query, fragment="").geturl()


def _drive(parts: SplitResult) -> Page | None:
    found = re.match(r"/(?:a/[^/]+/)?file/(?:u/\d+/)?d/([\w-]+)", parts.path)
    is_named = parts.path in {"/open", "/uc"}
    key = found[1] if found else dict(parse_qsl(parts.query)).get("id", "") if is_named else ""
    if key:
        # Above 100 MB the older address /uc asks for a click first.
        asked = urlencode({"id": key, "export": "download", "confirm": "t"})
        direct = f"https://drive.usercontent.google.com/download?{asked}"
        return Page(host="Google Drive", direct=direct, is_certain=parts.path != "/uc")
    return Page(host="Google Drive") if parts.path.startswith("/drive/") else None


def _dropbox(parts: SplitResult) -> Page | None:
    query = parse_qsl(parts.query, keep_blank_values=True)
    if ("dl", "1") in query or ("raw", "1") in query or not re.match(r"/(?:s|sh|scl|t)/", parts.path):
        return None
    kept = [(name, value) for name, value in query if name not in {"dl", "raw"}]
    computer = parts._replace(netloc="www.dropbox.com")
    direct = _with(computer, path=parts.path, query=urlencode([*kept, ("dl", "1")]))
    # It goes by the name of the program that asks, and may give a node the file.
    return Page(host="Dropbox", direct=direct, is_certain=False)


def _hub(parts: SplitResult) -> Page | None:
    found = re.match(r"((?:/datasets|/spaces)?)/([^/]+/[^/]+)(?:/(blob|tree)/|/?\Z)", parts.path)
    if found is None:
        return None
    kind, name, view = found.groups()
    rest = parts.path[found.end() :]
    direct = _with(parts, path=f"{kind}/{name}/resolve/{rest}") if view == "blob" else ""
    return Page(host="Hugging Face", direct=direct, dataset_name=name if kind == "/datasets" and not direct else "")


def _github(parts: SplitResult) -> Page | None:
    found = re.match(
        r"/([^/]+/[^/]+)(?:/(blob|tree)/|/releases/tag/|(?:/(?:releases(?:/latest)?|tags))?/?\Z)", parts.path
    )
    if found is None:
        return None
    direct = _with(parts, path=f"/{found[1]}/raw/{parts.path[found.end() :]}") if found[2] == "blob" else ""
    return Page(host="GitHub", direct=direct)


def _gist(parts: SplitResult) -> Page | None:
    # The files themselves are below /raw and /archive.
    is_page = re.fullmatch(r"/[^/]+(?:/[0-9a-f]+(?:/(?:[0-9a-f]{40}|revisions))?)?/?", parts.path)
    return Page(host="GitHub Gist") if is_page else None


def _kaggle(parts: SplitResult) -> Page | None:
    # Even .../download shows a login. What Kaggle's own program loads begins with /api.
    return Page(host="Kaggle") if re.match(r"/(?:datasets|competitions|c)/", parts.path) else None


def _archive_org(parts: SplitResult) -> Page | None:
    found = re.match(r"/details/([^/]+)(?:/([^/]+))?/?\Z", parts.path)
    if found is None:
        return None
    direct = _with(parts, path=f"/download/{found[1]}/{found[2]}") if found[2] else ""
    return Page(host="the Internet Archive", direct=direct)


_RULES: Final[Mapping[tuple[str, ...], Callable[[SplitResult], Page | None]]] = {
    _DRIVE_HOSTS: _drive,
    _DROPBOX_HOSTS: _dropbox,
    _HUB_HOSTS: _hub,
    _GITHUB_HOSTS: _github,
    ("gist.github.com",): _gist,
    ("kaggle.com", "www.kaggle.com"): _kaggle,
    ("archive.org", "www.archive.org"): _archive_org,
}
