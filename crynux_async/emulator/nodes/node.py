"""What the nodes do with a job: how many rounds it takes, how many steps each trains, and when it ends.

Nothing runs. A job is its arguments and its age in seconds of training time, and everything else follows from those.

Source: stable-diffusion-task sd_task/task_runner/finetune_task/finetune_lora.py (the training loop), crynux-bridge
tasks/process_sd_ft_tasks.go (the chain of rounds, the fourth failure).
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Literal, TypeVar

import attrs

from crynux_async.emulator.nodes.archives import archive_bytes
from crynux_async.emulator.nodes.failures import failure
from crynux_async.emulator.nodes.task_args import TargetModules, TaskArgs
from crynux_async.emulator.nodes.unet import Unet
from crynux_async.emulator.nodes.wishes import Fate, wishes
from crynux_async.emulator.nodes.zip_files import LARGEST

_T = TypeVar("_T")

Status = Literal["running", "success", "failed"]

# The bridge gives a job up when its ``failed_count`` is above three.
_FAILURES = 4
_MOST_REMEMBERED = 4096
_MOST_ROUNDS = 100_000


@attrs.frozen(kw_only=True)
class Progress:
    """How far a job is.

    Attributes:
        status: The bridge's word.
        rounds_done: Rounds that delivered a checkpoint.
        failed_count: Rounds that ended without one.
        global_step: Optimizer steps in the last checkpoint.
        ended: Seconds of training time at which the job ended, or None.
    """

    status: Status
    rounds_done: int = 0
    failed_count: int = 0
    global_step: int = 0
    ended: float | None = None


@attrs.frozen(kw_only=True)
class Round:
    """One round of a job, or one try of a round.

    Attributes:
        began: When it began, in seconds of training time after the create.
        ended: When it ended, or None while it is going on.
        fate: "trains" when it delivers a checkpoint, "fails" when the node refuses the arguments, "silent" when the
            node says nothing until the time is up.
    """

    began: float
    ended: float | None
    fate: Literal["trains", "fails", "silent"]


def round_end(*, images: int, args: TaskArgs, start: int) -> int:
    """Return the global step at which a round stops.

    A round passes over the data set, one epoch after another. After ``num_train_steps`` the loop is left, but only the
    inner one: each epoch that remains still runs one micro-batch, and with it a step whenever gradients are due.

    Args:
        images: Images in the data set, > 0.
        args: The job's arguments.
        start: The global step at the beginning, >= 0.
    """
    batches = math.ceil(images / args.batch_size)
    per_epoch = math.ceil(batches / args.gradient_accumulation_steps)
    num_steps = args.num_train_steps or args.num_train_epochs * per_epoch
    max_steps = _max_steps(images, args)
    epochs = math.ceil(max_steps / per_epoch) - start // per_epoch
    wanted = max(1, min(num_steps, max_steps - start))
    full = (wanted - 1) // per_epoch
    if full >= epochs:
        return start + max(0, epochs) * per_epoch
    remaining = epochs - full - 1
    # One batch is its loader's last, and with that accelerate makes a step whatever is still to be accumulated.
    extra = remaining if batches == 1 else remaining // args.gradient_accumulation_steps
    return start + wanted + extra


def _max_steps(images: int, args: TaskArgs) -> int:
    per_epoch = math.ceil(math.ceil(images / args.batch_size) / args.gradient_accumulation_steps)
    return args.max_train_steps or args.max_train_epochs * per_epoch


@attrs.frozen(kw_only=True)
class Rounds:
    """The rule of a job's rounds.

    Attributes:
        next_step: Takes the global step at the start of a round and returns the one at its end.
        finish: The global step from which on a checkpoint is the last.
        duration: Takes the steps of a round and returns its seconds of training time.
        timeout: Seconds after which a round is given up.
        fatal_step: The global step at which the training code stops with an error, or None.
    """

    next_step: Callable[[int], int]
    finish: int
    duration: Callable[[int], float]
    timeout: float
    fatal_step: int | None = None

    def is_lost(self, start: int, end: int) -> bool:
        """Return whether a round from ``start`` to ``end`` delivers nothing."""
        is_fatal = self.fatal_step is not None and start < self.fatal_step <= end
        return is_fatal or self.duration(end - start) > self.timeout


class Chain:
    """The rounds of one kind of job, worked out as far as somebody asked, and 100,000 at most.

    Args:
        rounds: Their rule.
    """

    __slots__ = ("_ends", "_is_lost", "_rounds", "_steps")

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._ends: list[float] = []
        self._steps: list[int] = []
        self._is_lost = False

    def at(self, age: float) -> Progress:
        """Return the progress after ``age`` seconds of training time."""
        while not self._is_known and (not self._ends or self._ends[-1] <= age):
            self._extend()
        done = bisect_right(self._ends, age)
        step = self._steps[done - 1] if done else 0
        if done < len(self._ends):
            return Progress(status="running", rounds_done=done, global_step=step)
        if self._is_lost:
            return self._failing(age)
        if step >= self._rounds.finish:
            return Progress(status="success", rounds_done=done, global_step=step, ended=self._ends[-1])
        return Progress(status="running", rounds_done=done, global_step=step)

    def tries(self, age: float) -> list[tuple[float, bool]]:
        """Return when the rounds and tries that are over after ``age`` seconds ended, and whether each delivered."""
        progress = self.at(age)
        done = [(end, True) for end in self._ends[: progress.rounds_done]]
        start = self._ends[-1] if self._ends else 0.0
        lost = range(1, progress.failed_count + 1)
        return [*done, *((start + number * self._rounds.timeout, False) for number in lost)]

    @property
    def _is_known(self) -> bool:
        is_last = bool(self._steps) and self._steps[-1] >= self._rounds.finish
        # Each round of the real network takes minutes: so many are never reached, and nobody is to wait for them.
        return is_last or self._is_lost or len(self._ends) >= _MOST_ROUNDS

    def _extend(self) -> None:
        start = self._steps[-1] if self._steps else 0
        end = self._rounds.next_step(start)
        if self._rounds.is_lost(start, end):
            self._is_lost = True
            return
        self._ends.append((self._ends[-1] if self._ends else 0.0) + self._rounds.duration(end - start))
        self._steps.append(end)

    def _failing(self, age: float) -> Progress:
        """Return the progress of a job whose next round gives nothing, however often it is tried."""
        start, step = (self._ends[-1], self._steps[-1]) if self._ends else (0.0, 0)
        failing = _failing(age - start, self._rounds.timeout)
        ended = None if failing.ended is None else start + failing.ended
        return attrs.evolve(failing, rounds_done=len(self._ends), global_step=step, ended=ended)


@attrs.frozen(kw_only=True)
class Course:
    """What is going to happen to one job.

    Attributes:
        fate: The kind of course.
        round_duration: Seconds of training time of a round, unless the chain tells.
        round_steps: Steps of a round of a job that never finishes.
        chain: The rounds of a job that trains.
    """

    fate: Fate
    round_duration: float = 0.0
    round_steps: int = 0
    chain: Chain | None = None

    def at(self, age: float) -> Progress:
        """Return the progress after ``age`` seconds of training time, >= 0."""
        if self.chain is not None:
            return self.chain.at(age)
        if self.fate in ("fails", "silent"):
            return _failing(age, self.round_duration)
        rounds = int(age // self.round_duration) if self.fate == "never_finishes" else 0
        return Progress(status="running", rounds_done=rounds, global_step=rounds * self.round_steps)

    def rounds(self, age: float) -> list[Round]:
        """Return the rounds and tries that have begun after ``age`` seconds of training time, in order."""
        tries = self._tries(age)
        begins = [0.0, *(ended for ended, _ in tries)]
        over = [
            Round(began=began, ended=ended, fate="trains" if delivers else self._lost_fate)
            for began, (ended, delivers) in zip(begins, tries, strict=False)
        ]
        if self.at(age).status != "running":
            return over
        fate = self._lost_fate if self.fate in ("fails", "silent") else "trains"
        return [*over, Round(began=begins[-1], ended=None, fate=fate)]

    @property
    def _lost_fate(self) -> Literal["fails", "silent"]:
        return "fails" if self.fate == "fails" else "silent"

    def _tries(self, age: float) -> list[tuple[float, bool]]:
        if self.chain is not None:
            return self.chain.tries(age)
        progress = self.at(age)
        count = progress.rounds_done + progress.failed_count
        return [(self.round_duration * number, not progress.failed_count) for number in range(1, count + 1)]


@attrs.define(eq=False, kw_only=True)
class Network:
    """The nodes, all alike.

    Attributes:
        images: Images in every data set, > 0.
        round_overhead: Seconds of training time that a round takes besides its steps, >= 0.
        seconds_per_step: Seconds of training time of one optimizer step, >= 0.
        unet: The model that is trained.
        largest_archive: Bytes of the largest archive that a node can deliver, before it is packed.
    """

    images: int
    round_overhead: float
    seconds_per_step: float
    unet: Unet
    largest_archive: int = LARGEST
    _can_deliver: dict[tuple[object, ...], bool] = attrs.field(factory=dict, init=False, repr=False)
    _courses: dict[tuple[object, ...], Course] = attrs.field(factory=dict, init=False, repr=False)

    async def learn(self, target_modules: TargetModules) -> None:
        """Find out what ``target_modules`` selects without holding anybody up, before ``course`` needs it."""
        await self.unet.learn(target_modules)

    def course(self, args: TaskArgs) -> Course:
        """Return what is going to happen to a job; equal for jobs that differ in what does not matter to it."""
        fatal_step = _fatal_step(self.images, args)
        fate = self._fate(args, fatal_step)
        numbers = (args.batch_size, args.gradient_accumulation_steps, args.num_train_epochs, args.num_train_steps)
        key = (fate, fatal_step, *numbers, args.max_train_epochs, args.max_train_steps, args.timeout)
        return _remembered(self._courses, key, lambda: self._plan(fate, args, fatal_step))

    def _fate(self, args: TaskArgs, fatal_step: int | None) -> Fate:
        asked = wishes(args.model_name)
        if asked.fate != "trains":
            return asked.fate
        found = failure(args, asked.model_name)
        if found == "refused":
            return "fails"
        if found == "silent" or not self._delivers(args, asked.extra_mebibytes):
            return "silent"
        is_fatal = fatal_step is not None and round_end(images=self.images, args=args, start=0) >= fatal_step
        return "silent" if is_fatal else "trains"

    def _delivers(self, args: TaskArgs, extra_mebibytes: int) -> bool:
        """Return whether there is something to train, and the node can upload what comes of it."""
        key = (args.target_modules, args.rank, args.mixed_precision, extra_mebibytes)

        def find_out() -> bool:
            modules = self.unet.targeted(args.target_modules)
            return bool(modules) and archive_bytes(args, modules) <= self.largest_archive

        return _remembered(self._can_deliver, key, find_out)

    def _plan(self, fate: Fate, args: TaskArgs, fatal_step: int | None) -> Course:
        match fate:
            case "trains":
                return Course(fate=fate, chain=self._chain(args, fatal_step))
            case "fails":
                return Course(fate=fate, round_duration=self.round_overhead)
            case "silent":
                return Course(fate=fate, round_duration=float(args.timeout))
        steps = round_end(images=self.images, args=args, start=0)
        # Rounds without end must have a duration.
        return Course(fate=fate, round_duration=max(1.0, self._duration(steps)), round_steps=steps)

    def _chain(self, args: TaskArgs, fatal_step: int | None) -> Chain:
        return Chain(
            Rounds(
                next_step=lambda start: round_end(images=self.images, args=args, start=start),
                finish=_max_steps(self.images, args),
                duration=self._duration,
                timeout=float(args.timeout),
                fatal_step=fatal_step,
            )
        )

    def _duration(self, steps: int) -> float:
        return self.round_overhead + steps * self.seconds_per_step


def _remembered(known: dict[tuple[object, ...], _T], key: tuple[object, ...], find_out: Callable[[], _T]) -> _T:
    """Return what is known under a key, or find it out; what is remembered has a bound."""
    if key not in known:
        if len(known) >= _MOST_REMEMBERED:
            known.clear()
        known[key] = find_out()
    return known[key]


def _fatal_step(images: int, args: TaskArgs) -> int | None:
    """Return the step after which the polynomial scheduler divides by the steps behind its warm-up: there are none."""
    total = _max_steps(images, args)
    return total if args.lr_scheduler == "polynomial" and args.lr_warmup_steps == total else None


def _failing(age: float, duration: float) -> Progress:
    ended = _FAILURES * duration
    if age >= ended:
        return Progress(status="failed", failed_count=_FAILURES, ended=ended)
    return Progress(status="running", failed_count=int(age // duration))
