"""Fair shares: how many of the unfinished jobs on a ledger each session that follows should hold.

Theory of operation. A session that is not alone takes no more than its share of what is free, so that the others find
theirs when they look; whatever is still free some looks later is taken whole by whoever comes first. One that holds far
more than its share, because it was there before the others came, gives the surplus back.
"""

import math

_TOLERATED = 1.5  # times its share, which a session may hold without giving anything back
_WORTH_GIVING = 2  # jobs
_TAKE_ALL_EVERY = 3  # looks


def share_of(total: int, followers: int) -> int:
    """Return how many jobs each session should hold at most.

    Args:
        total: Unfinished jobs, held or free, >= 0.
        followers: Sessions that follow, >= 1.
    """
    return math.ceil(total / followers)


def room_for(total: int, followers: int, mine: int, look: int) -> int | None:
    """Return how many free jobs a session may take, or None for all of them.

    Args:
        total: Unfinished jobs, held or free.
        followers: Sessions that follow, this one included.
        mine: How many of them it holds.
        look: How often it has looked for free jobs before, >= 0.
    """
    if followers <= 1 or look % _TAKE_ALL_EVERY == _TAKE_ALL_EVERY - 1:
        return None
    return max(0, share_of(total, followers) - mine)


def surplus_of(total: int, followers: int, mine: int) -> int:
    """Return how many jobs a session should give back, >= 0.

    Args:
        total: Unfinished jobs, held or free.
        followers: Sessions that follow, this one included.
        mine: How many of them it holds.
    """
    share = share_of(total, followers)
    surplus = mine - share
    return surplus if mine > _TOLERATED * share and surplus >= _WORTH_GIVING else 0
