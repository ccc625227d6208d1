"""What is found of a data set or a config: how bad it is, and the worst first."""

from collections.abc import Iterable
from typing import Final, Literal, Protocol, TypeVar, get_args

Severity = Literal["error", "warning", "note"]
"""How bad a finding is, of a data set or of a config; the worst comes first."""

_ORDER: Final[tuple[Severity, ...]] = get_args(Severity)


class Finding(Protocol):
    """A problem of a data set, or an advice about a config."""

    @property
    def code(self) -> str:
        """The stable code."""

    @property
    def severity(self) -> Severity:
        """How bad it is."""


AnyFinding = TypeVar("AnyFinding", bound=Finding)


def in_order(findings: Iterable[AnyFinding]) -> tuple[AnyFinding, ...]:
    """Findings, errors first, then by code."""
    return tuple(sorted(findings, key=lambda found: (_ORDER.index(found.severity), found.code)))


def has_error(findings: Iterable[Finding]) -> bool:
    """Whether one of them is an error: what it is about cannot work."""
    return any(found.severity == "error" for found in findings)
