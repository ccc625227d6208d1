"""What the ending of a model name asks of the emulated network."""

from typing import Any, Literal

import attrs

Fate = Literal["trains", "fails", "silent", "stalls", "never_finishes"]

_FATES: dict[str, Fate] = {"fail": "fails", "stall": "stalls", "nofinish": "never_finishes"}
_LONGEST_NUMBER = 6


@attrs.frozen(kw_only=True)
class Wishes:
    """What the endings of a model name ask for.

    Attributes:
        model_name: The name without them.
        fate: What becomes of the job, as far as its name decides.
        untrained: Whether all ``up`` tensors are zero.
        nan: Whether all weights are NaN.
        extra_mebibytes: How much larger the archive is.
    """

    model_name: str
    fate: Fate = "trains"
    untrained: bool = False
    nan: bool = False
    extra_mebibytes: int = 0


def wishes(model_name: str) -> Wishes:
    """Return what the endings of a model name ask for; several may follow each other.

    ``/fail``, ``/stall``, ``/nofinish``: the job fails, hangs, or makes rounds for ever. ``/untrained``, ``/nan``: so
    are its weights. ``/big-100``: its archive has 100 MiB more.
    """
    parts = model_name.split("/")
    found: dict[str, Any] = {}
    while len(parts) > 1 and (wish := _wish(parts[-1])):
        found = {**found, **wish}
        parts.pop()
    return Wishes(model_name="/".join(parts), **found)


def _wish(ending: str) -> dict[str, Any]:
    if ending in _FATES:
        return {"fate": _FATES[ending]}
    if ending in ("untrained", "nan"):
        return {ending: True}
    number = ending.removeprefix("big-")
    is_big = number != ending and number.isascii() and number.isdigit() and len(number) <= _LONGEST_NUMBER
    return {"extra_mebibytes": int(number)} if is_big else {}
