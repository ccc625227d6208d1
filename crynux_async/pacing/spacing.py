"""How far apart the creates of a key must be whose bucket holds one token, judged where round trips are long.

Such a bucket is at 0 when a create has passed, and again when the wait of a refusal is over. So a refusal tells the
seconds between two tokens: from the one moment to the other. When a create arrived is known to lie between its sending
and its answer, no better, so each refusal gives a least and a most, which always hold, and a guess halfway. They are
taken together: what must be lies between the largest least and the smallest most, and the guesses speak for the rest.
"""

import attrs

_KEPT = 8
_DOUBT = 0.6  # of the error of one guess, divided by how many there are: too slow costs less than too fast


@attrs.frozen(kw_only=True)
class Moment:
    """When a bucket was at 0: between ``least`` and ``most``, in seconds."""

    least: float
    most: float

    @classmethod
    def between(cls, sent_at: float, answered_at: float, wait: float = 0.0) -> "Moment":
        """Return what one create tells, which passed or was refused for ``wait`` seconds."""
        return cls(least=sent_at + wait, most=answered_at + wait)

    def until(self, later: "Moment") -> "Moment":
        """Return the seconds from this moment to a later one."""
        return Moment(least=later.least - self.most, most=later.most - self.least)


@attrs.frozen(kw_only=True)
class Spacing:
    """The seconds between two tokens as the last refusals tell them, oldest first; what they contradict is dropped."""

    seen: tuple[Moment, ...] = ()

    def with_refusal(self, seconds: Moment) -> "Spacing":
        """Return this with one more refusal."""
        kept: list[Moment] = [seconds]
        for one in reversed(self.seen):
            # A limit that was changed since makes the older ones void.
            if one.least > min(other.most for other in kept) or one.most < max(other.least for other in kept):
                break
            kept.insert(0, one)
        return Spacing(seen=tuple(kept[-_KEPT:]))

    @property
    def seconds(self) -> float:
        """What to keep between two creates."""
        guess = sum((one.least + one.most) / 2 for one in self.seen) / len(self.seen)
        error = sum((one.most - one.least) / 4 for one in self.seen) / len(self.seen)
        least, most = max(one.least for one in self.seen), min(one.most for one in self.seen)
        return min(max(guess + _DOUBT * error / len(self.seen), least + (most - least) / 8), most)
