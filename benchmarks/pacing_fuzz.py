"""What a key's limiter can meet, drawn at random: ``python -m benchmarks.pacing_fuzz [--runs N]``.

Each family of scenes is drawn N times (20 by default) from fixed seeds. A ratio is the time that a thousand creates
take over the time that they take a client that is told limit and burst, in the same scene; for clients that are told,
over the optimum (N - burst) * 60 / limit, which nobody reaches whose round trips are long: with a burst of 1 each
create waits for the answer to the one before. The pace is the same from the 200th create on, when an unknown limit
should be learned. Limits are 0.1 to 600 a minute, ways 0 to 60 s.
"""

import argparse
import random
from collections.abc import Callable
from statistics import median

import attrs

from benchmarks.pacing_simulation import Outline, Scene, play
from benchmarks.reporting import finish, show_table

RUNS = 20
JOBS = 1000
MOST_REFUSALS = 5
CLOSE = 1.05

Draw = Callable[[random.Random], Scene]
Row = tuple[str, int, float, float, float, float, float, float, int]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--only", default="", help="families whose name holds this")
    options = parser.parse_args()
    rows = [_row(name, draw, options.runs) for name, draw in FAMILIES.items() if options.only in name]
    columns = ("family", "runs", "ratio", "p90", "most", "pace", "p90", "refusals", "most")
    show_table(f"{JOBS} creates of one key; refusals of a run: median and most", columns, rows)
    keys = ("family", "runs", "ratio", "ratio_p90", "ratio_most", "pace", "pace_p90", "refusals", "refusals_most")
    finish("pacing_fuzz", {"rows": [dict(zip(keys, row, strict=True)) for row in rows]})


def _row(name: str, draw: Draw, runs: int) -> Row:
    ratios, paces, refusals = [], [], []
    for seed in range(runs):
        scene = attrs.evolve(draw(random.Random(f"{name} {seed}")), seed=seed)
        outline = play(scene)
        seconds, pace = _fastest(scene)
        ratios.append(outline.seconds / seconds)
        paces.append((outline.seconds - outline.settled_at) / pace)
        refusals.append(outline.refusals)
    return (
        name,
        runs,
        median(ratios),
        _p90(ratios),
        max(ratios),
        median(paces),
        _p90(paces),
        float(median(refusals)),
        max(refusals),
    )


def _fastest(scene: Scene) -> tuple[float, float]:
    """Return the seconds that a scene takes whoever knows everything, and those from the 200th create on."""
    told: Outline = play(attrs.evolve(scene, is_told=True, told_burst=True))
    if not scene.is_told:
        return told.seconds, told.seconds - told.settled_at
    least = max(0.0, scene.jobs - scene.burst) * 60 / scene.limit + max(scene.way_out) + max(scene.way_back)
    return least, least * 0.8


def _p90(values: list[float]) -> float:
    return sorted(values)[int(0.9 * (len(values) - 1))]


def _limit(rng: random.Random, low: float = 0.1, high: float = 600.0) -> float:
    limit = low * (high / low) ** rng.random()
    return float(round(limit)) if limit >= 1 else round(limit, 1)


def _with_ways(scene: Scene, rng: random.Random, longest: float = 10.0) -> Scene:
    """Return a scene with ways between a shortest, which may be long, and a longest: the rest is jitter."""
    most = 0.1 * (longest / 0.1) ** rng.random()
    ways = most * rng.choice([0.02, 0.1, 0.5, 0.95]), most
    return attrs.evolve(scene, way_out=ways, way_back=ways)


def _known(rng: random.Random) -> Scene:
    limit = _limit(rng)
    return _with_ways(Scene(limit=limit, burst=rng.choice([1, max(1, int(limit))]), is_told=True), rng, 60.0)


def _unknown(rng: random.Random) -> Scene:
    limit = _limit(rng, 1.0)
    return Scene(limit=limit, burst=int(limit))


def _unknown_jitter(rng: random.Random) -> Scene:
    limit = _limit(rng, 1.0)
    return _with_ways(Scene(limit=limit, burst=int(limit)), rng)


def _raised_jitter(rng: random.Random) -> Scene:
    return _with_ways(Scene(limit=_limit(rng, 2.0), burst=1), rng)


def _any_burst(rng: random.Random) -> Scene:
    return _with_ways(Scene(limit=_limit(rng, 1.0), burst=rng.randint(1, 60)), rng, 1.0)


def _hanging(rng: random.Random) -> Scene:
    limit = _limit(rng, 5.0, 120.0)
    return Scene(limit=limit, burst=int(limit), is_told=True, hanging=0.05)


def _hanging_unknown(rng: random.Random) -> Scene:
    return attrs.evolve(_hanging(rng), is_told=False, hanging=0.03)


def _foreign(rng: random.Random) -> Scene:
    limit = _limit(rng, 5.0, 120.0)
    every = 60 / limit * rng.uniform(1.5, 4)
    began = rng.uniform(0, 300)
    foreign = tuple(began + i * every for i in range(int(1800 / every)))
    return Scene(limit=limit, burst=int(limit), is_told=True, told_burst=False, foreign=foreign)


def _changed(rng: random.Random) -> Scene:
    limit, after = _limit(rng, 5.0, 120.0), _limit(rng, 5.0, 120.0)
    return Scene(limit=limit, burst=int(limit), limits=((300 * rng.random(), after),))


def _restarted(rng: random.Random) -> Scene:
    limit = _limit(rng, 5.0, 120.0)
    whole = 60 * JOBS / limit
    return Scene(
        limit=limit,
        burst=int(limit),
        is_told=rng.random() < 0.5,
        restarts=tuple(sorted(rng.uniform(0, whole) for _ in range(5))),
        bridge_restarts=(rng.uniform(0, whole),),
        clock_steps=((rng.uniform(0, whole), rng.choice([-3600.0, -30.0, 30.0, 3600.0])),),
    )


FAMILIES: dict[str, Draw] = {
    "limit known": _known,
    "known, 5 % of creates hang": _hanging,
    "known, others use the key for 30 min": _foreign,
    "unknown": _unknown,
    "unknown, jitter up to 10 s": _unknown_jitter,
    "unknown, burst 1, jitter up to 10 s": _raised_jitter,
    "unknown, any burst, jitter up to 1 s": _any_burst,
    "unknown, 3 % of creates hang": _hanging_unknown,
    "unknown, changed on the way": _changed,
    "restarts of both sides, clock set": _restarted,
}

if __name__ == "__main__":
    main()
