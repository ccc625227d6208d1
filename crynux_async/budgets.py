"""``Budget``: what a set of jobs may cost together, whichever processes send them."""

from decimal import Decimal

import attrs

from crynux_async.errors import UsageError
from crynux_async.money import from_wei, to_wei, wei_of
from crynux_async.values import Value


def _limit(cnx: Decimal | float | str | None) -> Decimal | None:
    return None if cnx is None else from_wei(wei_of(cnx, "cnx"))


def _is_name(_: object, attribute: "attrs.Attribute[str]", value: object) -> None:
    # What no database keeps in a text: a NUL, or half of a surrogate pair.
    if not isinstance(value, str) or not value or "\0" in value or any("\ud800" <= one <= "\udfff" for one in value):
        raise UsageError(f"a budget has a name, not {value!r:.40}", field=attribute.name)


@attrs.frozen(weakref_slot=False)
class Budget(Value):
    """What jobs may cost together. What one try may cost is held when it is sent, in every process on the ledger alike.

    ::

        Session(ledger="jobs.db", budget=Budget("cats", cnx=100))

    Attributes:
        name: Its name in the ledger: sessions that give the same name share it, and the newest limit counts.
        cnx: The limit in CNX, 0 <= cnx < 2**60; None for the one that is in the ledger.

    Raises:
        UsageError: There is no name, or the limit is no such number.
    """

    name: str = attrs.field(validator=_is_name)
    cnx: Decimal | None = attrs.field(default=None, converter=_limit, kw_only=True)

    @property
    def limit(self) -> int | None:
        """The limit in wei (10**-18 CNX), or None for the one that is in the ledger."""
        return None if self.cnx is None else to_wei(self.cnx)
