"""Files at the top of a data set that a node reads before anything else, and that may stop it.

Source: datasets 3.1.0 load.py (LocalDatasetModuleFactoryWithoutScript.get_module); huggingface_hub repocard.py
(RepoCard.content).
"""

import re
from collections.abc import Mapping, Sequence, Set
from typing import Final

from crynux_async.datasets.problems import DatasetProblem, named, problem
from crynux_async.errors import UsageError

README: Final = "README.md"
SETTINGS_FILES: Final = (README, ".huggingface.yaml", "dataset_infos.json")
"""The files that may tell the loader what to load, at the top only."""

_HEAD: Final = re.compile(r"\s*---(?:\r\n|\r|\n)([\S\s]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|\Z)")
_DECIDING: Final = ("configs", "dataset_info")
# Heads of people have some hundred bytes, and YAML is read slowly.
_MOST_HEAD: Final = 1 << 16


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
    deciding = [name for name in files if name != README]
    if head and len(head[1]) > _MOST_HEAD:
        deciding.insert(0, f"the head of {README}")
    elif head:
        try:
            if not _keys(head[1]).isdisjoint(_DECIDING):
                deciding.insert(0, f"the head of {README}")
        except ValueError as error:
            text = f"{README} begins with a line '---', so that a node reads what follows as YAML, and stops: {error}."
            return (problem("CX315", text, [README], severity="error"), *_decided(deciding))
    return _decided(deciding)


def _keys(head: str) -> Set[str]:
    """Return the keys of a head.

    Raises:
        ValueError: A node stops at it.
    """
    try:
        import yaml
    except ImportError as error:
        raise UsageError("checking data sets needs PyYAML: pip install 'crynux-async[datasets]'") from error
    try:
        settings = yaml.safe_load(head)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if settings is None:
        return frozenset()
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ValueError("it is not a mapping of names to values")
    return settings.keys()


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
