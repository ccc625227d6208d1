"""What to know of a config before it is paid for: what cannot work, what will surprise, what it will cost.

A mistake in the arguments is not refused by the network: the job stays silent until its timeout, four times over, and
gives no reason. ``check`` knows the traps. What it cannot know: whether a model or a data set of that name exists and
is public, how much memory and speed the node has, and what the bridge's operator has configured.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from crynux_async.errors import ConfigError, Problem, UsageError
from crynux_async.training.advice import training_rules, value_rules
from crynux_async.training.advice.case import Case, make_case
from crynux_async.training.advice.codes import CODES, Advice, AdviceCode, Severity, has_error, in_order
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.simulation import FEE_CNX

if TYPE_CHECKING:
    from crynux_async.datasets.report import DatasetReport

__all__ = [
    "CODES",
    "RULES",
    "Advice",
    "AdviceCode",
    "Severity",
    "check",
    "has_error",
    "require_workable",
]

RULES: tuple[Callable[[Case], Iterator[Advice]], ...] = (
    value_rules.judge_model,
    value_rules.judge_targets,
    value_rules.judge_start,
    value_rules.judge_differences,
    value_rules.judge_precision,
    value_rules.judge_images,
    value_rules.judge_dataset,
    training_rules.judge_rounds,
    training_rules.judge_length,
    training_rules.judge_learning_rate,
    training_rules.judge_cost,
    training_rules.judge_time,
    training_rules.judge_size,
)
"""Every rule; each is a pure function of a case."""


def check(
    config: FineTuneConfig, dataset: "DatasetReport | int | None" = None, *, fee_cnx: float = FEE_CNX
) -> list[Advice]:
    """Return what to know of a config before it is submitted, errors first. Nothing is asked of anybody.

    Args:
        config: What to train.
        dataset: What ``datasets.check()`` said of the data set (its problems are passed on), or only its number of
            images, >= 1. Without it, what depends on the data set is left open.
        fee_cnx: The bridge's fee for a round, >= 0.

    Raises:
        UsageError: The number of images is below 1.
    """
    if isinstance(dataset, int):
        if dataset < 1:
            raise UsageError(f"a data set has at least 1 image, not {dataset}", field="dataset")
        case = make_case(config, dataset, None, fee_cnx)
    else:
        case = make_case(config, dataset.train_count or None if dataset else None, dataset, fee_cnx)
    found = [advice for rule in RULES for advice in rule(case)]
    if case.report is not None:
        found += _from_report(case.report)
    return in_order(found)


def require_workable(found: Iterable[Advice]) -> None:
    """Raise what cannot work, all of it at once.

    Raises:
        ConfigError: Something among the advice is an error.
    """
    errors = [item for item in found if item.severity == "error"]
    if errors:
        problems = [
            Problem(field=item.field or "(config)", message=f"{item.message} {item.action} ({item.code})")
            for item in errors
        ]
        raise ConfigError(problems, what="this config cannot work, and would be paid for (force=True sends it anyway)")


def _from_report(report: "DatasetReport") -> list[Advice]:
    from crynux_async.datasets.problems import CODES as DATASET_CODES

    return [
        Advice(
            code=problem.code,
            severity=problem.severity,
            field="dataset_url",
            title=DATASET_CODES[problem.code].title,
            message=problem.message,
            action=problem.advice,
            source="datasets 3.1, which nodes run",
        )
        for problem in report.problems
    ]
