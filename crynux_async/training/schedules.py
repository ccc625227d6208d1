"""Learning rates: what a scheduler makes of the peak, step by step, as diffusers works it out.

Source: diffusers optimization.py (get_scheduler).
"""

import math
from collections.abc import Callable
from types import MappingProxyType

import attrs

from crynux_async.training.effective import used_learning_rate
from crynux_async.training.fields import ConfigFields, LrScheduler
from crynux_async.values import Value

POLYNOMIAL_END = 1e-7
"""Where the polynomial scheduler ends; its learning rate must begin above it."""

_AVERAGED = 24


@attrs.frozen(kw_only=True)
class Schedule(Value):
    """The learning rate over the steps of a job.

    Attributes:
        scheduler: ``lr_scheduler``.
        peak: The learning rate that the optimizer gets.
        warmup_steps: Optimizer steps of the warm-up, >= 0.
        total_steps: Optimizer steps for which it is laid out, >= 1; a job may run a few more.
    """

    scheduler: LrScheduler
    peak: float
    warmup_steps: int
    total_steps: int

    def at(self, step: int) -> float:
        """Return the learning rate of an optimizer step.

        Args:
            step: Counted from 1 over the whole job. The first step of a warm-up has learning rate 0.

        Returns:
            The learning rate; NaN where the training code would divide by zero and stop.
        """
        return self.peak * self.factor(step - 1)

    def factor(self, done: int) -> float:
        """Return the part of ``peak`` that is used after ``done`` optimizer steps."""
        if self.scheduler == "constant":
            return 1.0
        if done < self.warmup_steps:  # LambdaLR counts from 0: the first step of a warm-up trains nothing
            return done / self.warmup_steps
        return _FACTORS[self.scheduler](self, done)

    def points(self, first: int, last: int, count: int) -> list[tuple[int, float]]:
        """Return steps from ``first`` to ``last``, both included, with their learning rates, evenly spread.

        Args:
            first: Counted from 1.
            last: At least ``first``.
            count: How many at most, >= 2.
        """
        return [(step, self.at(step)) for step in _sampled(first, last, count)]

    def mean(self, first: int, last: int) -> float:
        """Return about the mean learning rate of the steps from ``first`` to ``last``."""
        rates = [rate for _, rate in self.points(first, last, _AVERAGED)]
        return sum(rates) / len(rates)


def schedule_of(config: ConfigFields, total_steps: int) -> Schedule:
    """Return the learning rate schedule of a job.

    Args:
        config: What is sent.
        total_steps: ``max_train_steps`` as the training code uses it, >= 1.
    """
    return Schedule(
        scheduler=config.lr_scheduler,
        peak=used_learning_rate(config),
        warmup_steps=config.lr_warmup_steps,
        total_steps=total_steps,
    )


def _sampled(first: int, last: int, count: int) -> list[int]:
    if last - first < count:
        return list(range(first, last + 1))
    return [first + (last - first) * index // (count - 1) for index in range(count)]


def _progress(schedule: Schedule, done: int) -> float:
    return (done - schedule.warmup_steps) / max(1, schedule.total_steps - schedule.warmup_steps)


def _linear(schedule: Schedule, done: int) -> float:
    return max(0.0, (schedule.total_steps - done) / max(1, schedule.total_steps - schedule.warmup_steps))


def _cosine(schedule: Schedule, done: int) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * _progress(schedule, done))))


def _cosine_with_restarts(schedule: Schedule, done: int) -> float:
    # The training code asks for no number of cycles and gets one, which is the plain cosine until its end.
    return 0.0 if _progress(schedule, done) >= 1.0 else _cosine(schedule, done)


def _polynomial(schedule: Schedule, done: int) -> float:
    if done > schedule.total_steps:
        return POLYNOMIAL_END / schedule.peak
    if schedule.warmup_steps == schedule.total_steps:  # diffusers divides by their difference, and training stops
        return math.nan
    remaining = 1 - (done - schedule.warmup_steps) / (schedule.total_steps - schedule.warmup_steps)
    return ((schedule.peak - POLYNOMIAL_END) * remaining + POLYNOMIAL_END) / schedule.peak


def _constant(_schedule: Schedule, _done: int) -> float:
    return 1.0


_FACTORS: MappingProxyType[LrScheduler, Callable[[Schedule, int], float]] = MappingProxyType(
    {
        "constant_with_warmup": _constant,
        "cosine": _cosine,
        "cosine_with_restarts": _cosine_with_restarts,
        "linear": _linear,
        "polynomial": _polynomial,
    }
)
