"""Whether a LoRA is what was asked for, and whether it is anything at all.

An archive can be whole, marked as finished and paid for, and still hold nothing: a training that resumes from a
finished checkpoint runs no step and leaves every B at zero; one that diverges leaves NaN; names in ``target_modules``
that the UNet does not have are passed over in silence. This looks at the numbers without numpy.

Source: stable-diffusion-task finetune_lora.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import attrs

from crynux_async.archive.families import FAMILY_TITLES, family_named, family_of
from crynux_async.archive.lora import LoraModule, matcher
from crynux_async.archive.raw_numbers import count_not_finite, is_zero
from crynux_async.archive.safetensors import TensorInfo
from crynux_async.archive.strength import Strength


class HealthCode(StrEnum):
    """What can be wrong with a LoRA whose archive is whole."""

    UNTRAINED = "untrained"
    NAN = "nan"
    INF = "inf"
    RANK = "rank"
    MODULES_MISSING = "modules_missing"
    MODULES_EXTRA = "modules_extra"
    STEPS_SHORT = "steps_short"
    STEPS_UNKNOWN = "steps_unknown"
    UNFINISHED = "unfinished"
    DIVERGED = "diverged"
    FAMILY = "family"


@attrs.frozen(kw_only=True)
class HealthProblem:
    """One thing that is wrong.

    Attributes:
        code: Which kind of thing, for programs.
        message: What was found and what it means, in one sentence.
    """

    code: HealthCode
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@attrs.frozen(kw_only=True)
class Health:
    """Everything that is wrong with a LoRA, the worst first.

    Attributes:
        problems: Empty for a good one.
        strength: How strong it is; None where that was not measured, as without numpy.
    """

    problems: tuple[HealthProblem, ...]
    strength: Strength | None = None

    @property
    def ok(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems

    @property
    def codes(self) -> frozenset[HealthCode]:
        """The kinds of things that are wrong."""
        return frozenset(problem.code for problem in self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems)) or "healthy"


class AskedFor(Protocol):
    """The part of a fine-tuning config that the result can be held against; a FineTuneConfig is one."""

    @property
    def rank(self) -> int:
        """Rank of every module."""

    @property
    def target_modules(self) -> str | Sequence[str]:
        """Which modules were to be trained, as the nodes read it."""

    @property
    def max_train_steps(self) -> int | None:
        """Optimizer steps after which the training is finished, or None where it follows from the epochs."""


@attrs.frozen(kw_only=True)
class Scan:
    """What a look at every number found.

    Attributes:
        untrained: Every B is zero.
        nan: NaN by tensor, only where there are any.
        inf: Infinite numbers by tensor, only where there are any.
    """

    untrained: bool
    nan: Mapping[str, int]
    inf: Mapping[str, int]


def scan(pieces: Iterable[tuple[str, TensorInfo, bytes]], ups: frozenset[str]) -> Scan:
    """Look at every number of a LoRA once.

    Args:
        pieces: (tensor, what it is, some of its bytes); every piece holds whole numbers.
        ups: The tensors that are a B.

    Returns:
        What was found.
    """
    untrained = True
    nan: dict[str, int] = {}
    inf: dict[str, int] = {}
    for name, info, data in pieces:
        # One number of one B is enough.
        if untrained and name in ups:
            untrained = is_zero(data, info.dtype)
        for found, counts in zip(count_not_finite(data, info.dtype), (nan, inf), strict=True):
            if found:
                counts[name] = counts.get(name, 0) + found
    return Scan(untrained=untrained, nan=nan, inf=inf)


@attrs.frozen(kw_only=True)
class Steps:
    """What is known of a training's length.

    Attributes:
        made: Optimizer steps, >= 0, or None when nothing says.
        finished: Whether the node marked the training as finished.
        is_bare: Whether it is a file that has neither, as those that other programs write.
    """

    made: int | None
    finished: bool
    is_bare: bool = False


def judge(
    found: Scan,
    modules: Mapping[str, LoraModule],
    *,
    steps: Steps,
    strength: Strength | None,
    config: AskedFor | None,
) -> Health:
    """Put together everything that is wrong.

    Args:
        found: What the numbers are.
        modules: The modules that are there.
        steps: How long was trained.
        strength: How strong it is, where that was measured.
        config: What was asked for, or None to judge the LoRA by itself.

    Returns:
        The verdict.
    """
    problems = _judge_numbers(found)
    # NaN makes every norm NaN; what is wrong has been said then.
    if strength is not None and strength.verdict == "diverged" and not found.nan and not found.inf:
        times = _times(strength.ratio)
        message = f"the update is {times} times as large as the layers that it changes: the training diverged"
        problems.append(HealthProblem(code=HealthCode.DIVERGED, message=message))
    if config is not None:
        problems += _judge_rank(modules, config.rank) + _judge_modules(modules, config.target_modules)
        problems += _judge_family(modules, getattr(config, "model_name", None))
    problems += _judge_steps(steps, asked=config.max_train_steps if config else None)
    return Health(problems=tuple(problems), strength=strength)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def _judge_numbers(found: Scan) -> list[HealthProblem]:
    problems = []
    if found.untrained:
        message = "every up tensor is zero, so the LoRA changes nothing: no training step had an effect"
        problems.append(HealthProblem(code=HealthCode.UNTRAINED, message=message))
    for code, counts, word in ((HealthCode.NAN, found.nan, "not a number"), (HealthCode.INF, found.inf, "infinite")):
        if counts:
            where = f"in {len(counts)} tensors, the first of them {next(iter(counts))}"
            message = f"{sum(counts.values())} weights are {word}, {where}: the training diverged"
            problems.append(HealthProblem(code=code, message=message))
    return problems


def _judge_rank(modules: Mapping[str, LoraModule], asked: int) -> list[HealthProblem]:
    ranks = sorted({module.rank for module in modules.values()})
    if ranks == [asked]:
        return []
    message = f"rank {asked} was asked for and {', '.join(map(str, ranks))} is there"
    return [HealthProblem(code=HealthCode.RANK, message=message)]


def _judge_modules(modules: Mapping[str, LoraModule], asked: str | Sequence[str]) -> list[HealthProblem]:
    problems = []
    names = [asked] if isinstance(asked, str) else list(asked)
    # Name by name: each that chose nothing is one that the user meant to train.
    missing = [name for name in names if not any(map(matcher(name if isinstance(asked, str) else [name]), modules))]
    if missing:
        message = f"nothing was trained for {', '.join(missing)}; the nodes pass over what the UNet does not have"
        problems.append(HealthProblem(code=HealthCode.MODULES_MISSING, message=message))
    chosen = matcher(asked)
    extra = sorted({module.target for module in modules.values() if not chosen(module.name)})
    if extra:
        message = f"{', '.join(extra)} was trained and not asked for"
        problems.append(HealthProblem(code=HealthCode.MODULES_EXTRA, message=message))
    return problems


def _judge_family(modules: Mapping[str, LoraModule], model: str | None) -> list[HealthProblem]:
    found, asked = family_of(modules.values()), family_named(model) if model else None
    if found is None or asked in (None, found):
        return []
    message = f"its widths are those of {FAMILY_TITLES[found]}, and {model} is {FAMILY_TITLES[asked]}"
    return [HealthProblem(code=HealthCode.FAMILY, message=message)]


def _judge_steps(steps: Steps, *, asked: int | None) -> list[HealthProblem]:
    problems = []
    # More is no fault: a node may make further steps after the last that it was asked for.
    if steps.made is not None and asked is not None and steps.made < asked:
        message = f"{steps.made} of {asked} steps were made"
        problems.append(HealthProblem(code=HealthCode.STEPS_SHORT, message=message))
    if steps.made is None and not steps.is_bare:
        message = "the archive does not say how many steps were made"
        problems.append(HealthProblem(code=HealthCode.STEPS_UNKNOWN, message=message))
    if not steps.finished and not steps.is_bare:
        message = "the node did not mark the training as finished: this is the checkpoint of a round in between"
        problems.append(HealthProblem(code=HealthCode.UNFINISHED, message=message))
    return problems
