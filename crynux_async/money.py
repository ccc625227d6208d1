"""Amounts of money: whole wei everywhere, and CNX for people only."""

WEI = 10**18
"""Wei of one CNX."""


def to_cnx(wei: int) -> str:
    """Return an amount in CNX, exactly, without zeros at its end, such as "1234.5".

    Args:
        wei: The amount.
    """
    sign, (whole, rest) = "-" if wei < 0 else "", divmod(abs(wei), WEI)
    return f"{sign}{whole}.{rest:018}".rstrip("0").rstrip(".")
