"""How long a training is: optimizer steps, epochs and rounds, and after how many seconds it has certainly ended.

Source: stable-diffusion-task finetune_lora.py; crynux-bridge tasks/process_sd_ft_tasks.go.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crynux_async.training.config import FineTuneConfig

MAX_FAILED_ROUNDS = 4
QUEUE_SECONDS = 180.0
_MANY_IMAGES = 10_000  # where steps and epochs are mixed, rounds depend on a number that is not known here


def steps_per_epoch(config: "FineTuneConfig", images: int) -> int:
    """Return the optimizer steps of one pass over a data set of ``images`` images, >= 1."""
    batches = -(-images // config.batch_size)
    return -(-batches // config.gradient_accumulation_steps)


def lengths(config: "FineTuneConfig", images: int | None) -> tuple[int | None, int | None]:
    """Return the optimizer steps of a round and of the whole job, as the training code computes them.

    Args:
        config: What is sent.
        images: Images of the data set, or None when it is not known.

    Returns:
        Both >= 1; None where epochs are asked for and ``images`` is None.
    """
    per_epoch = None if images is None else steps_per_epoch(config, images)
    part, whole = config.num_train_steps, config.max_train_steps
    if part is None and per_epoch is not None:
        part = (config.num_train_epochs or 1) * per_epoch
    if whole is None and per_epoch is not None:
        whole = (config.max_train_epochs or 1) * per_epoch
    return part, whole


def most_rounds(config: "FineTuneConfig", images: int | None = None) -> int | None:
    """Return how many rounds a job can have at most; 1 is exact.

    A round may train more steps than asked for, so there may be fewer.

    Args:
        config: What is sent.
        images: Images of the data set, or None when it is not known.

    Returns:
        At least 1, or None when that depends on the data set.
    """
    part, whole = lengths(config, images)
    if part is None and whole is None:
        part, whole = config.num_train_epochs or 1, config.max_train_epochs or 1
    return -(-whole // part) if part is not None and whole is not None else None


def stall_seconds(config: "FineTuneConfig") -> float:
    """Return after how many seconds a healthy job has certainly ended: (N + 3) * (180 + 2 * timeout) for N rounds.

    Every round may wait 180 s plus its time-out in the queue and then run for its time-out, and three failed rounds are
    repeated before the job fails. Source: crynux-bridge tasks/process_sd_ft_tasks.go; the relay's task deadlines.
    """
    rounds = most_rounds(config) or most_rounds(config, _MANY_IMAGES) or 1
    return (rounds + MAX_FAILED_ROUNDS - 1) * (QUEUE_SECONDS + 2 * config.timeout)
