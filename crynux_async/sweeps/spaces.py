"""Where the values of a sweep come from: lists, distributions, grids, random and low-discrepancy samples, files.

Everything here is pure and repeatable: the same call gives the same points, on every machine and in every process.
That is what makes two runs of one script the same sweep.
"""

import csv
import io
import itertools
import json
import math
import random
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import attrs

from crynux_async.errors import ConfigError, Problem, UsageError

Params: TypeAlias = Mapping[str, Any]
"""What one point changes: names of ``FineTuneConfig`` fields and values."""

Method: TypeAlias = Literal["random", "sobol", "halton", "latin_hypercube"]
"""How ``random_search`` draws: independently, or spread out more evenly than chance would."""


class Space(Protocol):
    """All values that one field may take."""

    def at(self, position: float) -> Any:
        """Return the value at a position, 0 <= position < 1: equal steps are equally likely."""


@attrs.frozen(init=False)
class choice:  # noqa: N801  # reads as a word in a call: rank=choice(4, 8, 16)
    """One of several values, all equally likely.

    Args:
        *values: The values, at least one.

    Raises:
        UsageError: There is none.
    """

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        if not values:
            raise UsageError("choice() needs at least one value, such as choice(4, 8, 16)")
        object.__setattr__(self, "values", values)

    def at(self, position: float) -> Any:
        """Return the value at a position, 0 <= position < 1."""
        return self.values[min(int(position * len(self.values)), len(self.values) - 1)]


@attrs.frozen
class uniform:  # noqa: N801
    """Any number between two, all equally likely.

    Args:
        low: The smallest, finite.
        high: The largest, finite and above ``low``.

    Raises:
        UsageError: They are no bounds.
    """

    low: float
    high: float

    def __attrs_post_init__(self) -> None:
        _require_bounds("uniform", self.low, self.high)

    def at(self, position: float) -> float:
        """Return the value at a position, 0 <= position < 1."""
        return self.low + position * (self.high - self.low)


@attrs.frozen
class log_uniform:  # noqa: N801
    """Any number between two, each order of magnitude equally likely: what a learning rate wants.

    Args:
        low: The smallest, above 0.
        high: The largest, finite and above ``low``.

    Raises:
        UsageError: They are no bounds.
    """

    low: float
    high: float

    def __attrs_post_init__(self) -> None:
        _require_bounds("log_uniform", self.low, self.high)
        if self.low <= 0:
            raise UsageError(f"log_uniform() begins above 0, not at {self.low:g}", field="low")

    def at(self, position: float) -> float:
        """Return the value at a position, 0 <= position < 1, rounded to six digits so that it can be read aloud."""
        exponent = math.log(self.low) + position * (math.log(self.high) - math.log(self.low))
        # Six digits may lie a hair outside the bounds.
        return min(max(float(f"{math.exp(exponent):.6g}"), self.low), self.high)


@attrs.frozen
class integers:  # noqa: N801
    """Any whole number from one to another, both included, all equally likely.

    Args:
        low: The smallest.
        high: The largest, at least ``low``.
        step: The distance between two values, >= 1.

    Raises:
        UsageError: They are no bounds.
    """

    low: int
    high: int
    step: int = 1

    def __attrs_post_init__(self) -> None:
        if not all(type(value) is int for value in (self.low, self.high, self.step)):
            raise UsageError("integers() takes whole numbers, such as integers(4, 64, step=4)")
        if self.high < self.low or self.step < 1:
            raise UsageError(f"integers({self.low}, {self.high}, step={self.step}) holds no number")

    def at(self, position: float) -> int:
        """Return the value at a position, 0 <= position < 1."""
        count = (self.high - self.low) // self.step + 1
        return self.low + self.step * min(int(position * count), count - 1)


def grid(**fields: choice | Iterable[Any]) -> list[Params]:
    """Return every combination of the values of some fields, the last field changing fastest.

    Args:
        **fields: Names of config fields, each with a list of values or a ``choice``.

    Raises:
        UsageError: A field has no list of values; text is not taken for a list of its letters.
    """
    values = {name: _listed_values(name, space) for name, space in fields.items()}
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def random_search(n: int, *, seed: int = 0, method: Method = "random", **fields: Space) -> list[Params]:
    """Return ``n`` points drawn from spaces.

    Args:
        n: How many, >= 0. A larger ``n`` with the same seed begins with the same points ("latin_hypercube" excepted).
        seed: Decides the points; the same seed gives the same ones.
        method: "random", or "sobol", "halton", "latin_hypercube": spread out more evenly (needs scipy).
        **fields: Names of config fields, each with a space.

    Raises:
        UsageError: A field has no space, there is no such method, or scipy is missing.
    """
    if type(n) is not int or n < 0:
        raise UsageError(f"random_search() draws a whole number of points, not {n!r}", field="n")
    if type(seed) is not int:
        raise UsageError(f"the seed of random_search() is a whole number, not {seed!r:.40}", field="seed")
    for name, space in fields.items():
        if not callable(getattr(space, "at", None)):
            raise UsageError(
                f"{name} needs a space to draw from: choice(...), uniform(...), log_uniform(...) or integers(...), "
                f"not {space!r:.60}",
                field=name,
            )
    positions = _positions(n, len(fields), seed, method)
    return [
        {name: space.at(position) for (name, space), position in zip(fields.items(), row, strict=True)}
        for row in positions
    ]


def listed(path: str | Path) -> list[Params]:
    """Return the points that a file lists: CSV with a heading line, JSON lines, or TOML with ``[[points]]``.

    In CSV an empty cell leaves its field out, and a cell is read as JSON where it is JSON (4, 1e-4, true, ["to_k"]),
    else as text.

    Args:
        path: The file.

    Raises:
        ConfigError: It cannot be read; the line is named.
    """
    source = Path(path)
    reader = _READERS.get(source.suffix.lower())
    if reader is None:
        names = ", ".join(_READERS)
        raise UsageError(f"{source} is not a list of points: its name must end in one of {names}", field="points")
    try:
        # Excel puts a byte order mark before the first letter: it would be part of the first field's name.
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise ConfigError([Problem(field=str(source), message=f"cannot be read: {error}")]) from error
    return list(reader(text, str(source)))


def _listed_values(name: str, space: choice | Iterable[Any]) -> tuple[Any, ...]:
    if isinstance(space, choice):
        return space.values
    # Text is a list of its letters to Python: rank="48" is no grid over "4" and "8".
    if isinstance(space, str | bytes | Mapping) or not isinstance(space, Iterable):
        raise UsageError(f"a grid needs a list of values for {name}, such as {name}=[{space!r:.40}]", field=name)
    values = tuple(space)
    if not values:
        raise UsageError(f"a grid over no values of {name} has no points", field=name)
    return values


def _require_bounds(name: str, low: float, high: float) -> None:
    for value in (low, high):
        if type(value) not in (int, float) or not math.isfinite(value):
            raise UsageError(f"{name}() takes two finite numbers, not {value!r}")
    if low >= high:
        raise UsageError(f"{name}({low:g}, {high:g}) holds no number: the second must be larger")


def _positions(n: int, dimensions: int, seed: int, method: Method) -> Iterable[Sequence[float]]:
    """Return ``n`` rows of ``dimensions`` numbers, each 0 <= number < 1."""
    if method == "random" or dimensions == 0:
        # Not numpy's: its streams are only promised within a version, and a sweep must find its points again.
        draw = random.Random(seed)  # noqa: S311  # nothing secret is drawn
        return [[draw.random() for _ in range(dimensions)] for _ in range(n)]
    engine = _engine(method, dimensions, seed)
    rows: Iterable[Sequence[float]] = engine(n).tolist() if n else []
    return rows


def _engine(method: str, dimensions: int, seed: int) -> Callable[[int], Any]:
    try:
        from scipy.stats import qmc
    except ImportError as error:
        raise UsageError(
            f"method={method!r} needs scipy: pip install 'crynux-async[sweeps]', or use method='random'"
        ) from error
    engines = {"sobol": qmc.Sobol, "halton": qmc.Halton, "latin_hypercube": qmc.LatinHypercube}
    if method not in engines:
        raise UsageError(f"method must be one of random, {', '.join(engines)}, not {method!r}", field="method")
    made = engines[method](d=dimensions, rng=seed)
    if method != "sobol":
        return made.random  # type: ignore[no-any-return]

    def balanced(count: int) -> Any:
        # Sobol' points are balanced in powers of two, and scipy warns of every other number.
        return made.random_base2(max(0, (count - 1).bit_length()))[:count]

    return balanced


def _read_csv(text: str, source: str) -> Iterator[Params]:
    # By csv alone: what else Python takes for the end of a line, such as U+2028, may stand in a cell.
    rows = csv.DictReader(io.StringIO(text, newline=""))
    heading = [name.strip() for name in rows.fieldnames or ()]
    twice = next((name for name in heading if name and heading.count(name) > 1), None)
    if twice is not None:  # only the last column of that name would count, and the others not even be missed
        raise ConfigError([Problem(field=f"{source}, line 1", message=f"has two columns {twice!r}")])
    for row in rows:
        if None in row:
            where = f"{source}, line {rows.line_num}"
            raise ConfigError([Problem(field=where, message="has more cells than the heading")])
        yield {name.strip(): _cell(cell) for name, cell in row.items() if cell is not None and cell.strip()}


def _cell(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()


def _read_json_lines(text: str, source: str) -> Iterator[Params]:
    # Not splitlines(): JSON may hold U+2028 and its like as they are, and they end no line of it.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError([Problem(field=f"{source}, line {number}", message=f"is not JSON: {error}")]) from error
        if not isinstance(value, dict):
            raise ConfigError([Problem(field=f"{source}, line {number}", message="must be an object of fields")])
        yield value


def _read_toml(text: str, source: str) -> Iterator[Params]:
    try:
        points = tomllib.loads(text).get("points")
    except ValueError as error:
        raise ConfigError([Problem(field=source, message=f"is not TOML: {error}")]) from error
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise ConfigError([Problem(field=source, message="must list its points as [[points]]")])
    yield from points


_READERS: Mapping[str, Callable[[str, str], Iterator[Params]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".toml": _read_toml,
}
