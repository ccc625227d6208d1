"""What a job will do, step by step: rounds, optimizer steps, images, learning rates, and what that costs.

Theory of operation: a job is a chain of rounds, each a run of the training code on some node. A round goes over the
data set epoch by epoch. After ``num_train_steps`` optimizer steps it leaves only the inner loop, so each epoch that
remains of the job still runs one micro-batch, and with it a step whenever gradients are due: a round is longer than
asked for unless its limit falls into the job's last epoch. The next round begins at the start of an epoch, with the
optimizer's and the scheduler's state of the last one, but with untrained LoRA weights: the training code never reads
the old ones back.

Nothing here trains, waits or reads a clock; a round is worked out in closed form.

Source: stable-diffusion-task finetune_lora.py (the training loop); crynux-bridge tasks/process_sd_ft_tasks.go (the
chain of rounds).
"""

from collections.abc import Iterator

import attrs

from crynux_async.training.base_models import Family, base_model
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.effective import used_learning_rate
from crynux_async.training.lengths import lengths, most_rounds, require_images, steps_per_epoch
from crynux_async.training.schedules import Schedule, schedule_of
from crynux_async.training.service import BRIDGE_FACTS, ServiceFacts
from crynux_async.training.unet_modules import select
from crynux_async.values import Value

MAX_ROUNDS = 1000
"""Rounds that are worked out; a job of more is known up to there."""

_OPTIMIZER_COPIES = 2  # AdamW keeps two moments of every weight
_BYTES_PER_LAYER = 1917  # names, shapes and bookkeeping of a layer's tensors in weights and optimizer state
_BYTES_BESIDES = 16_026  # random states and scheduler
_COMPRESSION = 0.92  # of an archive with a LoRA of rank 4 for the attention of Stable Diffusion 1.5


@attrs.frozen(kw_only=True)
class Round(Value):
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
class Simulation(Value):
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
        service: Who runs it.
    """

    images: int | None
    steps_per_epoch: int | None
    rounds: tuple[Round, ...]
    most_rounds: int | None
    is_complete: bool
    peak: float
    schedule: Schedule | None
    timeout: int
    service: ServiceFacts

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

    def cost(self, fee_cnx: float | None = None) -> float | None:
        """Return the fees of all rounds in CNX, at most; None when the number of rounds depends on the data set.

        Rounds that fail are refunded in full.

        Args:
            fee_cnx: The fee of a round; None for the service's own.
        """
        fee = self.service.fee_cnx if fee_cnx is None else fee_cnx
        return None if self.most_rounds is None else self.most_rounds * fee

    @property
    def longest_duration(self) -> float | None:
        """Seconds after which a job whose rounds all succeed has ended at the latest, or None."""
        return None if self.most_rounds is None else self.most_rounds * self.service.longest_round(self.timeout)

    @property
    def stall_deadline(self) -> float | None:
        """Seconds after which any job has ended at the latest, failed rounds included, or None."""
        return None if self.most_rounds is None else self.service.longest_job(self.most_rounds, self.timeout)

    @property
    def longest_failure(self) -> float:
        """Seconds after which a job that cannot work has failed at the latest: on the bridge, four silent rounds."""
        return self.service.longest_failure(self.timeout)


def simulate(config: FineTuneConfig, images: int | None = None, service: ServiceFacts = BRIDGE_FACTS) -> Simulation:
    """Work out what a job will do.

    Args:
        config: What was asked for.
        images: Images of the data set, >= 1, or None when it is not known. Without it, a job of one round that is
            measured in steps is known but for its images; of any other, only bounds are.
        service: Who runs it.

    Raises:
        UsageError: The number of images is below 1.
    """
    require_images(images)
    return simulate_sent(config.sent(service.mapping), images, service)


def simulate_sent(sent: FineTuneConfig, images: int | None, service: ServiceFacts) -> Simulation:
    """Work out what a job will do whose config is known as it is sent.

    Args:
        sent: What is sent.
        images: Images of the data set, >= 1, or None when it is not known.
        service: Who runs it.
    """
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
        service=service,
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
    per_epoch = -(-batches // accumulation)  # the last batch of an epoch always makes a step: accelerate's accumulate()
    # The loop is range(global_step // per_epoch, epochs): a round begins anew the epoch in which the last one stopped.
    epochs = -(-whole // per_epoch) - done // per_epoch
    wanted = min(part, whole - done)
    full = (wanted - 1) // per_epoch
    if full >= epochs:  # it began within an epoch, and its epochs end before its steps
        steps, micro_batches, seen = epochs * per_epoch, epochs * batches, epochs * images
    else:
        partial = min((wanted - full * per_epoch) * accumulation, batches)
        # The "break" at the limit leaves the loop over batches only: each epoch that remains runs its first batch. One
        # that is a whole epoch makes a step every time; the others do when enough of them have been gathered.
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


def archive_bytes(config: FineTuneConfig, family: Family | None = None) -> int | None:
    """Estimate the size of the archive: weights, and twice as much optimizer state.

    Args:
        config: What is sent.
        family: The base model's; None for what its name tells, and 1.x where it tells nothing.

    Returns:
        Bytes; None when ``target_modules`` selects no layer.
    """
    selection = select(config.target_modules, family or base_model(config.model_name).family or "1.x")
    if not selection.trained:
        return None
    width = 2 if config.mixed_precision == "bf16" else 4  # fp16 too keeps what is trained in float32
    weights = width * config.rank * selection.weights_per_rank
    besides = len(selection.trained) * _BYTES_PER_LAYER + _BYTES_BESIDES
    return round(_COMPRESSION * ((1 + _OPTIMIZER_COPIES) * weights + besides))


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
