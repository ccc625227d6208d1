"""What a ledger remembers of a sweep besides its jobs: what its name stands for, and what its trials are ranked by."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from crynux_async.errors import ConflictError
from crynux_async.ledgers.base import Ledger
from crynux_async.secret import mask_address, show_differences

if TYPE_CHECKING:
    from crynux_async.sweeps.sweep import Sweep

SCOPE = "sweep"
TAG = "sweep"
"""The tag that every job of a sweep has, with the sweep's name."""
_RANKING = "sweep ranking"
_OBJECTIVE = "sweep objective"


@attrs.frozen(kw_only=True)
class Ranking:
    """What the trials of a sweep are ranked by, where the function that said so may not be at hand.

    Attributes:
        objective_name: What the function is called.
        minimize: Whether a smaller objective is better.
        is_strength: Whether it is the library's own, ``strength``.
    """

    objective_name: str
    minimize: bool
    is_strength: bool


async def enter(ledger: Ledger, sweep: "Sweep") -> None:
    """Enter what a sweep's name stands for, or check that it is what it stood for before.

    Raises:
        ConflictError: The name stands for another base; says for which, and what can be done.
        LedgerError: The ledger failed.
    """
    asked = sweep.asked()
    while True:  # ends: of those who enter a name at once, the first one's word stands
        known = await ledger.note(SCOPE, sweep.name)
        if known is not None:
            check_same(sweep.name, known, asked)
            return
        if await ledger.put_note(SCOPE, sweep.name, asked, expected=None):
            return


async def enter_ranking(ledger: Ledger, name: str, ranking: Ranking) -> None:
    """Enter what a sweep is ranked by from now on.

    Raises:
        LedgerError: The ledger failed.
    """
    await ledger.put_note(_RANKING, name, attrs.asdict(ranking))


async def ranking_of(ledger: Ledger, name: str) -> Ranking | None:
    """Return what a sweep was ranked by when it last ran, or None.

    Raises:
        LedgerError: The ledger failed.
    """
    known = await ledger.note(_RANKING, name)
    return None if known is None else Ranking(**known)


async def enter_objective(ledger: Ledger, job_id: str, objective: float) -> None:
    """Enter what a trial is ranked by.

    Raises:
        LedgerError: The ledger failed.
    """
    await ledger.put_note(_OBJECTIVE, job_id, objective)


async def objective_of(ledger: Ledger, job_id: str) -> float | None:
    """Return what a trial was ranked by when it ended, or None.

    Raises:
        LedgerError: The ledger failed.
    """
    known: float | None = await ledger.note(_OBJECTIVE, job_id)
    return known


def check_same(name: str, known: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Check that a name stands for the same base as before.

    Raises:
        ConflictError: It does not.
    """
    before, now = known["base"], asked["base"]
    differences = {
        field: (before.get(field), now.get(field))
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field)
    }
    if differences:
        said = show_differences(differences)
        raise ConflictError(
            f"the sweep {name!r} has another base in this ledger: {said}. Give the changed sweep another name, or let "
            "a point change the field: points may be added at any time",
            # Masked: a presigned address is a credential, and what an error has ends in logs.
            differences={field: (mask_address(old), mask_address(new)) for field, (old, new) in differences.items()},
            field="base",
        )
