"""Rules about what is trained, and what that costs: ``CX2xx`` and ``CX4xx``."""

from collections.abc import Iterator

from crynux_async.training.advice.case import Case, in_words
from crynux_async.training.advice.codes import Advice, advise
from crynux_async.training.base_models import base_model
from crynux_async.training.schedules import POLYNOMIAL_END, Schedule
from crynux_async.training.simulation import MAX_ROUNDS, Round, archive_bytes
from crynux_async.wording import counted

FEW_STEPS = 50
"""Optimizer steps below which a LoRA has hardly learned anything."""

SECONDS_PER_IMAGE = 0.3
"""What an RTX 2080 Ti takes at 512 pixels: 15,000 steps of 4 images in 5 hours.

Source: diffusers docs/source/en/training/lora.md.
"""

FASTEST = 10.0
"""How many times as fast as an RTX 2080 Ti any node may be: no card of today is."""

LEAST_SECONDS = 10.0
"""What a round takes besides training on any node: loading the model, rendering, uploading."""

UPLOAD_BYTES = 32 * 1024 * 1024
"""What the relay's configuration template takes in one request."""

LONG_TIMEOUT = 7200
"""Seconds; the bridge's own default."""

HIGHEST_RATE = 5e-3
"""Learning rate of AdamW above which a LoRA is likely to drown its base model, or to diverge.

Source: thirty steps on a small UNet, tests/archive/test_strength_real_training.py: at 1e-3 the update is a twentieth of
the layers, at 1e-2 half of them, at 1e-1 more than ten times as large.
"""

LOWEST_RATE = 5e-6
"""Learning rate of AdamW below which thousands of steps leave nothing that can be seen; from the same runs."""

# Six rounds on the bridge.
_MANY_ENDLESS = 0.05
_MEASURED_SIDE = 512


def judge_rounds(case: Case) -> Iterator[Advice]:
    """Judge the chain of rounds: only the last one's weights are in the result."""
    known = case.simulation
    if known.most_rounds == 1:
        return
    field = "num_train_epochs" if case.config.num_train_steps is None else "num_train_steps"
    lost = "A round starts from untrained weights: the training code never reads those of the round before."
    if not case.service.takes_rounds:
        text = f"More than one round may be needed, and here a job is one round, paid once. {lost}"
        yield advise("CX201", field, text, severity="error")
        return
    final = known.final_round
    if final is None:
        number = "several rounds" if known.most_rounds is None else f"up to {counted(known.most_rounds, 'round')}"
        if len(known.rounds) == MAX_ROUNDS:
            number = f"more than {counted(MAX_ROUNDS, 'round')}"
        yield advise("CX201", field, f"The job takes {number}, and the result has what the last one trained. {lost}")
        return
    text = (
        f"The job takes {len(known.rounds)} rounds, and the result has what the last one trained: "
        f"{final.steps:,} of {counted(final.last_step, 'step')}{_rates(known.schedule, final)}. {lost}"
    )
    yield advise("CX201", field, text)
    # Rounds are of one length but for the last, which trains the rest: few expect that the rest is all they get.
    if final.steps < FEW_STEPS or 2 * final.steps < max(item.steps for item in known.rounds):
        text = f"Round {final.number}, the last, trains only {counted(final.steps, 'step')}, and they are the result."
        yield advise("CX202", field, text)
    yield from _judge_excess(case, field)


def _rates(schedule: Schedule | None, final: Round) -> str:
    if schedule is None:
        return ""
    part = schedule.mean(final.first_step, final.last_step) / schedule.peak
    return f", at {part:.0%} of the peak learning rate on average"


def _judge_excess(case: Case, field: str) -> Iterator[Advice]:
    # The worst one stands for all: what one advice says must fit into a line.
    longest = max(case.simulation.rounds, key=lambda item: item.steps - item.asked_steps)
    if longest.steps > longest.asked_steps:
        text = (
            f"Round {longest.number} runs {counted(longest.steps, 'step')}, not {longest.asked_steps:,}: after them, "
            "every epoch that remains of the job still runs one micro-batch. All of it must fit into its timeout."
        )
        yield advise("CX203", field, text)


def judge_length(case: Case) -> Iterator[Advice]:
    """Judge how much is trained."""
    known, config = case.simulation, case.config
    if known.steps is None and case.images is None:
        text = "How many steps and rounds there are depends on the number of images, which is not known here."
        yield advise("CX205", None, text)
    # Where the only step changes nothing at all, that is said by CX209.
    if known.steps is not None and known.steps < FEW_STEPS and not _is_untrained(case):
        yield advise("CX204", None, f"The job has only {counted(known.steps, 'optimizer step')}.")
    at_once = config.batch_size * config.gradient_accumulation_steps
    if case.images is not None and at_once > case.images:
        text = (
            f"A step is meant to see {at_once:,} images, and the data set has {case.images:,}: an epoch is one step, "
            f"with {case.images:,}."
        )
        yield advise("CX210", "batch_size", text)


def judge_learning_rate(case: Case) -> Iterator[Advice]:
    """Judge the learning rate over the steps."""
    yield from _judge_peak(case.simulation.peak)
    if case.config.lr_scheduler == "cosine_with_restarts":
        text = "The number of cycles cannot be given, and is one: the rate falls once, as with cosine."
        yield advise("CX212", "lr_scheduler", text)
    schedule = case.simulation.schedule
    is_polynomial = case.config.lr_scheduler == "polynomial"
    peak = case.simulation.peak
    if is_polynomial and peak <= POLYNOMIAL_END:
        text = (
            f"The rate falls to {POLYNOMIAL_END:g}, so it cannot begin at {peak:g}. Training stops before the first "
            "step."
        )
        yield advise("CX207", "learning_rate", text)
    # "constant" has no warm-up, however long a one was asked for.
    elif schedule is None or case.config.lr_scheduler == "constant":
        return
    elif is_polynomial and schedule.warmup_steps == schedule.total_steps:
        text = (
            "The scheduler divides by the number of steps after the warm-up, which is 0: step "
            f"{schedule.total_steps:,} fails."
        )
        yield advise("CX208", "lr_warmup_steps", text)
    elif _is_untrained(case):
        text = "The only step is the first of the warm-up, which has learning rate 0."
        yield advise("CX209", "lr_scheduler", text)
    elif schedule.warmup_steps >= schedule.total_steps:
        text = (
            f"The warm-up of {counted(schedule.warmup_steps, 'step')} is as long as the whole training "
            f"({schedule.total_steps:,}): the rate rises from 0 to {schedule.at(schedule.total_steps):.3g} of "
            f"{schedule.peak:g}, and {case.config.lr_scheduler} never begins."
        )
        yield advise("CX206", "lr_warmup_steps", text)


def _judge_peak(peak: float) -> Iterator[Advice]:
    if LOWEST_RATE <= peak <= HIGHEST_RATE:
        return
    effect = "the LoRA drowns the base model or diverges" if peak > HIGHEST_RATE else "hardly anything is learned"
    text = f"AdamW moves each weight by up to about the learning rate in every step: at {peak:g} {effect}."
    yield advise("CX211", "learning_rate", text)


def _is_untrained(case: Case) -> bool:
    # Warm-ups count from step 0, whose rate is 0. Source: diffusers optimization.py, current_step / num_warmup_steps.
    final, schedule = case.simulation.final_round, case.simulation.schedule
    return final is not None and schedule is not None and final.steps == 1 and schedule.at(final.first_step) == 0


def judge_cost(case: Case) -> Iterator[Advice]:
    """State the cost, and the chance that it is wasted."""
    most, cost = case.simulation.most_rounds, case.simulation.cost()
    if most is None or cost is None:
        text = f"Each round costs {case.service.fee_cnx:g} CNX; how many there are depends on the data set."
    else:
        up_to = "" if case.simulation.is_complete or most == 1 else "at most "
        # Fifteen digits: three rounds of 0.1 CNX are not 0.30000000000000004.
        fees = f"{counted(most, 'round')} of {case.service.fee_cnx:g} CNX: {cost:,.15g} CNX"
        text = f"{up_to}{fees}, from {case.service.account}."
    yield advise("CX401", None, f"{text[0].upper()}{text[1:]} Failed rounds are refunded.")
    share = case.service.endless_share
    if most is not None and share > 0:
        chance = 1 - (1 - share) ** most
        one_in = f"One round in {1 / share:.0f}"
        text = f"{one_in} is checked in a group of three and never ends: {chance:.0%} of such jobs hang."
        yield advise("CX406", None, text, severity="warning" if chance >= _MANY_ENDLESS else None)


def judge_time(case: Case) -> Iterator[Advice]:
    """State how long it can take, and judge whether the timeout fits."""
    known = case.simulation
    longest = known.longest_duration
    good = "" if longest is None else f"If all goes well it ends within {in_words(longest)}. "
    silence = (
        "A mistake in the arguments or the data set is not reported: "
        f"{counted(case.service.failed_rounds, 'round')} stay silent until their timeouts, "
        f"up to {in_words(known.longest_failure)} in all, and no reason is given."
    )
    yield advise("CX402", "timeout", good + silence)
    if known.timeout > LONG_TIMEOUT:
        text = (
            f"A job that cannot work fails only after up to {in_words(known.longest_failure)}; and the longer the "
            "timeout, the later the network takes a job."
        )
        yield advise("CX404", "timeout", text)
    yield from _judge_speed(case, _most_images(case))


def _judge_speed(case: Case, images: int) -> Iterator[Advice]:
    timeout = case.simulation.timeout
    # Time goes with the pixels. Attention grows faster than they do: large images are judged kindly.
    needed = images * SECONDS_PER_IMAGE * (case.config.resolution / _MEASURED_SIDE) ** 2
    least = LEAST_SECONDS + needed / FASTEST
    if least > timeout:
        training = f"training on {counted(images, 'image')}" if images else "training"
        text = (
            f"No node is done with a round in {in_words(timeout)}: a card ten times as fast as an RTX 2080 Ti takes "
            f"{in_words(least)} for loading the model, {training}, rendering and uploading. A round that is late is "
            "lost, every time."
        )
        yield advise("CX403", "timeout", text, severity="error")
    elif LEAST_SECONDS + needed > timeout:
        text = (
            f"{counted(images, 'image')} in one round leave {timeout / images:.2g} s for each, download and upload "
            f"included; an RTX 2080 Ti takes about {in_words(needed)} for training alone. A round that is late is lost."
        )
        yield advise("CX403", "timeout", text)


def _most_images(case: Case) -> int:
    """Return the images of the longest round; at least those of its full steps when the data set is not known."""
    at_once = case.config.batch_size * case.config.gradient_accumulation_steps
    rounds = case.simulation.rounds
    return max((item.steps * at_once if item.images is None else item.images for item in rounds), default=0)


def judge_size(case: Case) -> Iterator[Advice]:
    """Judge the size of the archive."""
    size = archive_bytes(case.config)
    # Where the name does not tell the family, the larger one is reckoned with, too.
    largest = archive_bytes(case.config, base_model(case.config.model_name).family or "2.x")
    if size is None or largest is None or max(size, largest) <= UPLOAD_BYTES:
        return
    about = f"About {size / 1e6:,.1f} MB"
    if largest > size:
        about += f" ({largest / 1e6:,.1f} MB on Stable Diffusion 2.x)"
    text = (
        f"{about} with the optimizer's state, and the relay may take no more than {UPLOAD_BYTES / 1e6:.1f} MB: then no "
        "round can deliver what it trained."
    )
    yield advise("CX405", "rank", text)
