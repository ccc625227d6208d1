"""Amounts of money: whole wei everywhere, and CNX for people only."""

from decimal import ROUND_DOWN, Context, Decimal, InvalidOperation

from crynux_async.errors import UsageError

WEI = 10**18
"""Wei of one CNX."""

_MOST_CNX = 2**60  # what every ledger can keep

# Decimal's usual 28 digits hold 10**10 CNX to the wei and no more; the largest amount, 2**60 CNX, has 37.
_EXACT = Context(prec=60, rounding=ROUND_DOWN)


def to_wei(cnx: Decimal) -> int:
    """Return an amount of CNX in wei, rounded down.

    Args:
        cnx: The amount, 0 <= cnx < 2**60.
    """
    return int(_EXACT.multiply(cnx, WEI))


def from_wei(wei: int) -> Decimal:
    """Return an amount in CNX, exactly.

    Args:
        wei: The amount, 0 <= wei < 2**60 * 10**18.
    """
    return _EXACT.divide(Decimal(wei), WEI)


def to_cnx(wei: int) -> str:
    """Return an amount in CNX, exactly, without zeros at its end, such as "1234.5".

    Args:
        wei: The amount.
    """
    sign, (whole, rest) = "-" if wei < 0 else "", divmod(abs(wei), WEI)
    return f"{sign}{whole}.{rest:018}".rstrip("0").rstrip(".")


def wei_of(cnx: Decimal | float | str, field: str) -> int:
    """Return an amount of CNX in wei, rounded down.

    Args:
        cnx: The amount, 0 <= cnx < 2**60.
        field: What it is, for the message.

    Raises:
        UsageError: It is no such number.
    """
    try:
        # By its text: 0.1 is a tenth, and not the binary fraction next to it.
        amount = Decimal(str(cnx))
    except InvalidOperation:
        amount = Decimal("NaN")
    if isinstance(cnx, bool) or not amount.is_finite() or not 0 <= amount < _MOST_CNX:
        raise UsageError(f"{field} must be a number of CNX from 0 to 2**60, not {cnx!r:.40}", field=field)
    return to_wei(amount)
