"""What came: the result archive of a task, opened without trusting it, judged, and exported for other programs.

Users import ``LoraArchive`` from here. Read ``lora_archive``, then ``members`` (the files inside), ``lora`` and
``scaling`` (modules and their alpha), ``weights`` and ``norms`` (numbers), ``health`` (verdicts), ``families``, and
``export`` and ``merging`` with ``naming`` and ``metadata`` (files for other programs), ``arriving`` (archives of which
there is more and more) with ``side_by_side`` and ``deflate_cuts`` (read by several threads); below them
``safetensors``, ``raw_numbers``, ``zip_directory``, ``zip_members``, ``inflate``.
Names are loaded when they are first used: the command line needs one of them, and a session none until something comes.
"""

from typing import TYPE_CHECKING

from crynux_async.lazy import loader_of

if TYPE_CHECKING:
    from crynux_async.archive.families import Family
    from crynux_async.archive.health import AskedFor, Health, HealthCode, HealthProblem
    from crynux_async.archive.lora import LoraModule
    from crynux_async.archive.lora_archive import ArchiveKind, ArchiveSummary, LoraArchive, verify_archive
    from crynux_async.archive.merging import Part, merge
    from crynux_async.archive.naming import Program
    from crynux_async.archive.norms import Norms
    from crynux_async.archive.safetensors import TensorInfo
    from crynux_async.archive.strength import Strength, Verdict
    from crynux_async.archive.zip_members import ArchiveLimits, Member

_HOME_OF = {
    "ArchiveKind": "lora_archive",
    "ArchiveLimits": "zip_members",
    "ArchiveSummary": "lora_archive",
    "AskedFor": "health",
    "Family": "families",
    "Health": "health",
    "HealthCode": "health",
    "HealthProblem": "health",
    "LoraArchive": "lora_archive",
    "LoraModule": "lora",
    "Member": "zip_members",
    "Norms": "norms",
    "Part": "merging",
    "Program": "naming",
    "Strength": "strength",
    "TensorInfo": "safetensors",
    "Verdict": "strength",
    "merge": "merging",
    "verify_archive": "lora_archive",
}

__all__ = [
    "ArchiveKind",
    "ArchiveLimits",
    "ArchiveSummary",
    "AskedFor",
    "Family",
    "Health",
    "HealthCode",
    "HealthProblem",
    "LoraArchive",
    "LoraModule",
    "Member",
    "Norms",
    "Part",
    "Program",
    "Strength",
    "TensorInfo",
    "Verdict",
    "merge",
    "verify_archive",
]


__getattr__ = loader_of(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
