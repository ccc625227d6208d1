"""A sweep as it is written down: in Python, or in a TOML file with the same words."""

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

import attrs

from crynux_async.errors import ConfigError, Problem, UsageError
from crynux_async.sweeps.points import Derive, Points, plan
from crynux_async.sweeps.spaces import Params, choice, grid, integers, listed, log_uniform, random_search, uniform
from crynux_async.training.config import FineTuneConfig

_T = TypeVar("_T")

_MOST_NAME_CHARS = 100
_DEFINITION_VERSION = 1
_UNCHANGED: Params = MappingProxyType({})


def _check_name(_: Any, __: Any, name: Any) -> None:
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _MOST_NAME_CHARS:
        raise UsageError(
            f"a sweep's name is printable text of 1 to {_MOST_NAME_CHARS} characters, not {name!r:.60}", field="name"
        )


def _check_repeats(_: Any, __: Any, repeats: int) -> None:
    if type(repeats) is not int or repeats < 1:
        raise UsageError(f"repeats is a whole number above 0, not {repeats!r}", field="repeats")


def _kept(points: Iterable[Params]) -> tuple[Params, ...]:
    return tuple(points)


def _absolute(folder: str | Path | None) -> Path | None:
    # At once: a sweep that is started again from another directory must find its models.
    return None if folder is None else Path(folder).expanduser().absolute()


@attrs.frozen(kw_only=True)
class SweepDefinition:
    """What a sweep is, before it is run: a name, a base, and what its points change.

    Attributes:
        name: What it is called in the ledger: the same name is the same sweep, in every process.
        base: What is trained where a point changes nothing.
        points: What each point changes, in the order in which they are sent.
        folder: Where archives are put (absolute), or None to leave them at the service.
        name_template: File name of an archive, as in ``Job.download``.
        budget_cnx: What all of it may cost, in CNX, or None for no bound.
        repeats: How often each point is trained, >= 1.
        derive: Makes further fields of a point from its own, or None.
        tags: Free names and values that every job gets.
    """

    name: str = attrs.field(validator=_check_name)
    base: FineTuneConfig
    points: Sequence[Params] = attrs.field(converter=_kept)
    folder: Path | None = attrs.field(default=None, converter=_absolute)
    name_template: str | None = None
    budget_cnx: float | None = None
    repeats: int = attrs.field(default=1, validator=_check_repeats)
    derive: Derive | None = None
    tags: Mapping[str, str] = attrs.field(factory=dict)

    def plan(self) -> Points:
        """Return every point, with what is wrong with some."""
        return plan(self.name, self.base, self.points, repeats=self.repeats, derive=self.derive)

    def asked(self) -> dict[str, Any]:
        """Return what the sweep's name stands for in a ledger: the base that was asked, as JSON values.

        Points are not part of it, so that more can be added. Neither is a seed that nobody gave.
        """
        base = self.base.to_dict()
        if self.base.seed_was_drawn:
            del base["seed"]
        return {"version": _DEFINITION_VERSION, "base": base}

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Return the sweep that a TOML file describes.

        ::

            name = "cats"
            folder = "models/cats"
            repeats = 1
            budget_cnx = 480

            [base]
            model_name = "crynux-ai/stable-diffusion-v1-5"
            dataset_url = "https://example.com/cats.zip"
            max_train_steps = 200

            [[grid]]
            rank = [4, 8, 16]
            learning_rate = [1e-4, 5e-5]

            [[random]]
            n = 20
            seed = 1
            method = "sobol"
            learning_rate = { log_uniform = [1e-5, 1e-3] }
            rank = { choice = [4, 8, 16] }

            [[listed]]
            file = "points.csv"

        Paths are taken from the file's own folder.

        Raises:
            ConfigError: It cannot be read, or describes no sweep; lists everything that is wrong with the base.
        """
        source = Path(path)
        data = _read(source)
        unknown = sorted(set(data) - _KEYS)
        if unknown:
            raise _problem(source, unknown[0], f"is no word of a sweep; those are {', '.join(sorted(_KEYS))}")
        if not isinstance(data.get("base"), dict):
            raise _problem(source, "base", "is missing: a table [base] with what is trained")
        plain = {key: data[key] for key in _PLAIN if key in data}
        if "folder" in plain:
            plain["folder"] = source.parent / str(plain["folder"])
        points = [
            point for kind in _LISTS for table in _tables(source, data, kind) for point in _LISTS[kind](source, table)
        ]
        return cls(**{"name": source.stem, **plain}, base=FineTuneConfig.from_dict(data["base"]), points=points or [{}])


def _read(source: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(source.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError([Problem(field=str(source), message=f"cannot be read: {error}")]) from error


def _points(source: Path, data: Mapping[str, Any]) -> Iterator[Params]:
    """Yield the points of every list in the file, kind by kind."""
    for kind, points_of in _LISTS.items():
        for table in _tables(source, data, kind):
            yield from points_of(source, table)


def _tables(source: Path, data: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    tables = data.get(kind, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _problem(source, kind, f"must be written as [[{kind}]]")
    return tables


def _grid_of(source: Path, table: Mapping[str, Any]) -> Iterable[Params]:
    return _naming(source, "grid", lambda: grid(**table))


def _random_of(source: Path, table: Mapping[str, Any]) -> Iterable[Params]:
    options = {key: table[key] for key in ("n", "seed", "method") if key in table}
    if "n" not in options:
        raise _problem(source, "random.n", "is missing: how many points to draw")
    spaces = {name: _space_of(source, name, value) for name, value in table.items() if name not in options}
    return _naming(source, "random", lambda: random_search(**options, **spaces))


def _listed_of(source: Path, table: Mapping[str, Any]) -> Iterable[Params]:
    if set(table) != {"file"} or not isinstance(table["file"], str):
        raise _problem(source, "listed", 'takes one word: file = "points.csv"')
    return listed(source.parent / table["file"])


def _points_of(source: Path, table: Mapping[str, Any]) -> Iterable[Params]:
    yield table


def _space_of(source: Path, name: str, value: Any) -> Any:
    """Return the space that a TOML value describes: ``{ log_uniform = [1e-5, 1e-3] }``, or a list to choose from."""
    if isinstance(value, list):
        return choice(*value)
    kind, arguments = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", None)
    if kind not in _SPACES or not isinstance(arguments, list):
        spaces = ", ".join(_SPACES)
        raise _problem(source, f"random.{name}", f"must be one of {spaces}, such as {{ uniform = [0.0, 0.1] }}")
    return _naming(source, f"random.{name}", lambda: _SPACES[kind](*arguments))


def _naming(source: Path, where: str, make: Callable[[], _T]) -> _T:
    """Make something, and say where in the file it was described when that fails."""
    try:
        return make()
    except (UsageError, TypeError) as error:
        field = getattr(error, "field", None)
        raise _problem(source, f"{where}.{field}" if field else where, str(error)) from error


def _problem(source: Path, field: str, message: str) -> ConfigError:
    return ConfigError([Problem(field=f"{source}: {field}", message=message)], what="this is no sweep")


_LISTS: Mapping[str, Callable[[Path, Mapping[str, Any]], Iterable[Params]]] = {
    "grid": _grid_of,
    "random": _random_of,
    "listed": _listed_of,
    "points": _points_of,
}
_SPACES: Mapping[str, Callable[..., Any]] = {
    "choice": choice,
    "uniform": uniform,
    "log_uniform": log_uniform,
    "integers": integers,
}
_PLAIN = frozenset({"name", "folder", "name_template", "budget_cnx", "repeats", "tags"})
_KEYS = _PLAIN | {"base", *_LISTS}
