"""Whole wei in a database: an amount is two columns, whole CNX and the wei beyond (0 to 10**18 - 1).

No database integer holds wei (64 bits end at 9.2 CNX), a float is not exact, and text cannot be added up. Two columns
are exact: sums of up to nine remainders fit into 64 bits, so a carry is one division; both databases divide whole
numbers that are not negative alike, downwards.
"""

from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, and_, bindparam, case, func, literal_column, or_
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from crynux_async.money import WEI

Pair = tuple[ColumnElement[int], ColumnElement[int]]
"""An amount inside a statement: whole CNX, and wei."""

_LIMB = 10**9
_WEI: ColumnElement[int] = literal_column(str(WEI), BigInteger)
_SMALL: ColumnElement[int] = literal_column(str(_LIMB), BigInteger)


def split(name: str, amount: int | None) -> dict[str, int | None]:
    """Return an amount as its two column values."""
    cnx, wei = (None, None) if amount is None else divmod(amount, WEI)
    return {f"{name}_cnx": cnx, f"{name}_wei": wei}


def joined(cnx: int | None, wei: int | None) -> int | None:
    """Return the amount of two column values."""
    return None if cnx is None or wei is None else cnx * WEI + wei


def columns(columns: ReadOnlyColumnCollection[str, Column[Any]], name: str) -> Pair:
    """Return an amount that a table keeps."""
    return columns[f"{name}_cnx"], columns[f"{name}_wei"]


def parameter(name: str) -> Pair:
    """Return an amount that comes with the statement's parameters."""
    return bindparam(f"{name}_cnx", type_=BigInteger), bindparam(f"{name}_wei", type_=BigInteger)


def stored(name: str, amount: Pair) -> dict[str, ColumnElement[int]]:
    """Return the columns that an UPDATE stores an amount in."""
    return {f"{name}_cnx": amount[0], f"{name}_wei": amount[1]}


def plus(*amounts: Pair) -> Pair:
    """Return the sum of at most nine amounts."""
    wei = _sum([wei for _, wei in amounts])
    return _sum([*(cnx for cnx, _ in amounts), wei // _WEI]), wei % _WEI


def minus(one: Pair, other: Pair) -> Pair:
    """Return a difference that is not negative."""
    wei = one[1] - other[1] + _WEI
    return one[0] - other[0] - literal_column("1", BigInteger) + wei // _WEI, wei % _WEI


def at_most(one: Pair, other: Pair) -> ColumnElement[bool]:
    """Return the condition that an amount is not larger than another."""
    return or_(one[0] < other[0], and_(one[0] == other[0], one[1] <= other[1]))


def total(pair: Pair, *, only: ColumnElement[bool] | None = None) -> list[ColumnElement[int]]:
    """Return three columns that add up an amount over many rows, for ``totalled``.

    The wei are added up in halves: the sum of ten whole remainders would not fit into 64 bits.

    Args:
        pair: The amount of one row.
        only: Which rows count, or None for all.
    """
    cnx, wei = pair
    parts = (cnx, wei // _SMALL, wei % _SMALL)
    chosen = parts if only is None else [case((only, part), else_=None) for part in parts]
    return [func.coalesce(func.sum(part), 0) for part in chosen]


def totalled(cnx: Any, high: Any, low: Any) -> int:
    """Return the sum that three columns of ``total`` give."""
    return int(cnx) * WEI + int(high) * _LIMB + int(low)


def _sum(parts: list[ColumnElement[int]]) -> ColumnElement[int]:
    first, *rest = parts
    for part in rest:
        first = first + part
    return first
