"""What one point of a sweep is: what it changes, what is trained for it, and the name under which it is paid for once.

Theory of operation. A point is known by what was *asked*: the base with the point's changes, without a seed that nobody
gave. Its digest, the sweep's name and the repeat make the idempotency key of its job, so that the same script, the same
command and five hosts at once find the same jobs. A seed that nobody gave is derived from the sweep's name and the
repeat: all points of a repeat share it, so that they can be compared, and the next run has it again. What a point
*becomes* on its way (``effective()``) never counts for its name: that may be judged better in a later version, and must
not pay for a sweep twice. It only tells which points train the same.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from crynux_async.errors import ConfigError, Problem
from crynux_async.secret import mask_address, mask_addresses
from crynux_async.sweeps.spaces import Params
from crynux_async.training.config import FineTuneConfig, training_of
from crynux_async.training.fields import field_names, lengths_of, with_defaults, without_defaults
from crynux_async.training.keeping import KeptConfig, config_of, kept
from crynux_async.training.service import BRIDGE_MAPPING, ValueMapping

Derive: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Makes further fields of a point from those that it has, its base's included, such as a warm-up from a length."""

_MOST_SEEDS = 2**32 - 1  # a node's numpy takes no larger one


@attrs.frozen(kw_only=True, weakref_slot=False)
class Point:
    """One config of a sweep.

    Attributes:
        number: Its place, counted from 1; a repeat of it has the same number.
        repeat: Which repeat, counted from 1.
        params: What it changes in the base, derived fields included.
        kept_config: What is trained, as it is kept.
        key: The idempotency key of its job.
    """

    number: int
    repeat: int
    params: Params
    kept_config: KeptConfig = attrs.field(alias="config", converter=kept, eq=config_of, repr=False)
    key: str

    @property
    def config(self) -> FineTuneConfig:
        """What is trained, made anew each time."""
        return config_of(self.kept_config)

    @property
    def label(self) -> str:
        """A name for people: what it changes, in the order in which it was given."""
        said = " ".join(f"{name}={shown(value)}" for name, value in self.params.items()) or "base"
        return said if self.repeat == 1 else f"{said} #{self.repeat}"


@attrs.frozen(kw_only=True)
class BrokenPoint:
    """A point that is no config.

    Attributes:
        number: Its place, counted from 1.
        params: What it changes.
        problems: What is wrong with it.
    """

    number: int
    params: Params
    problems: Sequence[Problem]


@attrs.frozen(kw_only=True)
class Points:
    """The points of a sweep, before anything is sent.

    Attributes:
        good: Those that are configs, in order, repeats beside each other; one that is asked for twice stands once.
        broken: Those that are not.
        twice: Places of points that ask for the same as an earlier one: place -> place of the earlier one.
        alike: Places of points that train the same although they ask for different things, in groups.
    """

    good: Sequence[Point]
    broken: Sequence[BrokenPoint]
    twice: Mapping[int, int]
    alike: Sequence[Sequence[int]]

    def require_good(self) -> None:
        """Check that every point is a config.

        Raises:
            ConfigError: Some are not; names the place and the field of every mistake.
        """
        problems = [
            attrs.evolve(problem, field=f"point {broken.number}: {problem.field}")
            for broken in self.broken
            for problem in broken.problems
        ]
        if problems:
            raise ConfigError(problems, what="this sweep cannot be sent")


def plan(
    name: str,
    base: FineTuneConfig,
    changes: Iterable[Params],
    *,
    repeats: int = 1,
    derive: Derive | None = None,
    mapping: ValueMapping = BRIDGE_MAPPING,
) -> Points:
    """Return the points of a sweep.

    Args:
        name: The sweep's name.
        base: What is trained where a point changes nothing.
        changes: What each point changes.
        repeats: How often each is trained, >= 1, each time with a seed of its own unless the config gives one.
        derive: Makes further fields of a point from the base's with its own over them.
        mapping: What the service cannot be sent, which decides what trains the same.
    """
    good: list[Point] = []
    broken: list[BrokenPoint] = []
    first: dict[str, int] = {}
    twice: dict[int, int] = {}
    given = _given(base)
    for number, params in enumerate(changes, start=1):
        try:
            full = params if derive is None else {**params, **_derived(derive, given, params)}
            config = base.evolve(**full)
        except ConfigError as error:
            broken.append(BrokenPoint(number=number, params=params, problems=error.problems))
            continue
        # By what was asked: two points that only train the same are the user's to judge, and are told as "alike".
        digest = config.asked_digest()
        if first.setdefault(digest, number) != number:
            twice[number] = first[digest]
            continue
        good.extend(
            Point(
                number=number,
                repeat=repeat,
                params=full,
                config=_seeded(config, name, repeat),
                key=key_of(name, digest, repeat),
            )
            for repeat in range(1, repeats + 1)
        )
    return Points(good=good, broken=broken, twice=twice, alike=_alike(good, mapping))


def derived_seed(name: str, repeat: int) -> int:
    """Return the seed of a repeat of a sweep whose config gives none: 1 to 4294967295, the same everywhere."""
    # From 1: for a seed of 0 a bridge draws one. The zero bytes keep "cats1" with 2 apart from "cats" with 12.
    digest = hashlib.sha256(f"crynux-async sweep seed\0{name}\0{repeat}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _MOST_SEEDS + 1


def key_of(name: str, digest: str, repeat: int) -> str:
    """Return the idempotency key of a point's job."""
    return f"sweep:{name}:{repeat}:{digest}"


def shown(value: Any) -> str:
    """Return a value as it stands in labels and tables."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(mask_address(value))


def _given(base: FineTuneConfig) -> dict[str, Any]:
    """Return the fields of a base as it was asked for: what follows from others, or nobody gave, is None."""
    given = {name: getattr(base, name) for name in field_names()} | without_defaults(lengths_of(base))
    return {**given, "seed": None} if base.seed_was_drawn else given


def _derived(derive: Derive, given: Mapping[str, Any], params: Params) -> Mapping[str, Any]:
    """Return what a user's function makes of the fields that a point has so far."""
    seen = {**given, **params}
    seen |= with_defaults(seen)
    try:
        derived = dict(derive(dict(seen)))
    # A user's function may raise anything, and all points that it fails for are told at once.
    except Exception as error:
        message = f"derive() failed for {mask_addresses(params)!r:.200}: {error!r}"
        raise ConfigError([Problem(field="derive", message=message)]) from error
    if seen.keys() <= derived.keys():
        # It hands on all that it was given, as {**p, ...} does, and means what it has changed.
        return {name: value for name, value in derived.items() if name not in seen or value != seen[name]}
    return derived


def _seeded(config: FineTuneConfig, name: str, repeat: int) -> FineTuneConfig:
    return config.evolve(seed=derived_seed(name, repeat)) if config.seed_was_drawn else config


def _alike(points: Iterable[Point], mapping: ValueMapping) -> list[list[int]]:
    """Return the places of different points that train the same."""
    groups: defaultdict[object, list[int]] = defaultdict(list)
    for point in points:
        # Repeats train different things by their seeds, which is what they are for.
        if point.repeat == 1:
            groups[_training(point.config, mapping)].append(point.number)
    return [places for places in groups.values() if len(places) > 1]


def _training(config: FineTuneConfig, mapping: ValueMapping) -> tuple[object, ...]:
    """Return what decides the weights at one service, to compare; nobody stores it."""
    values = training_of(config.sent(mapping)).values()
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)
