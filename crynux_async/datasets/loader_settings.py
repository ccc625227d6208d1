"""Files at the top of a data set that a node reads before anything else, and that may stop it.

Source: datasets 3.1.0 load.py (LocalDatasetModuleFactoryWithoutScript.get_module); huggingface_hub repocard.py
(RepoCard.content).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from crynux_async.datasets.problems import DatasetProblem, named, problem

README: Final = "README.md"
SETTINGS_FILES: Final = (README, ".huggingface.yaml", "dataset_infos.json")
"""The files that may tell the loader what to load, at the top only."""

_HEAD: Final = re.compile(r"\s*---(?:\r\n|\r|\n)([\S\s]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|\Z)")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_DECIDING: Final = ("configs", "dataset_info")
# The YAML that is certain without a reader of YAML: keys with words, quoted texts and lists of them.
_LIST: Final = r"\[(?:[\w./-]+(?:, *[\w./-]+)*)?\]"
_VALUE: Final = rf"""(?:[A-Za-z0-9_/](?:[^\s:]|:(?=\S)|[ ](?!#))*|"[^"\\]*"|'[^']*'|{_LIST})"""
_PAIR: Final = re.compile(rf"([A-Za-z_][\w.-]*):(?:[ ]+({_VALUE}))?[ ]*")
_ITEM: Final = re.compile(rf"([ ]*)-[ ]+{_VALUE}[ ]*")


def judge_settings(files: Mapping[str, bytes]) -> tuple[DatasetProblem, ...]:
    """Say what these files do to the loading.

    Args:
        files: The content of those that are there.

    Returns:
        The problems. Unless there are none, what a node loads is not known.
    """
    readme = files.get(README, b"")
    if not _is_text(readme):
        text = f"{README} is not UTF-8, and a node that cannot read it stops."
        return (problem("CX302", text, [README]),)
    head = _HEAD.match(readme.decode("utf-8-sig"))
    lines = _LINE_END.split(head[1]) if head else []
    keys = {line.partition(":")[0] for line in lines}
    deciding = [name for name in files if name != README]
    if keys & frozenset(_DECIDING):
        deciding.insert(0, f"the head of {README}")
    elif lines and not _is_plain(lines):
        text = (
            f"{README} begins with a line '---', so that a node reads what follows as YAML and stops when it is none; "
            "it was not read here."
        )
        return (problem("CX315", text, [README]), *_decided(deciding))
    return _decided(deciding)


def _decided(deciding: Sequence[str]) -> tuple[DatasetProblem, ...]:
    if not deciding:
        return ()
    text = f"These settings decide what is loaded, and were not followed here: {named(deciding)}."
    return (problem("CX315", text, deciding),)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_plain(lines: Sequence[str]) -> bool:
    """Whether these lines certainly are a mapping in YAML."""
    return all(_are_plain(lines))


def _are_plain(lines: Sequence[str]) -> Iterator[bool]:
    indent: str | None = None
    takes_items = False
    for line in lines:
        if not line.isprintable():
            yield False
        elif not line.strip() or line.startswith("#"):
            continue
        elif pair := _PAIR.fullmatch(line):
            takes_items, indent = pair[2] is None, None
            yield True
        elif item := _ITEM.fullmatch(line):
            yield takes_items and indent in {None, item[1]}
            indent = item[1]
        else:
            yield False
