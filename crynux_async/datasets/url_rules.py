"""What an address answered, and whether a node could load a data set from it. Nothing here touches the network.

Source: stable-diffusion-task download_url_dataset.py (HEAD, then GET, then extraction by name) and finetune_lora.py
(the folder of an address is the md5 of the address, and is kept).
"""

import posixpath
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import attrs

from crynux_async.datasets.archives import SHORT_ENDINGS, compression_of, ending_of, holds_tar, is_tar
from crynux_async.datasets.findings import has_error, in_order
from crynux_async.datasets.hosts import is_private
from crynux_async.datasets.layout import DATA_EXTENSIONS, extension_of
from crynux_async.datasets.links import explain_page, explain_signature, has_login, page_of, secrets_in, signature_of
from crynux_async.datasets.problems import DatasetProblem, problem
from crynux_async.datasets.report import VERSION_LENGTH
from crynux_async.errors import UsageError

HEAD_BYTES: Final = 64 << 10
"""Bytes of the file that are looked at."""

_SUCCESS: Final = range(200, 400)
_FILE_NAME: Final = re.compile(r"filename[^;=\n]*=((['\"]).*?\2|[^;\n]*)")
_NAME_BYTES: Final = 251  # a file system takes 255, and the node adds ".tmp"
_TYPE_WORDS: Final = (
    ("zip", ".zip"),
    ("tar", ".tar"),
    ("gz", ".gz"),
    ("bz2", ".bz2"),
    ("xz", ".xz"),
    ("7z", ".7z"),
    ("rar", ".rar"),
)
_PAGE: Final = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|\?xml|head|body)", re.IGNORECASE)
_VERSION: Final = re.compile(r"[0-9A-Za-z]+")


def masked(url: str) -> str:
    """An address without user, password and query, fit to be shown."""
    parts = _split(url)
    query = "..." if parts.query else ""
    return repr(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, "")))


@attrs.frozen(kw_only=True)
class UrlObservation:
    """What an address answered.

    Attributes:
        url: The address as a node would be given it.
        failure: Why there was no answer, or ``""``.
        head_status: The status of HEAD after all redirects, or None.
        redirects: How many redirects there were.
        content_disposition: The header of that name of HEAD, or None.
        get_status: The status of GET, or None when it was not asked.
        content_type: The header of that name of GET, or None.
        size: Bytes of the file, >= 0, or None when the server does not say.
        head: The first bytes of the file, at most 64 KiB.
    """

    url: str = attrs.field(repr=masked)
    failure: str = ""
    head_status: int | None = None
    redirects: int = 0
    content_disposition: str | None = None
    get_status: int | None = None
    content_type: str | None = None
    size: int | None = None
    head: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen(kw_only=True)
class UrlReport:
    """Whether a node could load a data set from an address.

    Attributes:
        observation: What the address answered.
        name: The name under which a node stores the file.
        archive: The ending by which a node extracts it, such as ``.zip``; ``""`` when it does not.
        problems: Everything found, errors first.
    """

    observation: UrlObservation
    name: str
    archive: str
    problems: tuple[DatasetProblem, ...]

    @property
    def loadable(self) -> bool:
        """Whether nothing was found that keeps a node from loading it."""
        return not has_error(self.problems)

    @property
    def size(self) -> int | None:
        """Bytes that every node downloads, or None when the server does not say."""
        return self.observation.size


def fresh_url(url: str, content_hash: str) -> str:
    """The address with a ``v=`` parameter that changes with the content.

    A node that has seen an address never loads it again. Servers ignore the parameter, except where the whole address
    is signed: there, use a new file name instead.

    Args:
        url: The address.
        content_hash: The hash of the content, such as ``DatasetReport.content_hash`` or ``PackedDataset.sha256``.

    Returns:
        The address with ``v=`` and the first 12 characters of the hash; an older ``v=`` is replaced, everything else
        stays as it is, to the letter.

    Raises:
        UsageError: The hash is empty or has other characters than letters and digits.
    """
    if not _VERSION.fullmatch(content_hash):
        raise UsageError("content_hash must be letters and digits", field="content_hash")
    address, mark, fragment = url.partition("#")
    path, _, query = address.partition("?")
    # Cut up by hand: parsing and writing a query again would change how its other parts are spelt.
    kept = [part for part in query.split("&") if part and part.partition("=")[0] != "v"]
    return f"{path}?{'&'.join((*kept, f'v={content_hash[:VERSION_LENGTH]}'))}{mark}{fragment}"


def is_http(url: str) -> bool:
    """Whether it is an http or https address with a host."""
    parts = _split(url)
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def stored_name(url: str, content_disposition: str | None) -> str:
    """The name under which a node stores the file.

    Args:
        url: The address as given, before any redirect.
        content_disposition: The header of the answer to HEAD.

    Returns:
        The name, ``dataset`` when there is none; characters other than letters, digits, ``._-`` and space are gone.
    """
    match = _FILE_NAME.search(content_disposition or "")
    name = match[1].strip("\"'") if match else ""
    name = name or posixpath.basename(_split(url).path) or "dataset"
    return "".join(character for character in unquote(name) if character.isalnum() or character in "._- ")


def extracted_as(name: str, head: bytes, content_type: str | None) -> str | None:
    """The ending by which a node extracts a file.

    Args:
        name: The name under which it is stored.
        head: Its first bytes.
        content_type: What the server calls it, used only when neither name nor first bytes say anything.

    Returns:
        The ending, ``""`` when the node does not extract the file, None when ``head`` is too short to tell.
    """
    if "." in name:
        return ending_of(name)
    compression = compression_of(head)
    if compression == ".zip":
        return ".zip"
    if compression in {".gz", ".bz2", ".xz"}:
        inside = holds_tar(head, compression)
        return None if inside is None else f".tar{compression}" if inside else ""
    if compression:
        return ""
    # A plain tar is not recognised: the node looks for its mark, at byte 257, in the first 8 bytes only.
    word = next((ending for word, ending in _TYPE_WORDS if word in (content_type or "").lower()), "")
    return word if word in {".zip", ".tar"} else ""


def judge_url(observation: UrlObservation) -> tuple[DatasetProblem, ...]:
    """Say whether a node could load a data set from an address, by what the address answered.

    Args:
        observation: The answers.

    Returns:
        The problems, errors first. Without an error, a node can load it.
    """
    if not is_http(observation.url):
        return (problem("CX350", "Nodes load http:// and https:// addresses only."),)
    answers = list(_judge_answers(observation))
    found = [*_judge_address(_split(observation.url)), *answers]
    if not has_error(answers):
        name = stored_name(observation.url, observation.content_disposition)
        found += [*_judge_name(name), *_judge_content(observation, name)]
    found.append(problem("CX361", "A node that has loaded this address before uses what it got then, without a word."))
    found.append(problem("CX362", "Each node that takes part loads it anew, with no credentials and no limit of size."))
    return in_order(found)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def _judge_address(parts: SplitResult) -> Iterator[DatasetProblem]:
    host = parts.hostname or ""
    if is_private(host):
        yield problem("CX359", f"{host} is an address inside a private network or on this machine.")
    if has_login(parts):
        yield problem("CX360", "It contains a user name or password.")
    secrets = secrets_in(parts)
    if secrets:
        yield problem("CX360", f"Its parameter {', '.join(secrets)} looks like one.")
    signature = signature_of(parts)
    if signature is not None:
        yield problem("CX365", explain_signature(signature))
    page = page_of(parts)
    if page is not None:
        yield problem("CX366", explain_page(page), severity="error" if page.is_certain else "warning")


def _judge_answers(observation: UrlObservation) -> Iterator[DatasetProblem]:
    if observation.failure:
        yield problem("CX351", f"There was no answer: {observation.failure}.")
    elif observation.head_status not in _SUCCESS:
        yield problem("CX352", f"HEAD is answered with {_meaning(observation.head_status)}; nodes ask it first.")
    elif observation.get_status not in _SUCCESS:
        yield problem("CX353", f"HEAD succeeds but GET is answered with {_meaning(observation.get_status)}.")
    elif observation.size == 0 or not observation.head:
        yield problem("CX357", "The file is empty.")


def _meaning(status: int | None) -> str:
    reasons = {
        401: "a login is needed",
        403: "forbidden",
        404: "not found",
        405: "method not allowed",
        410: "gone",
        429: "too many requests",
        501: "not implemented",
    }
    if status is None:
        return "nothing"
    return f"{status} ({reasons[status]})" if status in reasons else str(status)


def _judge_name(name: str) -> Iterator[DatasetProblem]:
    if not name.strip(". ") or len(name.encode()) > _NAME_BYTES or name.lower() in {".zip", ".tar"}:
        yield problem("CX358", f"The file would be stored as {name[:40]!r}.")
    elif name.lower().endswith(SHORT_ENDINGS):
        yield problem("CX354", f"{name} is not extracted: nodes know .tar.gz, not .tgz.")
    elif "." in name and not ending_of(name):
        code = "CX355" if extension_of(name) in DATA_EXTENSIONS else "CX354"
        yield problem(code, f"{name} is not extracted, and a node loads folders only.")


def _judge_content(observation: UrlObservation, name: str) -> Iterator[DatasetProblem]:
    head, ending = observation.head, extracted_as(name, observation.head, observation.content_type)
    if _PAGE.match(head):
        yield problem("CX357", "The address answers with a web page.")
    elif ending is None:
        yield problem("CX363", "Whether this is a tar archive shows only further inside; a node will find out.")
    elif ending and not _is_what_it_says(head, ending):
        yield problem("CX357", f"A node takes the file for {ending}, which it is not.")
    elif not ending and "." not in name:
        what = "a tar without compression, which nodes do not recognise" if is_tar(head) else "nothing they extract"
        yield problem("CX356", f"The name {name!r} has no extension, and the content is {what}.")


def _is_what_it_says(head: bytes, ending: str) -> bool:
    compression = compression_of(head)
    if ending == ".zip":
        return compression == ".zip"
    if ending == ".tar" and not compression:
        return is_tar(head)
    if ending != ".tar" and compression != ending.removeprefix(".tar"):
        return False
    return compression in {".gz", ".bz2", ".xz"} and holds_tar(head, compression) is not False
