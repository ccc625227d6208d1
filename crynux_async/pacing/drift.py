"""Whether the jobs of one kind still end when they used to.

Theory of operation
-------------------
A job that lives through ages over which its hazard adds up to h has done what has the probability ``e^-h``. If jobs of
its kind now ended k times as often, that would be ``e^-kh``. The logarithm of how much likelier everything seen has
become is a sum: ``-(k - 1) h`` for what a job lived through, and ``log((1 - e^-kh) / (1 - e^-h))`` for one that ended
within h. Two such sums are kept, one for a kind that has become four times as fast and one for a quarter, neither
falls below 0, and the first to reach ``_ALARM`` speaks: after nine ends where none were expected, or a few jobs that
live through all the ages at which they should have ended. A kind that stays as it is comes to that about once in thirty
thousand ends. What jobs live through counts as well as their ends, for of many that are sent at once the quick ones
always end first.

Source: Page, "Continuous inspection schemes", Biometrika 41, 1954; Lorden, "Procedures for reacting to a change in
distribution", Annals of Mathematical Statistics 42(6), 1971.
"""

import math

_FACTOR = 4.0
_ALARM = 12.0


class Drift:
    """Watches jobs of one kind for a change."""

    __slots__ = ("_faster", "_slower")

    def __init__(self) -> None:
        self._faster = self._slower = 0.0

    def lived(self, hazard: float) -> bool:
        """Take note that a job lived through so much hazard, >= 0; return whether the kind has changed."""
        faster = self._faster - (_FACTOR - 1.0) * hazard
        self._faster = max(0.0, faster)
        self._slower += (1.0 - 1.0 / _FACTOR) * hazard
        return self._slower >= _ALARM and self._alarm()

    def ended(self, hazard: float) -> bool:
        """Take note that a job ended within so much hazard, >= 0; return whether the kind has changed."""
        self._faster += _gain(_FACTOR, hazard)
        self._slower = max(0.0, self._slower + _gain(1.0 / _FACTOR, hazard))
        return max(self._faster, self._slower) >= _ALARM and self._alarm()

    def _alarm(self) -> bool:
        """Begin to watch anew."""
        self._faster = self._slower = 0.0
        return True


def _gain(factor: float, hazard: float) -> float:
    """Return the log of how much likelier an end within ``hazard`` is if there are ``factor`` times as many."""
    if hazard < 1e-9:
        return math.log(factor)
    return math.log(math.expm1(-factor * hazard) / math.expm1(-hazard))
