"""What a job will do, step by step: rounds, optimizer steps, images, learning rates, and what that costs.

Theory of operation: a job is a chain of rounds, each a run of the training code on some node. A round goes over the
data set epoch by epoch. After ``num_train_steps`` optimizer steps it leaves only the inner loop, so each epoch that
remains of the job still runs one micro-batch, and with it a step whenever gradients are due: a round is longer than
asked for unless its limit falls into the job's last epoch. The next round begins at the start of an epoch, with the
optimizer's and the scheduler's state of the last one, but with untrained LoRA weights: the training code never reads
the old ones back.

Nothing here trains, waits or reads a clock; a round is worked out in closed form.

Source: stable-diffusion-task finetune_lora.py (the training loop); diffusers optimization.py (get_scheduler);
crynux-bridge tasks/process_sd_ft_tasks.go (the chain of rounds).
"""

import math
from collections.abc import Callable, Iterator
from types import MappingProxyType

import attrs

from crynux_async.training.config import FineTuneConfig
from crynux_async.training.effective import used_learning_rate
from crynux_async.training.lengths import MAX_FAILED_ROUNDS, QUEUE_SECONDS, lengths, most_rounds, steps_per_epoch
from crynux_async.training.unet_modules import select

FEE_CNX = 15.0
"""The fee of a round in the bridge's example configuration."""

MAX_ROUNDS = 1000
"""Rounds that are worked out; a job of more is known up to there."""

POLYNOMIAL_END = 1e-7
"""Where the polynomial scheduler ends; its learning rate must begin above it."""

_OPTIMIZER_COPIES = 2
_BYTES_PER_LAYER = 1917  # names, shapes and bookkeeping of a layer's tensors in weights and optimizer state
_BYTES_BESIDES = 16_026  # random states and scheduler
_COMPRESSION = 0.92  # of an archive with a LoRA of rank 4 for the attention of Stable Diffusion 1.5
_AVERAGED = 24


@attrs.frozen(kw_only=True)
class Round:
    """One run of the training code.

    Attributes:
        number: Counted from 1.
        first_step: Its first optimizer step, counted from 1 over the whole job.
        steps: Optimizer steps that it really runs, >= 1.
        asked_steps: Optimizer steps that it was asked to run.
        micro_batches: Forward passes, or None when the data set is not known.
        images: Images that it trains on, repetitions counted, or None when the data set is not known.
    """

    number: int
    first_step: int
    steps: int
    asked_steps: int
    micro_batches: int | None = None
    images: int | None = None

    @property
    def last_step(self) -> int:
        """Its last optimizer step, which is what ``global_step.txt`` of its checkpoint says."""
        return self.first_step + self.steps - 1


@attrs.frozen(kw_only=True)
class Schedule:
    """The learning rate over the steps of a job.

    Attributes:
        scheduler: ``lr_scheduler``.
        peak: The learning rate that the optimizer gets.
        warmup_steps: Optimizer steps of the warm-up, >= 1.
        total_steps: Optimizer steps for which it is laid out, >= 1; a job may run a few more.
    """

    scheduler: str
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
        if done < self.warmup_steps:
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


def _progress(schedule: Schedule, done: int) -> float:
    return (done - schedule.warmup_steps) / max(1, schedule.total_steps - schedule.warmup_steps)


def _linear(schedule: Schedule, done: int) -> float:
    return max(0.0, (schedule.total_steps - done) / max(1, schedule.total_steps - schedule.warmup_steps))


def _cosine(schedule: Schedule, done: int) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * _progress(schedule, done))))


def _cosine_with_restarts(schedule: Schedule, done: int) -> float:
    return 0.0 if _progress(schedule, done) >= 1.0 else _cosine(schedule, done)


def _polynomial(schedule: Schedule, done: int) -> float:
    if done > schedule.total_steps:
        return POLYNOMIAL_END / schedule.peak
    if schedule.warmup_steps == schedule.total_steps:
        return math.nan
    remaining = 1 - (done - schedule.warmup_steps) / (schedule.total_steps - schedule.warmup_steps)
    return ((schedule.peak - POLYNOMIAL_END) * remaining + POLYNOMIAL_END) / schedule.peak


def _constant(_schedule: Schedule, _done: int) -> float:
    return 1.0


_FACTORS: MappingProxyType[str, Callable[[Schedule, int], float]] = MappingProxyType(
    {
        "constant_with_warmup": _constant,
        "cosine": _cosine,
        "cosine_with_restarts": _cosine_with_restarts,
        "linear": _linear,
        "polynomial": _polynomial,
    }
)


@attrs.frozen(kw_only=True)
class Simulation:
    """What a job will do.

    Attributes:
        images: Images of the data set, or None when it is not known.
        steps_per_epoch: Optimizer steps of one epoch, or None when the data set is not known.
        rounds: The rounds as far as they are known.
        most_rounds: Rounds that it can have at most, or None when that depends on the data set.
        is_complete: Whether ``rounds`` are all of them.
        peak: The learning rate that the optimizer gets.
        schedule: The learning rate over the steps, or None when their number depends on the data set.
        timeout: Seconds that one round may take on a node.
    """

    images: int | None
    steps_per_epoch: int | None
    rounds: tuple[Round, ...]
    most_rounds: int | None
    is_complete: bool
    peak: float
    schedule: Schedule | None
    timeout: int

    @property
    def steps(self) -> int | None:
        """Optimizer steps of all rounds together, or None when they are not all known."""
        return self.rounds[-1].last_step if self.is_complete else None

    @property
    def final_round(self) -> Round | None:
        """The round whose weights are the result, or None when it is not known."""
        return self.rounds[-1] if self.is_complete else None

    @property
    def images_seen(self) -> int | None:
        """Images trained on in all rounds, repetitions counted, or None when that is not known."""
        seen = [item.images for item in self.rounds if item.images is not None]
        return sum(seen) if self.is_complete and len(seen) == len(self.rounds) else None

    @property
    def final_learning_rate(self) -> float | None:
        """The learning rate of the last step, or None when that is not known."""
        return self.schedule.at(self.steps) if self.schedule and self.steps else None

    def cost(self, fee_cnx: float = FEE_CNX) -> float | None:
        """Return the fees of all rounds in CNX, at most; None when the number of rounds depends on the data set.

        Rounds that fail are refunded in full.

        Args:
            fee_cnx: The bridge's fee for a round.
        """
        return None if self.most_rounds is None else self.most_rounds * fee_cnx

    @property
    def longest_duration(self) -> float | None:
        """Seconds after which a job whose rounds all succeed has ended at the latest, or None."""
        return None if self.most_rounds is None else self.most_rounds * _longest_round(self.timeout)

    @property
    def stall_deadline(self) -> float | None:
        """Seconds after which any job has ended at the latest, three failed rounds included, or None."""
        if self.most_rounds is None:
            return None
        return (self.most_rounds + MAX_FAILED_ROUNDS - 1) * _longest_round(self.timeout)

    @property
    def longest_failure(self) -> float:
        """Seconds after which a job that cannot work has failed at the latest: four silent rounds."""
        return MAX_FAILED_ROUNDS * _longest_round(self.timeout)


def simulate(config: FineTuneConfig, images: int | None = None) -> Simulation:
    """Work out what a job will do.

    Args:
        config: What was asked for.
        images: Images of the data set, >= 1, or None when it is not known. Without it, a job of one round that is
            measured in steps is known but for its images; of any other, only bounds are.
    """
    sent = config.effective().config
    part, whole = lengths(sent, images)
    most = most_rounds(sent, images)
    rounds = tuple(_rounds(sent, images, part, whole))
    is_complete = bool(rounds) and whole is not None and rounds[-1].last_step >= whole
    return Simulation(
        images=images,
        steps_per_epoch=None if images is None else steps_per_epoch(sent, images),
        rounds=rounds,
        most_rounds=len(rounds) if is_complete else most,
        is_complete=is_complete,
        peak=used_learning_rate(sent),
        schedule=None if whole is None else schedule_of(sent, whole),
        timeout=sent.timeout,
    )


def round_after(config: FineTuneConfig, images: int, *, number: int, done: int, part: int, whole: int) -> Round:
    """Work out one round, wherever the one before it has stopped.

    Args:
        config: What is sent.
        images: Images of the data set.
        number: The round's number.
        done: Optimizer steps before it, fewer than ``whole``.
        part: Optimizer steps that were asked for.
        whole: Optimizer steps of the job.
    """
    accumulation = config.gradient_accumulation_steps
    batches = -(-images // config.batch_size)
    per_epoch = -(-batches // accumulation)
    epochs = -(-whole // per_epoch) - done // per_epoch
    wanted = min(part, whole - done)
    full = (wanted - 1) // per_epoch
    if full >= epochs:  # it began within an epoch, and its epochs end before its steps
        steps, micro_batches, seen = epochs * per_epoch, epochs * batches, epochs * images
    else:
        partial = min((wanted - full * per_epoch) * accumulation, batches)
        remaining = epochs - full - 1
        steps = wanted + (remaining if batches == 1 else remaining // accumulation)
        micro_batches = full * batches + partial + remaining
        batch = min(config.batch_size, images)
        seen = full * images + min(partial * config.batch_size, images) + remaining * batch
    return Round(
        number=number,
        first_step=done + 1,
        steps=steps,
        asked_steps=wanted,
        micro_batches=micro_batches,
        images=seen,
    )


def schedule_of(config: FineTuneConfig, total_steps: int) -> Schedule:
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


def archive_bytes(config: FineTuneConfig) -> int | None:
    """Estimate the size of the archive: weights, and twice as much optimizer state.

    Args:
        config: What is sent.

    Returns:
        Bytes, for Stable Diffusion 1.5 (2.x: 4 % more); None when ``target_modules`` selects no layer.
    """
    selection = select(config.target_modules)
    if not selection.trained:
        return None
    width = 2 if config.mixed_precision == "bf16" else 4
    weights = width * config.rank * selection.weights_per_rank
    besides = len(selection.trained) * _BYTES_PER_LAYER + _BYTES_BESIDES
    return round(_COMPRESSION * ((1 + _OPTIMIZER_COPIES) * weights + besides))


def _sampled(first: int, last: int, count: int) -> list[int]:
    if last - first < count:
        return list(range(first, last + 1))
    return [first + (last - first) * index // (count - 1) for index in range(count)]


def _longest_round(timeout: int) -> float:
    """Return the seconds in the queue and on a node after which the network gives up on a round."""
    return QUEUE_SECONDS + 2 * timeout


def _rounds(config: FineTuneConfig, images: int | None, part: int | None, whole: int | None) -> Iterator[Round]:
    """Yield the rounds, MAX_ROUNDS at most; none when they cannot be known."""
    if part is None or whole is None:
        return
    if images is None:
        if part >= whole:
            yield Round(number=1, first_step=1, steps=whole, asked_steps=whole)
        return
    done = 0
    for number in range(1, MAX_ROUNDS + 1):
        one = round_after(config, images, number=number, done=done, part=part, whole=whole)
        yield one
        done = one.last_step
        if done >= whole:
            return
