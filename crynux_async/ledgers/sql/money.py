"""Whole wei in a database: an amount is two columns, whole CNX and the wei beyond (0 to 10**18 - 1).

No database integer holds wei (64 bits end at 9.2 CNX), a float is not exact, and text cannot be added up. Two columns
are exact: sums of up to nine remainders fit into 64 bits, so a carry is one division; both databases divide whole
numbers that are not negative alike, downwards.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from crynux_async.money import WEI

Pair = tuple[str, str]
"""An amount inside a statement: whole CNX, and wei; each a column, a parameter, or what they add up to."""

_LIMB = 10**9
_AMOUNTS = ("fee", "spent")


def split(name: str, amount: int | None) -> dict[str, int | None]:
    """Return an amount as its two column values."""
    cnx, wei = (None, None) if amount is None else divmod(amount, WEI)
    return {f"{name}_cnx": cnx, f"{name}_wei": wei}


def joined(cnx: int | None, wei: int | None) -> int | None:
    """Return the amount of two column values."""
    return None if cnx is None or wei is None else cnx * WEI + wei


def spread(names: Iterable[str]) -> Iterator[str]:
    """Yield the columns of a row's attributes; an amount of money is two."""
    for name in names:
        yield from pair(name) if name in _AMOUNTS else (name,)


def pair(name: str) -> Pair:
    """Return an amount that a table keeps, or, of a name with a colon before it, that comes with a row."""
    return f"{name}_cnx", f"{name}_wei"


def stored(name: str, amount: Pair) -> str:
    """Return what an UPDATE sets to store an amount."""
    return ", ".join(f"{column} = {part}" for column, part in zip(pair(name), amount, strict=True))


def plus(*amounts: Pair) -> Pair:
    """Return the sum of at most nine amounts."""
    wei = " + ".join(wei for _, wei in amounts)
    return " + ".join([*(cnx for cnx, _ in amounts), f"({wei}) / {WEI}"]), f"({wei}) % {WEI}"


def minus(one: Pair, other: Pair) -> Pair:
    """Return a difference that is not negative."""
    wei = f"({one[1]} - {other[1]} + {WEI})"
    return f"{one[0]} - {other[0]} - 1 + {wei} / {WEI}", f"{wei} % {WEI}"


def at_most(one: Pair, other: Pair) -> str:
    """Return the condition that an amount is not larger than another."""
    return f"({one[0]} < {other[0]} OR {one[0]} = {other[0]} AND {one[1]} <= {other[1]})"


def total(amount: Pair, *, only: str = "") -> str:
    """Return three columns that add up an amount over many rows, for ``totalled``.

    The wei are added up in halves: the sum of ten whole remainders would not fit into 64 bits.

    Args:
        amount: That of one row.
        only: The condition for a row to count; "" for all.
    """
    cnx, wei = amount
    parts = (cnx, f"{wei} / {_LIMB}", f"{wei} % {_LIMB}")
    chosen = (f"CASE WHEN {only} THEN {part} END" if only else part for part in parts)
    return ", ".join(f"coalesce(sum({part}), 0)" for part in chosen)


def totalled(cnx: Any, high: Any, low: Any) -> int:
    """Return the sum that three columns of ``total`` give."""
    return int(cnx) * WEI + int(high) * _LIMB + int(low)
