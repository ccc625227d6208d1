"""A sweep as a TOML file describes it, with the words that Python has for it."""

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from crynux_async.errors import ConfigError, Problem, UsageError
from crynux_async.sweeps.spaces import Params, choice, grid, integers, listed, log_uniform, random_search, uniform
from crynux_async.training.config import FineTuneConfig
from crynux_async.wording import unread

_T = TypeVar("_T")


def read(path: str | Path) -> dict[str, Any]:
    """Return the arguments of the ``Sweep`` that a file describes (see ``Sweep.from_file``).

    Raises:
        ConfigError: It cannot be read, or describes no sweep; lists everything that is wrong with the base.
    """
    source = Path(path)
    data = _read(source)
    unknown = sorted(set(data) - _KEYS)
    if unknown:
        raise _problem(source, unknown[0], f"is not a key of a sweep; the keys are {', '.join(sorted(_KEYS))}")
    if not isinstance(data.get("base"), dict):
        raise _problem(source, "base", "is missing: a table [base] with what is trained")
    plain = {key: data[key] for key in _PLAIN if key in data}
    if "folder" in plain:
        if not isinstance(plain["folder"], str):
            raise _problem(source, "folder", f"must be text, not {plain['folder']!r:.40}")
        plain["folder"] = source.parent / plain["folder"]
    points = list(_points(source, data))
    # A file without points is its base alone, as Sweep(name, base) is.
    return {"name": source.stem, **plain, "base": FineTuneConfig.from_dict(data["base"]), "points": points or [{}]}


def _read(source: Path) -> dict[str, Any]:
    try:
        # Some editors put a byte order mark before the first letter, which is no TOML.
        return tomllib.loads(source.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        what = "this is not a sweep"
        raise ConfigError([Problem(field="(file)", message=unread(source, error))], what=what) from error


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
    try:
        return _naming(source, f"random.{name}", lambda: _SPACES[kind](*arguments))
    except TypeError as error:
        raise _problem(source, f"random.{name}", f"{kind} takes {_ARGUMENTS[kind]}, not {arguments!r:.60}") from error


def _naming(source: Path, where: str, make: Callable[[], _T]) -> _T:
    """Make something, and say where in the file it was described when that fails."""
    try:
        return make()
    except UsageError as error:
        raise _problem(source, f"{where}.{error.field}" if error.field else where, str(error)) from error


def _problem(source: Path, field: str, message: str) -> ConfigError:
    return ConfigError([Problem(field=f"{source}: {field}", message=message)], what="this is not a sweep")


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
_ARGUMENTS = {"uniform": "[low, high]", "log_uniform": "[low, high]", "integers": "[low, high] or [low, high, step]"}
# Functions (derive, objective) cannot stand in a file.
_PLAIN = frozenset({"name", "folder", "name_template", "budget_cnx", "repeats", "tags", "direction"})
_KEYS = _PLAIN | {"base", *_LISTS}
