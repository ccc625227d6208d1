"""What a ledger remembers of a sweep besides its jobs: what its name stands for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crynux_async.errors import ConflictError
from crynux_async.ledgers.base import Ledger
from crynux_async.secret import mask_address, show_differences

if TYPE_CHECKING:
    from crynux_async.sweeps.sweep import Sweep

SCOPE = "sweep"
TAG = "sweep"
"""The tag that every job of a sweep has, with the sweep's name."""


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
            differences={field: (mask_address(old), mask_address(new)) for field, (old, new) in differences.items()},
            field="base",
        )
