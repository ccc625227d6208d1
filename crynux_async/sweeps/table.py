"""A sweep as rows and columns, for other programs."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from crynux_async.errors import UsageError
from crynux_async.money import to_cnx
from crynux_async.secret import mask_address
from crynux_async.sweeps.trial import Trial, varied_fields

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

_BEFORE = ("number", "repeat", "label", "state")
_AFTER = (
    "objective",
    "standing",
    "norm",
    "health",
    "cost_cnx",
    "job_id",
    "task_id",
    "planned_at",
    "submitted_at",
    "ended_at",
    "archive",
    "error",
    "reason",
)


@attrs.frozen(kw_only=True)
class Table:
    """Rows of plain values: text, numbers, None.

    Attributes:
        columns: Names, in order: what a trial is, its value of every parameter that any of them changes (as
            ``params.FIELD``), what came of it. ``standing`` is 1 for the best objective; equal ones share it.
        rows: One for each trial, in the order of the sweep.
    """

    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]

    def to_csv(self) -> str:
        """Return the table as CSV with a heading line; what is not known is an empty cell."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in self.rows)
        return text.getvalue()

    def to_json_lines(self) -> str:
        """Return the table as JSON, one object on each line."""
        return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in self.rows)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the table as a pandas DataFrame.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise UsageError("to_pandas() needs pandas: pip install pandas, or use to_csv()") from error
        return pd.DataFrame(list(map(dict, self.rows)), columns=list(self.columns))


def table_of(trials: Iterable[Trial], *, minimize: bool = True) -> Table:
    """Return what is known of trials now.

    Args:
        trials: The trials, in the order of the rows.
        minimize: Whether a smaller objective is better.
    """
    chosen = list(trials)
    objectives = [trial.objective for trial in chosen if trial.objective is not None]
    # From the end on, so that equal objectives have the first of their places.
    standing = {value: place for place, value in reversed(list(enumerate(sorted(objectives, reverse=not minimize), 1)))}
    fields = varied_fields(chosen)
    columns = [*_BEFORE, *(f"params.{field}" for field in fields), *_AFTER]
    return Table(columns=columns, rows=[_row(trial, fields, standing) for trial in chosen])


def _row(trial: Trial, fields: Sequence[str], standing: Mapping[float, int]) -> dict[str, Any]:
    job = trial.job
    return {
        "number": trial.number,
        "repeat": trial.point.repeat,
        "label": trial.label,
        "state": trial.state,
        **{f"params.{field}": mask_address(trial.value_of(field)) for field in fields},
        "objective": trial.objective,
        "standing": None if trial.objective is None else standing[trial.objective],
        "norm": trial.norms.total if trial.norms else None,
        "health": "; ".join(map(str, trial.health.problems)) if trial.health else None,
        # A sum in which a price is missing would look like the whole.
        "cost_cnx": to_cnx(trial.cost.spent) if trial.cost and trial.cost.is_complete else None,
        "job_id": job.job_id,
        "task_id": job.task_id,
        "planned_at": _iso(job.planned_at),
        "submitted_at": _iso(job.submitted_at),
        "ended_at": _iso(job.ended_at),
        "archive": str(job.path) if job.path else None,
        "error": str(trial.error) if trial.error else None,
        "reason": job.reason,
    }


def _iso(when: datetime | None) -> str | None:
    return when.isoformat() if when else None


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value
