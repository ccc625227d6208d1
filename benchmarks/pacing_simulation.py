"""A key at a bridge, its creates and what befalls them, event by event: what ``benchmarks.pacing_fuzz`` runs.

The limiter is the emulator's, which is the bridge's. Nothing waits: an hour of creates takes milliseconds. A create
that hangs is answered by nobody and times out at its sender; the bridge has counted it or has not.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable
from functools import partial

import attrs

from crynux_async.emulator.bridge.go_limiter import GoLimiter
from crynux_async.pacing.token_bucket import Attempt, Outcome, TokenBucket

TIME_OUT = 60.0
PLACES = 8  # the usual ``max_creates``
_SECOND = 1_000_000_000


@attrs.frozen(kw_only=True)
class Scene:
    """What happens to one key. Times are seconds from the start, durations seconds.

    Attributes:
        limit: Creates per minute that the bridge allows, > 0.
        burst: Tokens that its bucket holds, full at first.
        is_told: Whether the client is told the limit; its burst it is told with it if ``told_burst``.
        told_burst: Whether it is told the burst too, where that is not the limit.
        jobs: Creates to be accepted.
        way_out: The shortest and the longest way of a create to the bridge.
        way_back: The same of an answer.
        hanging: The part of creates that time out.
        counted: The part of these that reach the bridge all the same.
        foreign: When somebody else uses the key.
        limits: When the limit is changed, and to what.
        restarts: When the client is killed and started anew, with its ledger.
        bridge_restarts: When the bridge is, which fills every bucket.
        clock_steps: When the client's clock is set, and by how much.
        seed: Of the ways and of what hangs.
    """

    limit: float
    burst: int
    is_told: bool = False
    told_burst: bool = True
    jobs: int = 1000
    way_out: tuple[float, float] = (0.05, 0.15)
    way_back: tuple[float, float] = (0.05, 0.15)
    hanging: float = 0.0
    counted: float = 0.5
    foreign: tuple[float, ...] = ()
    limits: tuple[tuple[float, float], ...] = ()
    restarts: tuple[float, ...] = ()
    bridge_restarts: tuple[float, ...] = ()
    clock_steps: tuple[tuple[float, float], ...] = ()
    seed: int = 0


@attrs.frozen(kw_only=True)
class Outline:
    """What became of a scene.

    Attributes:
        seconds: When the last job was accepted.
        refusals: Creates that the rate limiter refused.
        settled_at: When the job a fifth of the way was accepted: from there on the pace counts as learned.
        believed: The limit that the client believed in then, or None.
    """

    seconds: float
    refusals: int
    settled_at: float
    believed: float | None


def play(scene: Scene) -> Outline:
    """Let a scene happen and return what became of it.

    Raises:
        RuntimeError: Nothing would ever be sent again.
    """
    return _Play(scene).run()


class _Play:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._random = random.Random(scene.seed)
        self._now = 0.0
        self._clock_offset = 1000.0
        self._limiter = GoLimiter(scene.limit / 60, scene.burst)
        self._bucket = self._fresh()
        self._queued, self._flying, self._life = scene.jobs, 0, 0
        self._accepted_at: list[float] = []
        self._believed: float | None = None
        self._refusals = 0
        self._attempts: list[Attempt] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._plan()

    def run(self) -> Outline:
        scene = self._scene
        while len(self._accepted_at) < scene.jobs:
            self._step()
        settled_at = self._accepted_at[scene.jobs // 5]
        return Outline(
            seconds=self._accepted_at[-1], refusals=self._refusals, settled_at=settled_at, believed=self._believed
        )

    def _plan(self) -> None:
        scene = self._scene
        for at in scene.foreign:
            self._at(at, self._use_elsewhere)
        for at, limit in scene.limits:
            self._at(at, partial(self._change_limit, limit))
        for at in scene.restarts:
            self._at(at, self._restart)
        for at in scene.bridge_restarts:
            self._at(at, self._restart_bridge)
        for at, step in scene.clock_steps:
            self._at(at, partial(self._set_clock, step))

    def _step(self) -> None:
        ready_at = math.inf
        if self._queued and self._flying < PLACES:
            ready_at = self._bucket.ready_at(self._clock()) - self._clock_offset
        if ready_at <= self._now + 1e-9:
            self._send()
        elif self._events and self._events[0][0] <= ready_at:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        elif ready_at < math.inf:
            self._now = ready_at
        else:
            raise RuntimeError(f"nothing is in flight and nothing will ever be ready: {self._bucket!r}")

    def _send(self) -> None:
        scene, sent_at, life = self._scene, self._now, self._life
        self._queued -= 1
        self._flying += 1
        ticket, index = self._bucket.sent(self._clock()), len(self._attempts)
        self._attempts.append(Attempt(sent_at=self._clock()))
        out, back = self._random.uniform(*scene.way_out), self._random.uniform(*scene.way_back)
        hangs, arrives = self._random.random() < scene.hanging, self._random.random() < scene.counted

        def answered(outcome: Outcome, wait: float | None) -> None:
            self._answer(ticket, index, outcome, wait, life)

        def arrived() -> None:
            wait = self._reserve()
            outcome = Outcome.ACCEPTED if wait is None else Outcome.LIMITED
            if not hangs:
                self._at(self._now + back, lambda: answered(outcome, wait))
            self._note(wait)

        if hangs:
            self._at(sent_at + TIME_OUT, lambda: answered(Outcome.CHARGED, None))
        if arrives or not hangs:
            self._at(sent_at + out, arrived)
        else:
            self._queued += 1  # another job takes its place

    def _note(self, wait: float | None) -> None:
        if wait is not None:
            self._refusals += 1
            self._queued += 1
            return
        self._accepted_at.append(self._now)
        if len(self._accepted_at) == self._scene.jobs // 5 + 1:
            self._believed = self._bucket.limit_per_minute

    def _answer(self, ticket: int, index: int, outcome: Outcome, wait: float | None, life: int) -> None:
        if life != self._life:
            return  # its process is gone
        self._flying -= 1
        now = self._clock()
        self._attempts[index] = attrs.evolve(self._attempts[index], answered_at=now, outcome=outcome, wait=wait)
        if outcome is Outcome.LIMITED:
            self._bucket.limited(ticket, now, wait)
        elif outcome is Outcome.ACCEPTED:
            self._bucket.accepted(ticket, now)
        else:
            self._bucket.charged(ticket, now)

    def _reserve(self) -> float | None:
        """Take a token as the bridge does; return None, or the wait that its refusal names with two digits."""
        wait = self._limiter.reserve(round(self._now * _SECOND))
        return None if wait == 0 else float(f"{(wait or 0) / _SECOND:.2f}")

    def _use_elsewhere(self) -> None:
        self._reserve()

    def _change_limit(self, limit: float) -> None:
        self._limiter.set_rate(round(self._now * _SECOND), limit / 60)

    def _restart(self) -> None:
        self._life += 1
        self._flying = 0
        limit, burst = self._told()
        self._bucket = TokenBucket.replay(self._attempts, limit_per_minute=limit, burst=burst, now=self._clock())

    def _restart_bridge(self) -> None:
        self._limiter = GoLimiter(self._limiter.rate, self._limiter.burst)

    def _set_clock(self, step: float) -> None:
        self._clock_offset += step

    def _fresh(self) -> TokenBucket:
        limit, burst = self._told()
        return TokenBucket(limit_per_minute=limit, burst=burst, now=self._clock())

    def _told(self) -> tuple[float | None, int | None]:
        scene = self._scene
        burst = scene.burst if scene.is_told and scene.told_burst else None
        return scene.limit if scene.is_told else None, burst

    def _clock(self) -> float:
        return self._now + self._clock_offset

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happen))
