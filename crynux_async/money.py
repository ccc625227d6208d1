"""Amounts of money: whole wei everywhere, and CNX for people only."""

from decimal import ROUND_DOWN, Context, Decimal

WEI = 10**18
"""Wei of one CNX."""

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
