"""What an archive is called on disk: after a template of ours, never by the server, and portable.

Whether a name is free is the business of ``reservations``.
"""

import functools
import itertools
import os
import re
import string
import unicodedata
from collections.abc import Iterator

from crynux_async.errors import UsageError
from crynux_async.training.config import FineTuneConfig

MAX_NAME_BYTES = 200  # file systems allow 255; what a download puts beside the file needs the rest
_SUFFIX = ".zip"
# More are no number of ours, and ``int`` refuses thousands of them.
_MOST_DIGITS = 9
_UNSAFE = r'[<>:"/\\|?*\s]+'
_SEPARATORS = " ._-"
_SEPARATORS_OF_PATHS = frozenset("/\\")
# Source: Microsoft, "Naming Files, Paths, and Namespaces".
_RESERVED = r"(?i)(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|COM[0-9¹²³]|LPT[0-9¹²³])(?=\.|$)"


def archive_name(template: str, **facts: str | int | None) -> str:
    """Return the file name that a template gives for one job.

    Args:
        template: Text with placeholders in braces, such as ``"{task_id}-{label}.zip"``.
        **facts: The value of each possible placeholder; None and "" leave nothing.

    Returns:
        A name that every common file system takes: at most 200 bytes of UTF-8, without separators, control characters
        and names that Windows reserves, ending in ``.zip``.

    Raises:
        UsageError: The template has a placeholder that is not among the facts, or does not make sense.
    """
    pieces = []
    for text, name in _parse(template):
        pieces.append(text)
        if name is None:
            continue
        if name not in facts:
            possible = ", ".join(f"{{{fact}}}" for fact in sorted(facts))
            raise UsageError(
                f"{{{name}}} in the file name {template!r} is not known; possible are {possible}", field="name"
            )
        value = facts[name]
        pieces.append("" if value is None else str(value))
    return _portable("".join(pieces))


def job_archive_name(
    template: str, config: FineTuneConfig | None, *, task_id: str | None, job_id: str | None, label: str
) -> str:
    """Return what the archive of a job is called; what is not known yet, or never will be, leaves nothing.

    Raises:
        UsageError: As ``archive_name``.
    """
    return archive_name(
        template,
        task_id=task_id,
        job_id=job_id,
        label=label,
        model=config.model_name if config else None,
        digest=config.digest()[:12] if config else None,
    )


# A web application checks the same one for every job.
@functools.lru_cache(maxsize=64)
def check_template(template: str) -> None:
    """Refuse a template that gives no name, whatever the job.

    Raises:
        UsageError: As ``archive_name``; or it is a path, which would not be followed: a name has no separators.
    """
    if not _SEPARATORS_OF_PATHS.isdisjoint("".join(text for text, _ in _parse(template))):
        raise UsageError(f"the file name {template!r} is a path; give its folder as the folder", field="name")
    job_archive_name(template, None, task_id=None, job_id=None, label="")


def numbered_names(name: str) -> Iterator[str]:
    """Yield ``name.zip``, then ``name-2.zip``, ``name-3.zip`` ..., none longer than the first may be."""
    yield name
    for number in itertools.count(2):
        yield _numbered(name, number)


def number_of(found: str, name: str) -> int | None:
    """Return which of ``numbered_names(name)`` a name is, counted from 1, or None where it is none of them."""
    if found == name:
        return 1
    number = os.path.splitext(found)[0].rpartition("-")[2]
    # Arabic and other digits are decimal, too; ours are ASCII.
    if not number.isdecimal() or not number.isascii() or len(number) > _MOST_DIGITS or int(number) < 2:
        return None
    return int(number) if found == _numbered(name, int(number)) else None


def _numbered(name: str, number: int) -> str:
    stem, suffix = os.path.splitext(name)
    ending = f"-{number}{suffix}"
    return _cut(stem, MAX_NAME_BYTES - len(ending.encode())) + ending


def _parse(template: str) -> Iterator[tuple[str, str | None]]:
    """Yield pairs of literal text and the name of the placeholder after it, or None."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(f"the file name {template!r} does not make sense: {error}", field="name") from error
    for text, name, spec, conversion in parsed:
        if spec or conversion:
            odd = f"{{{name}}} in the file name {template!r} must be a name alone, without ':' or '!'"
            raise UsageError(odd, field="name")
        yield text, name


def _portable(text: str) -> str:
    """Return a file name that is safe everywhere and as close to ``text`` as possible."""
    # Labels that look alike make one name, however their accents are written.
    text = unicodedata.normalize("NFC", text)
    text = "".join("-" if unicodedata.category(character)[0] == "C" else character for character in text)
    text = re.sub(_UNSAFE, "-", text)
    stem = text[: -len(_SUFFIX)] if text.lower().endswith(_SUFFIX) else text
    stem = stem.strip(_SEPARATORS) or "archive"
    # Windows reserves ``con.zip`` as it does ``con``: what follows the first dot does not count.
    if re.match(_RESERVED, stem):
        stem = f"_{stem}"
    return _cut(stem, MAX_NAME_BYTES - len(_SUFFIX)) + _SUFFIX


def _cut(stem: str, size: int) -> str:
    """Return at most ``size`` bytes of a name, in whole characters."""
    encoded = stem.encode()
    return stem if len(encoded) <= size else encoded[:size].decode(errors="ignore").rstrip(_SEPARATORS)
