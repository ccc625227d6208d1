"""How long a training is: optimizer steps, epochs and rounds, and after how many seconds it has certainly ended.

Source: stable-diffusion-task finetune_lora.py; crynux-bridge tasks/process_sd_ft_tasks.go.
"""

from crynux_async.errors import UsageError
from crynux_async.training.fields import ConfigFields
from crynux_async.training.service import BRIDGE_FACTS, ServiceFacts

_MANY_IMAGES = 10_000  # where steps and epochs are mixed, rounds depend on a number that is not known here


def require_images(images: int | None) -> None:
    """Raise when a number of images cannot be that of a data set.

    Raises:
        UsageError: It is below 1.
    """
    if images is not None and images < 1:
        raise UsageError(f"a data set has at least 1 image, not {images}", field="images")


def steps_per_epoch(config: ConfigFields, images: int) -> int:
    """Return the optimizer steps of one pass over a data set of ``images`` images, >= 1."""
    batches = -(-images // config.batch_size)
    # accelerate makes a step at the end of the data set, however few micro-batches have gathered since the last one.
    return -(-batches // config.gradient_accumulation_steps)


def lengths(config: ConfigFields, images: int | None) -> tuple[int | None, int | None]:
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


def most_rounds(config: ConfigFields, images: int | None = None) -> int | None:
    """Return how many rounds a job can have at most; 1 is exact.

    A round may train more steps than asked for, so there may be fewer.

    Args:
        config: What is sent.
        images: Images of the data set, or None when it is not known.

    Returns:
        At least 1, or None when that depends on the data set.
    """
    part, whole = lengths(config, images)
    if part is None and whole is None:  # both in epochs of the same data set, whose size then does not matter
        part, whole = config.num_train_epochs or 1, config.max_train_epochs or 1
    return -(-whole // part) if part is not None and whole is not None else None


def stall_seconds(config: ConfigFields, service: ServiceFacts = BRIDGE_FACTS) -> float:
    """Return after how many seconds a healthy job has certainly ended.

    On the bridge that is (N + 3) * (180 + 2 * timeout) for N rounds: every round may wait 180 s plus its timeout in the
    queue and then run for its timeout, and three failed rounds are repeated before the job fails.

    Args:
        config: What is sent.
        service: Who runs it.
    """
    rounds = most_rounds(config) or most_rounds(config, _MANY_IMAGES) or 1
    return service.longest_job(rounds, config.timeout)
