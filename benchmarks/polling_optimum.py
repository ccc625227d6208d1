"""When to look at jobs whose life is known: the optimum to which benchmarks of polling compare what was learned."""

import math
import random
from collections.abc import Callable

import attrs
import numpy as np

GRID = 1.0  # seconds between the instants among which the optimum chooses
DRAWS = 200_000

Draw = Callable[[random.Random], float]
Longest = Callable[[float], float]


@attrs.frozen(kw_only=True, eq=False)
class Ages:
    """How long a part of a life takes: what part has ended by each instant of the grid, and the integral of that."""

    ended: "np.ndarray"
    area: "np.ndarray"

    @classmethod
    def of(cls, draw: Draw) -> "Ages":
        rng = random.Random(0)
        drawn = np.sort([draw(rng) for _ in range(DRAWS)])
        grid = np.arange(0.0, drawn[-1] + 2 * GRID, GRID)
        ended = np.searchsorted(drawn, grid, side="right") / DRAWS
        steps = (ended[1:] + ended[:-1]) / 2 * GRID
        return cls(ended=ended, area=np.concatenate([[0.0], np.cumsum(steps)]))

    def plan(
        self, price: float, *, shortest: float, longest: Longest = lambda _: math.inf
    ) -> tuple["np.ndarray", "np.ndarray"]:
        """Return for each age at which it lasts the next at which to look, and the least cost from then on.

        The cost is delay plus ``price`` for each look, times the part of lives that come to that age.
        """
        count, least = len(self.ended), math.ceil(shortest / GRID)
        at = np.arange(count) * GRID
        cost, following = np.zeros(count), np.minimum(np.arange(count) + least, count - 1)
        for here in range(count - 1 - least, -1, -1):
            lived = 1.0 - self.ended[here]
            if lived <= 0.0:
                continue
            most = max(least, int(min(longest(here * GRID) / GRID, count)))
            later = slice(here + least, min(here + most + 1, count))
            hidden = self.area[later] - self.area[here] - self.ended[here] * (at[later] - at[here])
            whole = price * lived + hidden + cost[later]
            best = int(np.argmin(whole))
            following[here], cost[here] = here + least + best, whole[best]
        return following, cost

    def schedule(self, price: float, *, shortest: float) -> list[float]:
        """Return the ages at which to look, one after the other, so that the cost is least."""
        following, _ = self.plan(price, shortest=shortest)
        last = len(self.ended) - 1
        ages, here = [], 0
        while here < last:
            here = int(following[here]) if self.ended[here] < 1.0 else last
            ages.append(here * GRID)
        return ages
