"""What to know of a config before it is paid for: what cannot work, what will surprise, what it will cost.

A mistake in the arguments is not refused by the network: the job stays silent until its timeout, four times over, and
gives no reason. ``check`` knows the traps. What it cannot know: whether a model or a data set of that name exists and
is public, how much memory and speed the node has, and what the bridge's operator has configured.

``codes`` has every code, ``case`` what the rules look at, ``source_rules``, ``value_rules`` and ``training_rules`` the
rules. A new rule is a function that yields advice, its line in ``RULES`` and its code. That a value is sent otherwise
than asked for, such as a warm-up of 0, is said by ``value_rules.judge_differences``.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from crynux_async.datasets.findings import Severity, has_error, in_order
from crynux_async.errors import ConfigError, Problem, UsageError
from crynux_async.training.advice import source_rules, training_rules, value_rules
from crynux_async.training.advice.case import Case, make_case
from crynux_async.training.advice.codes import CODES, Advice, AdviceCode
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.service import BRIDGE_FACTS, ServiceFacts

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
    source_rules.judge_model,
    source_rules.judge_dataset,
    value_rules.judge_targets,
    value_rules.judge_start,
    value_rules.judge_differences,
    value_rules.judge_precision,
    value_rules.judge_images,
    value_rules.judge_family,
    value_rules.judge_noise,
    training_rules.judge_rounds,
    training_rules.judge_length,
    training_rules.judge_learning_rate,
    training_rules.judge_cost,
    training_rules.judge_time,
    training_rules.judge_size,
)
"""Every rule; each is a pure function of a case."""


def check(
    config: FineTuneConfig,
    dataset: "DatasetReport | int | None" = None,
    *,
    fee_cnx: float | None = None,
    service: ServiceFacts = BRIDGE_FACTS,
) -> list[Advice]:
    """Return what to know of a config before it is submitted, errors first. Nothing is asked of anybody.

    Args:
        config: What to train.
        dataset: What ``datasets.check()`` said of the data set (its problems are passed on), or only its number of
            images, >= 1. Without it, what depends on the data set is left open.
        fee_cnx: The fee of a round, >= 0; None for the service's own.
        service: Who runs the job.

    Raises:
        UsageError: The number of images is below 1.
    """
    if isinstance(dataset, int) and dataset < 1:
        raise UsageError(f"a data set has at least 1 image, not {dataset}", field="dataset")
    # A report that could not read the images counts none, and has problems of its own to tell of that.
    images = dataset if dataset is None or isinstance(dataset, int) else dataset.train_count or None
    report = None if isinstance(dataset, int) else dataset
    charged = service if fee_cnx is None else attrs.evolve(service, fee_cnx=fee_cnx)
    case = make_case(config, images, report, charged)
    found = [advice for rule in RULES for advice in rule(case)]
    return list(in_order([*found, *_from_report(report)] if report else found))


def require_workable(found: Iterable[Advice], *, force: bool = False) -> None:
    """Raise what cannot work, all of it at once.

    Args:
        found: What is known of a config.
        force: Whether only what cannot even be sent is raised.

    Raises:
        ConfigError: Something among the advice is an error.
    """
    errors = [item for item in found if item.severity == "error" and (not force or _is_unsendable(item))]
    if errors:
        problems = [
            Problem(field=item.field or "(config)", message=f"{item.message} {item.action} ({item.code})")
            for item in errors
        ]
        what = "this config cannot work, and would be paid for (force=True sends it anyway)"
        if any(_is_unsendable(item) for item in errors):
            what = "this config cannot be sent, not even with force=True"
        raise ConfigError(problems, what=what)


def _is_unsendable(item: Advice) -> bool:
    """Whether force changes nothing: where a job is one round, no create of several rounds can be made."""
    return item.code == "CX201" and item.severity == "error"


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
